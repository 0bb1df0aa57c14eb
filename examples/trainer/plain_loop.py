"""Train with a plain PyTorch loop and gradient accumulation.

python examples/trainer/plain_loop.py MODEL train.json --images images --steps 100
"""

import argparse
from itertools import cycle, islice
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForImageTextToText, AutoProcessor

import cal_bench.trainer_plugin as cal

ACCUMULATION = 2

parser = argparse.ArgumentParser(description="Train a vision-language model with CAL in a plain loop.")
parser.add_argument("model")
parser.add_argument("data", type=Path)
parser.add_argument("--images", type=Path, required=True, help="the folder that the data's image names start from")
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--out", type=Path, default=Path("cal_model"))
arguments = parser.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
processor = AutoProcessor.from_pretrained(arguments.model)
model = AutoModelForImageTextToText.from_pretrained(arguments.model).to(device).train()
handle = cal.apply(model, cal.CALConfig())

dataset = cal.ConversationDataset([arguments.data], arguments.images, cal.DataOptions("v1"), processor)
loader = DataLoader(dataset, batch_size=2, shuffle=True, collate_fn=cal.Collator.of(processor.tokenizer))
batches = cycle(loader)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
for step in range(1, arguments.steps + 1):
    parts = [{name: value.to(device) for name, value in batch.items()} for batch in islice(batches, ACCUMULATION)]
    # Every label token of the accumulated batch counts once. The first token of a row is never predicted.
    labels = sum((batch["labels"][:, 1:] != -100).sum() for batch in parts)
    losses = []
    for batch in parts:
        loss = model(**batch, num_items_in_batch=labels).loss
        loss.backward()
        losses.append(loss.detach())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: loss {sum(losses).item():.4f}, {handle.stats.means(handle.stats.take())}")

handle.remove()
model.save_pretrained(arguments.out)
processor.save_pretrained(arguments.out)
print(f"The model is in {arguments.out}.")
