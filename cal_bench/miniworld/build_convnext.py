"""Train what MGM has beyond LLaVA: `python -m cal_bench.miniworld.build_convnext [--out DIR]`; BASE.md has the record."""

import argparse
import os
import time
from pathlib import Path

import torch

from .base import BASE, save_joints
from .convnext import train_high_res
from .mining import train_mining


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BASE, help="folder for convnext/ and mining/ (default: the shipped one)")
    out: Path = parser.parse_args().out
    torch.set_num_threads(os.cpu_count() or 1)
    start = time.monotonic()
    train_high_res().tower.half().save_pretrained(out / "convnext")
    save_joints(train_mining(out / "convnext"), out / "mining")
    print(f"wrote {out / 'convnext'} and {out / 'mining'} after {(time.monotonic() - start) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
