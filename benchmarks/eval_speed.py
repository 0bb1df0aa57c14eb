"""How much faster cal_bench answers than a loop over single samples, and whether it says the same.

    python benchmarks/eval_speed.py                                         # the untrained miniature LLaVA-1.5 and its world
    python benchmarks/eval_speed.py --model results/demo/arms/cal/it --data results/demo/data/bench
    python benchmarks/eval_speed.py --device cuda --dtype bfloat16 --shape llava-1.5-7b --limit 256
    python benchmarks/eval_speed.py --device cuda --dtype bfloat16 --shape llava-next-7b --limit 256

The loop is what lmms-eval's adapters for LLaVA do (`llava_hf` refuses any other batch size): process one sample, generate, decode. It
has the same weights, processor, samples and longest answers, and the two take turns benchmark by benchmark, so that only ratios need
be believed on a shared machine. `--shape` is for random weights: every answer then runs to its longest length. The limit is the rate at
which the device multiplies matrices over the operations that reading the prompts takes: no answer can be had for less.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from cal_bench.features import on_device_of
from cal_bench.inputs import Reader
from cal_bench.miniworld import WorldSizes, assemble, draw_world
from cal_bench.miniworld.base import build_tokenizer
from cal_bench.models import HFModel, cut
from cal_bench.records import Answer
from cal_bench.systems.anatomy import SYSTEMS, native_config, processor
from cal_bench.tasks import Sample, get, names, open_task

SHAPES = {"llava-1.5-7b": "llava-1.5", "llava-next-7b": "llava-next"}
VICUNA_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32064,
    "max_position_embeddings": 4096,
}  # fmt: skip
CLIP_L = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
    "projection_dim": 768,
}  # fmt: skip
WARM_UP = 4


@dataclass(frozen=True)
class Timed:
    """Answers by sample, and how long they took."""

    seconds: float
    answers: dict[int, str]


def one_by_one(model: HFModel, samples: Sequence[Sample]) -> Iterator[tuple[int, str]]:
    """Each sample by itself, from its picture to its text."""
    tokenizer = model.processor.tokenizer
    for sample in samples:
        images = sample.load_images()
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": sample.prompt}]
        text = model.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = model.processor(images=images or None, text=text, return_tensors="pt")
        tokens = model._model.generate(
            **on_device_of(model._model, inputs), do_sample=False, max_new_tokens=sample.generation.max_new_tokens, use_cache=True
        )
        written = tokens[:, inputs["input_ids"].shape[1] :]
        yield sample.id, cut(tokenizer.batch_decode(written, skip_special_tokens=True)[0], sample.generation.until)


def batched(model: HFModel, samples: Sequence[Sample]) -> Iterator[tuple[int, str]]:
    """As `cal-bench eval` does it."""
    for reply in model.answer(samples):
        assert isinstance(reply, Answer), reply
        yield reply.id, reply.text


def timed(answers: Iterator[tuple[int, str]]) -> Timed:
    begun = time.perf_counter()
    said = dict(answers)
    return Timed(time.perf_counter() - begun, said)


def compare(model: HFModel, samples: Sequence[Sample], rounds: int) -> tuple[Timed, Timed]:
    """The faster of a few turns of each."""
    turns = [(timed(one_by_one(model, samples)), timed(batched(model, samples))) for _ in range(rounds)]
    loop, ours = (min((turn[side] for turn in turns), key=lambda one: one.seconds) for side in (0, 1))
    return loop, ours


def random_checkpoint(shape: str, dtype: str, device: str, folder: Path) -> Path:
    """A folder of a system in a size of the paper, with weights that are noise."""
    from transformers import AutoModelForImageTextToText, GenerationConfig

    config, made = in_real_size(SHAPES[shape])
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype))
    # A token that no answer holds ends it: random weights must not decide how long answers are.
    model.generation_config = GenerationConfig(eos_token_id=VICUNA_7B["vocab_size"] - 1, pad_token_id=made.tokenizer.pad_token_id)
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def in_real_size(name: str) -> tuple[Any, Any]:
    """Configuration and processor of a system around a model of 7B, with the miniature's words."""
    from transformers import CLIPVisionConfig, LlamaConfig

    system, tokenizer = SYSTEMS[name], build_tokenizer()
    config = native_config(system, LlamaConfig(**VICUNA_7B), CLIPVisionConfig(**CLIP_L), None)
    config.image_token_index = tokenizer.convert_tokens_to_ids("<image>")
    return config, processor(system, config, tokenizer)


def prompt_operations(model: HFModel, samples: Sequence[Sample]) -> float:
    """Floating-point operations that towers, projector and language model spend on the prompt of a sample, on average."""
    total, whole = 0, Reader(model.processor, "every picture with its prompt")
    for sample in samples:
        inputs = on_device_of(model._model, whole.read([sample]).tensors)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model._model(**inputs, logits_to_keep=1)
        total += counter.get_total_flops()
    return total / len(samples)


def multiplied_per_second(device: str, dtype: str) -> float:
    """Floating-point operations a second in a product of large matrices, the best of ten."""
    size = 8192 if device.startswith("cuda") else 2048
    matrix = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    best = float("inf")
    for _ in range(10):
        begun = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def main() -> None:
    arguments = parsed()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as passing:
        data = arguments.data or drawn(Path(passing, "data"), arguments.limit)
        folder = checkpoint(arguments, Path(passing, "model"))
        model = HFModel(folder, arguments.batch_size, arguments.device, arguments.dtype)
        tasks = {name: open_task(get(name), data).samples(arguments.limit) for name in arguments.benchmarks or names()}
        list(model.answer(next(iter(tasks.values()))[:WARM_UP]))  # reads the weights
        report(model, tasks, arguments.rounds)
        report_limit(model, tasks)


def report(model: HFModel, tasks: dict[str, list[Sample]], rounds: int) -> None:
    threads = "" if model.device.startswith("cuda") else f", {torch.get_num_threads()} threads"
    print(f"samples/s on {model.device} in {model.dtype}{threads}, batches of {model.batch_size}, the better of {rounds} turns")
    print(f"{'benchmark':<14} {'samples':>7} {'one by one':>11} {'cal_bench':>11} {'ratio':>7}  answers that differ")
    loops, ours, different, count = 0.0, 0.0, 0, 0
    for name, samples in tasks.items():
        loop, our = compare(model, samples, rounds)
        differ = sum(loop.answers[sample.id] != our.answers[sample.id] for sample in samples)
        line(name, len(samples), loop.seconds, our.seconds, differ)
        loops, ours, different, count = loops + loop.seconds, ours + our.seconds, different + differ, count + len(samples)
    line("all", count, loops, ours, different)


def line(name: str, count: int, loop: float, ours: float, differ: int) -> None:
    print(f"{name:<14} {count:>7} {count / loop:>11.1f} {count / ours:>11.1f} {loop / ours:>6.1f}x  {differ}", flush=True)


def report_limit(model: HFModel, tasks: dict[str, list[Sample]]) -> None:
    rate = multiplied_per_second(model.device, model.dtype)
    operations = prompt_operations(model, [samples[0] for samples in tasks.values()])
    print(f"{rate / 1e9:,.0f} GFLOP/s in matrix products, {operations / 1e9:,.1f} GFLOP to a prompt")
    print(f"the arithmetic of the prompts alone allows {rate / operations:.0f} samples/s")


def drawn(folder: Path, limit: int) -> str:
    draw_world(folder, WorldSizes(pretrain=8, train=8, test=limit))
    return str(folder / "bench")


def checkpoint(arguments: argparse.Namespace, folder: Path) -> Path:
    if arguments.model:
        return Path(arguments.model)
    if arguments.shape:
        return random_checkpoint(arguments.shape, arguments.dtype, arguments.device, folder)
    assemble(folder)
    return folder


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a checkpoint (default: the miniature LLaVA-1.5, untrained)")
    parser.add_argument("--shape", choices=SHAPES, help="random weights in this size instead")
    parser.add_argument("--data", help="folder of parquet files (default: a miniature world)")
    parser.add_argument("--benchmarks", nargs="+", choices=names(), metavar="NAME", help="default: all")
    parser.add_argument("--limit", type=int, default=100, help="samples of each benchmark (default 100)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of the CPU (default: as torch finds)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    main()
