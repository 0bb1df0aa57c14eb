"""Train the shipped tiny base from nothing: `python -m cal_bench.miniworld.build_base [--out DIR]`; BASE.md has the record."""

import argparse
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from .base import BASE, build_tokenizer, new_language_model, save_language, save_vision
from .language import train_language_model
from .projector import first_projector
from .tower import train_tower

LANGUAGE_STEPS = (1_000, 500, 1_000, 4_500)


def build_language(folder: Path) -> None:
    """Train and write language/ and tokenizer/."""
    torch.manual_seed(0)
    language = new_language_model(build_tokenizer())
    train_language_model(language, LANGUAGE_STEPS)
    save_language(language, folder)


def build_vision(folder: Path) -> None:
    """Train and write tower/, and projector/, which follows from it."""
    reader = train_tower()
    save_vision(reader.tower, first_projector(reader), folder)


def build(folder: Path) -> None:
    """Both side by side, each on half of the cores; nothing in the folder changes before all is trained."""
    folder.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // 2)
    with TemporaryDirectory(dir=folder) as made:
        with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
            for training in [pool.submit(build_language, Path(made)), pool.submit(build_vision, Path(made))]:
                training.result()
        for part in Path(made).iterdir():
            shutil.copytree(part, folder / part.name, dirs_exist_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=BASE, help="folder for tower/, projector/, language/ and tokenizer/ (default: the shipped one)"
    )
    arguments = parser.parse_args()
    start = time.monotonic()
    build(arguments.out)
    size = sum(file.stat().st_size for file in arguments.out.rglob("*") if file.is_file())
    print(f"wrote {arguments.out}: {size / 2**20:.1f} MiB after {(time.monotonic() - start) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
