"""A miniature world on disk: training records with their pictures, and one parquet file per benchmark."""

import json
import os
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .bench import FILES, bench_rows
from .conversations import TEXT_ONLY, Turn, caption_turn, image_turns, record, text_turns
from .draw import draw
from .scene import Scene, make_scene

# Pictures are numbered within a block per world seed: pre-training, instruction, then 10,000 for each benchmark file.
BLOCK, INSTRUCT, TEST, PER_FILE, SEEDS = 1_000_000, 300_000, 600_000, 10_000, 800
LARGEST = 8


@dataclass(frozen=True)
class WorldSizes:
    """How many records to write, and the seed that decides which. At most 300,000 training records and 10,000 rows a file.

    `scale` is the side of the pictures in 128 px: larger ones show more, to systems that can see it.
    """

    pretrain: int
    train: int
    test: int
    seed: int = 0
    scale: int = 1

    def __post_init__(self) -> None:
        fits = 0 < self.pretrain <= INSTRUCT and 0 < self.train <= INSTRUCT and 0 < self.test <= PER_FILE
        if not (fits and 0 <= self.seed < SEEDS and 1 <= self.scale <= LARGEST):
            raise ValueError(
                f"a miniature world has 1 to {INSTRUCT} records in pretrain and in train, 1 to {PER_FILE} rows in test, "
                f"a seed from 0 to {SEEDS - 1} and a scale from 1 to {LARGEST}; not {self}"
            )


def draw_world(folder: Path, sizes: WorldSizes) -> None:
    """Write pretrain.json, train.json, images/ and bench/*.parquet to `folder`; whole or not at all, and only once."""
    if (folder / "world.json").is_file() and json.loads((folder / "world.json").read_text()) == asdict(sizes):
        return
    draft = folder.with_name(folder.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "images").mkdir(parents=True)
    (draft / "bench").mkdir()
    with ProcessPoolExecutor() as pool:
        files = [pool.submit(_write_bench, draft, stem, index, sizes) for index, stem in enumerate(FILES)]
        pretrain = list(pool.map(_pretrain_record, _jobs(draft, sizes, 0, sizes.pretrain), chunksize=64))
        train = list(pool.map(_instruct_record, _jobs(draft, sizes, INSTRUCT, sizes.train), chunksize=64))
        for file in files:
            file.result()
    (draft / "pretrain.json").write_text(json.dumps(pretrain))
    (draft / "train.json").write_text(json.dumps(train))
    (draft / "world.json").write_text(json.dumps(asdict(sizes)))
    if folder.is_symlink():  # into the world of a list of studies, which stays as it is
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(draft, folder)


@dataclass(frozen=True)
class _Job:
    """A record to write, from its seed."""

    folder: Path
    seed: int
    scale: int


def _jobs(folder: Path, sizes: WorldSizes, offset: int, count: int) -> list[_Job]:
    first = sizes.seed * BLOCK + offset
    return [_Job(folder, seed, sizes.scale) for seed in range(first, first + count)]


def _pretrain_record(job: _Job) -> dict[str, Any]:
    return _pictured(job, lambda scene, rng: [caption_turn(scene, rng)])


def _instruct_record(job: _Job) -> dict[str, Any]:
    rng = random.Random(job.seed + 0.75)
    if rng.random() < TEXT_ONLY:
        return record(f"text_{job.seed}", None, text_turns(rng))
    return _pictured(job, image_turns)


def _pictured(job: _Job, turns: Callable[[Scene, random.Random], list[Turn]]) -> dict[str, Any]:
    scene = make_scene(job.seed)
    draw(scene, job.scale).save(job.folder / "images" / f"{job.seed}.png", compress_level=1)
    return record(f"mini_{job.seed}", f"{job.seed}.png", turns(scene, random.Random(job.seed + 0.125)))


def _write_bench(folder: Path, stem: str, index: int, sizes: WorldSizes) -> None:
    from datasets import Dataset, Features, Image, List, disable_progress_bars

    rows = bench_rows(stem, sizes.seed * BLOCK + TEST + index * PER_FILE, sizes.test, sizes.scale)
    disable_progress_bars()
    plain = Dataset.from_list([{key: value for key, value in row.items() if key != "image"} for row in rows])
    features = Features({**plain.features, "image": List(Image()) if stem == "seed" else Image()})
    pictured = Dataset.from_dict({**plain.to_dict(), "image": [row["image"] for row in rows]}, features=features)
    pictured.to_parquet(folder / "bench" / f"{stem}.parquet")
