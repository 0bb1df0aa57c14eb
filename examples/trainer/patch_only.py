"""Train with the unmodified Trainer: one line before it makes the model's loss CAL's. The same line serves other libraries.

python examples/trainer/patch_only.py MODEL train.json --images images --steps 100
"""

import argparse
from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments

import cal_bench.trainer_plugin as cal

parser = argparse.ArgumentParser(description="Train a vision-language model with CAL under the unmodified Trainer.")
parser.add_argument("model")
parser.add_argument("data", type=Path)
parser.add_argument("--images", type=Path, required=True, help="the folder that the data's image names start from")
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--out", type=Path, default=Path("cal_model"))
arguments = parser.parse_args()

processor = AutoProcessor.from_pretrained(arguments.model)
model = AutoModelForImageTextToText.from_pretrained(arguments.model)
handle = cal.apply(model, cal.CALConfig())
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir=str(arguments.out),
        max_steps=arguments.steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=2e-5,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
    ),
    train_dataset=cal.ConversationDataset([arguments.data], arguments.images, cal.DataOptions("v1"), processor),
    data_collator=cal.Collator.of(processor.tokenizer),
)
trainer.train()
print("Means over all label tokens of image-bearing samples:", handle.stats.means(handle.stats.take()))
handle.remove()
trainer.save_model(str(arguments.out))
processor.save_pretrained(arguments.out)
print(f"The model is in {arguments.out}.")
