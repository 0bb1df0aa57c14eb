"""Train LoRA adapters through PEFT with CALTrainer.

    python examples/trainer/lora.py MODEL train.json --images images --steps 100

lora_dropout is 0: with more, the passes with and without the image draw different masks, and part of the weights is noise.
"""

import argparse
from pathlib import Path

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainingArguments

import cal_bench.trainer_plugin as cal

parser = argparse.ArgumentParser(description="Train LoRA adapters of a vision-language model with CAL.")
parser.add_argument("model")
parser.add_argument("data", type=Path)
parser.add_argument("--images", type=Path, required=True, help="the folder that the data's image names start from")
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--out", type=Path, default=Path("cal_adapter"))
arguments = parser.parse_args()

processor = AutoProcessor.from_pretrained(arguments.model)
model = AutoModelForImageTextToText.from_pretrained(arguments.model)
adapters = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj")
trainer = cal.CALTrainer(
    model=get_peft_model(model, adapters),
    args=TrainingArguments(
        output_dir=str(arguments.out),
        max_steps=arguments.steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=2e-4,
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
print(f"The adapter is in {arguments.out}.")
