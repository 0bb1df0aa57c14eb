"""Train the shipped tiny base from nothing: `python -m cal_bench.miniworld.build_base [--out DIR]`; BASE.md has the record."""

import argparse
import os
import time
from pathlib import Path

import torch

from .base import BASE, build_tokenizer, new_language_model, save_base
from .language import train_language_model
from .projector import first_projector
from .tower import train_tower

LANGUAGE_STEPS = (1_500, 1_500, 1_500, 8_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BASE, help="folder for tower/, language/ and tokenizer/ (default: the shipped one)")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    start = time.monotonic()
    torch.manual_seed(0)
    language = new_language_model(build_tokenizer())
    train_language_model(language, LANGUAGE_STEPS)
    reader = train_tower()
    save_base(reader.tower, first_projector(reader), language, arguments.out)
    size = sum(file.stat().st_size for file in arguments.out.rglob("*") if file.is_file())
    print(f"wrote {arguments.out}: {size / 2**20:.1f} MiB after {(time.monotonic() - start) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
