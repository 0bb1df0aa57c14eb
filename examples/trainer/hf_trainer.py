"""Train with CALTrainer: transformers' Trainer, the CAL loss, and a log of what the weights did.

    python examples/trainer/hf_trainer.py MODEL train.json --images images --steps 100

MODEL is a folder (or a name on the hub) with model and processor; train.json is in LLaVA's format.
"""

import argparse
from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor, TrainingArguments

import cal_bench.trainer_plugin as cal

parser = argparse.ArgumentParser(description="Train a vision-language model with CALTrainer.")
parser.add_argument("model")
parser.add_argument("data", type=Path)
parser.add_argument("--images", type=Path, required=True, help="the folder that the data's image names start from")
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--out", type=Path, default=Path("cal_model"))
arguments = parser.parse_args()

processor = AutoProcessor.from_pretrained(arguments.model)
trainer = cal.CALTrainer(
    model=AutoModelForImageTextToText.from_pretrained(arguments.model),
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
    cal=cal.CALConfig(),
)
trainer.train()
trainer.save_model(str(arguments.out))
processor.save_pretrained(arguments.out)
print(f"The model is in {arguments.out}.")
