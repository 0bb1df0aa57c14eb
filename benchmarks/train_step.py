"""What CAL adds to a training step: seconds, FLOPs and peak memory of five ways to take one, as ratios to the stock step.

    python benchmarks/train_step.py                                     # head share as in a 7B model, on a CPU
    python benchmarks/train_step.py --vocab 5500 32000
    python benchmarks/train_step.py --ragged --batch 8                  # texts of many lengths, padded
    python benchmarks/train_step.py --hidden 4096 --layers 32 --vocab 32064 --dtype bfloat16 --device cuda --checkpointing

A step is forward and backward of a LLaVA-1.5 with random weights and a frozen vision tower, without the optimizer, which is the
same for all. The five take turns within one run, so that only ratios need be believed on a shared machine:

stock       the model's own loss, as transformers' Trainer calls it
authors     the released method: the second pass hides the image by the attention mask; logits of every position, twice
cal         cal.apply
cal packed  the same with pack=True: the training pass spends nothing on padding either
label-only  ours without the second pass: cross-entropy of label rows, all weights equal

Peak memory is that of one process for each way, above the loaded model.
"""

import argparse
import functools
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from cal_bench.trainer_plugin import CALConfig, apply
from cal_bench.trainer_plugin.contrast import recorded
from cal_bench.trainer_plugin.linear_loss import linear_cross_entropy
from cal_bench.trainer_plugin.weights import token_weights

IGNORED = -100
Batch = dict[str, Tensor]
Step = Callable[[Any, Batch], Tensor]


def new_model(shape: argparse.Namespace, vocab: int) -> Any:
    side = round(shape.image_tokens**0.5)
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, image_size=14 * side, patch_size=14
    )
    text = LlamaConfig(
        hidden_size=shape.hidden, intermediate_size=shape.hidden * 11 // 4, num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 64, vocab_size=vocab, tie_word_embeddings=False,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=vocab - 1, vision_feature_layer=-2)
    with torch.device(shape.device):
        model = LlavaForConditionalGeneration(config).to(getattr(torch, shape.dtype)).train()
    model.model.vision_tower.requires_grad_(False)
    if shape.checkpointing:
        model.gradient_checkpointing_enable()
    return model


def text_lengths(shape: argparse.Namespace, rng: random.Random) -> list[tuple[int, int]]:
    """Text tokens and, of them, label tokens, for each row; ragged as LLaVA's mix: many short answers, some long ones."""
    if not shape.ragged:
        return [(shape.text, shape.labels)] * shape.batch
    lengths = [min(1200, max(30, int(rng.lognormvariate(4.9, 0.9)))) for _ in range(shape.batch)]
    return [(length, length // 2) for length in lengths]


def new_batch(shape: argparse.Namespace, vocab: int, seed: int) -> Batch:
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    lengths, side = text_lengths(shape, rng), 14 * round(shape.image_tokens**0.5)
    longest = shape.image_tokens + max(text for text, _ in lengths)
    ids = torch.randint(10, vocab - 1, (len(lengths), longest), generator=generator)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    ids[:, 1 : 1 + shape.image_tokens] = vocab - 1
    for row, (text, labelled) in enumerate(lengths):
        end = shape.image_tokens + text
        mask[row, :end] = 1
        labels[row, end - labelled : end] = ids[row, end - labelled : end]
    pixels = torch.randn(len(lengths), 3, side, side, generator=generator, dtype=torch.float32).to(getattr(torch, shape.dtype))
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": pixels}
    return {name: value.to(shape.device) for name, value in batch.items()}


def stock(model: Any, batch: Batch) -> Tensor:
    loss: Tensor = model(**batch).loss
    return loss


def cal(model: Any, batch: Batch, pack: bool = False) -> Tensor:
    handle = apply(model, CALConfig(pack=pack))
    try:
        return stock(model, batch)
    finally:
        handle.remove()


def label_only(model: Any, batch: Batch) -> Tensor:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    hidden, targets = model.model(**inputs, use_cache=False)[0][:, :-1], batch["labels"][:, 1:]
    rows = targets != IGNORED
    shares = torch.full((int(rows.sum()),), 1 / int(rows.sum()), device=hidden.device)
    return linear_cross_entropy(hidden[rows], model.lm_head.weight, None, targets[rows], shares)[0]


def authors(model: Any, batch: Batch) -> Tensor:
    image = batch["input_ids"] == model.config.image_token_id
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    decoder = model.get_decoder()
    with recorded(decoder) as call:
        logits = model.lm_head(model.model(**inputs)[0]).float()
    with torch.no_grad():
        hidden = decoder(inputs_embeds=call.tokens["inputs_embeds"], attention_mask=(batch["attention_mask"].bool() & ~image).long())[0]
        blind = model.lm_head(hidden).float()
    targets = batch["labels"][:, 1:]
    labelled = targets != IGNORED
    wanted = targets.where(labelled, 0)[..., None]
    delta = (logits[:, :-1].detach().gather(2, wanted) - blind[:, :-1].gather(2, wanted))[..., 0]
    weights = token_weights(delta, labelled, CALConfig.published())
    nll = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return (weights * nll.view_as(targets)[labelled]).sum() / weights.sum()


WAYS: dict[str, Step] = {
    "stock": stock,
    "authors": authors,
    "cal": cal,
    "cal packed": functools.partial(cal, pack=True),
    "label-only": label_only,
}


def take(model: Any, batch: Batch, way: str) -> float:
    """Seconds of one step."""
    model.zero_grad(set_to_none=True)
    _wait()
    begun = time.perf_counter()
    WAYS[way](model, batch).backward()
    _wait()
    return time.perf_counter() - begun


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(shape: argparse.Namespace, vocab: int) -> dict[str, float]:
    """Median over rounds; within a round every way takes the same batch, in turns."""
    model = new_model(shape, vocab)
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(shape.rounds + 1):
        batch = new_batch(shape, vocab, number)
        order = list(WAYS)
        random.Random(number).shuffle(order)
        for way in order:
            taken[way].append(take(model, batch, way))
    return {way: statistics.median(times[1:]) for way, times in taken.items()}  # the first round warms up


def flops(shape: argparse.Namespace, vocab: int) -> dict[str, int]:
    """Of the matrix products, as counted while they run."""
    model, batch = new_model(shape, vocab), new_batch(shape, vocab, 0)
    found = {}
    for way in WAYS:
        with FlopCounterMode(display=False) as counter:
            take(model, batch, way)
        found[way] = counter.get_total_flops()
    return found


def peak(shape: argparse.Namespace, vocab: int, way: str) -> float:
    """GiB of a few steps above what the loaded model takes; to be run in a process of its own."""
    model = new_model(shape, vocab)
    if shape.device == "cuda":
        before = torch.cuda.memory_allocated()
        take(model, new_batch(shape, vocab, 0), way)
        return (torch.cuda.max_memory_allocated() - before) / 2**30
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark so far: loading took more than a step may
    before = _highest_mark()
    for number in range(2):
        take(model, new_batch(shape, vocab, number), way)
    return (_highest_mark() - before) / 2**20


def _highest_mark() -> int:
    """Most KiB that this process has held (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def peaks(vocab: int) -> dict[str, float]:
    found = {}
    for way in WAYS:
        command = [sys.executable, *sys.argv, "--vocab", str(vocab), "--peak-of", way]
        found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, nargs="+", default=[1000], help="vocabulary sizes (default 1000)")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--image-tokens", type=int, default=576, help="a square number (default 576)")
    parser.add_argument("--text", type=int, default=100, help="text tokens a row (default 100)")
    parser.add_argument("--labels", type=int, default=50, help="label tokens a row (default 50)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--ragged", action="store_true", help="draw the text lengths instead")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--peak-of", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    shape = arguments()
    if shape.peak_of:
        print(json.dumps(peak(shape, shape.vocab[0], shape.peak_of)))
        return
    print("| vocabulary | way | seconds | ratio | FLOPs | ratio | peak GiB | ratio |\n|---:|---|---:|---:|---:|---:|---:|---:|")
    for vocab in shape.vocab:
        tables = seconds(shape, vocab), flops(shape, vocab), peaks(vocab)
        for way in WAYS:
            cells = [f"{table[way]:.3g} | {table[way] / table['stock'] if table['stock'] else math.nan:.3f}" for table in tables]
            print(f"| {vocab} | {way} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
