"""Train with TRL: SFTTrainer, its own collator for images, and the CAL loss.

    python examples/trainer/trl_sft.py MODEL train.json --images images --steps 100

Prompts and completions come apart, so that only answers are learnt: of "messages", TRL's collator labels every token, the
image's placeholders too, which CALSFTTrainer takes out again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, Image, List, Value
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig

import cal_bench.trainer_plugin as cal

TURNS = List({"role": Value("string"), "content": Value("string")})


def turn(said: dict[str, str]) -> dict[str, str]:
    """A turn as TRL takes it, which puts the image's place in itself."""
    role = "user" if said["from"] == "human" else "assistant"
    return {"role": role, "content": said["value"].replace("<image>", "").strip()}


def row(record: dict[str, Any], images: Path) -> dict[str, Any]:
    """The first exchange of a record in LLaVA's format, as TRL takes it."""
    asked, answered = record["conversations"][:2]
    pictures = [str(images / record["image"])] if "image" in record else []
    return {"prompt": [turn(asked)], "completion": [turn(answered)], "images": pictures}


parser = argparse.ArgumentParser(description="Train a vision-language model with CAL under TRL's SFTTrainer.")
parser.add_argument("model")
parser.add_argument("data", type=Path)
parser.add_argument("--images", type=Path, required=True, help="the folder that the data's image names start from")
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--out", type=Path, default=Path("cal_model"))
arguments = parser.parse_args()

rows = [row(record, arguments.images) for record in json.loads(arguments.data.read_text(encoding="utf-8"))]
trainer = cal.CALSFTTrainer(
    AutoModelForImageTextToText.from_pretrained(arguments.model),
    SFTConfig(
        output_dir=str(arguments.out),
        max_steps=arguments.steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=2e-5,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        bf16=torch.cuda.is_available(),
        max_length=None,  # a cut could fall into an image
    ),
    train_dataset=Dataset.from_list(rows, features=Features({"prompt": TURNS, "completion": TURNS, "images": List(Image())})),
    processing_class=AutoProcessor.from_pretrained(arguments.model),
    cal=cal.CALConfig(),
)
trainer.train()
trainer.save_model(str(arguments.out))
print(f"The model is in {arguments.out}.")
