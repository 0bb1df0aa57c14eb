"""Studies that were never run: records with made-up numbers, as a study writes them."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cal_bench.evidence import write_evidence
from cal_bench.records import TaskResult
from tests.test_compare import result

COUNT = 100
COMMAND = "cal-bench study made-up"


def answers(chance: float, seed: int, benchmark: int) -> list[float]:
    """Right or wrong: pictures have a difficulty that all arms and seeds share, and every training errs in its own way."""
    difficulty = np.random.default_rng([7, benchmark]).random(COUNT)
    noise = np.random.default_rng([11, benchmark, seed, int(chance * 1000)]).normal(0, 0.1, COUNT)
    return [float(hard + luck < chance) for hard, luck in zip(difficulty, noise, strict=True)]


def summaries(names: Mapping[str, str], chance: float, seed: int) -> list[TaskResult]:
    """One summary of each benchmark (name -> unit); all on data of their own."""
    return [
        result(name, answers(chance, seed, place), unit=unit, data_fingerprint=f"{place:064d}")
        for place, (name, unit) in enumerate(names.items())
    ]


def arm(name: str, results: list[TaskResult], seed: int = 0, swap: float = 0.0) -> dict[str, Any]:
    """The record of an arm with one stage."""
    stage = {"seed": seed, "identity": {"stage": {"swap": swap}}}
    run = {"identity": {"model": f"arms/{name}/it"}}
    return {"training": {"it": stage}, "run": run, "results": [asdict(one) for one in results]}


def write_study(out: Path, arms: Mapping[str, Mapping[str, Any]]) -> Path:
    """A study's folder with its records and tables."""
    out.mkdir(parents=True, exist_ok=True)
    write_evidence(out, COMMAND, arms)
    return out
