"""Two data-parallel processes (gloo): equal bounds give the stock step there too, and `global` does not see the split."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from transformers import Trainer

from cal_bench.trainer_plugin import CALConfig
from tests.test_cal_trainer import EQUAL, train, with_cal
from tests.tiny import assert_same_gradients, tiny_model

# Uneven weights, so that a mean taken per process differs from one over all.
GLOBAL = CALConfig(alpha=0.1, beta=None, normalize="global")
EQUAL_GLOBAL = CALConfig(alpha=2, beta=2, normalize="global")
ARMS: dict[str, tuple[CALConfig | None, tuple[int, ...]]] = {
    "stock": (None, (1, 2)),
    "tokens": (EQUAL, (1, 2)),
    "global_equal": (EQUAL_GLOBAL, (2,)),
    "global": (GLOBAL, (1,)),
    "default": (CALConfig(), (1,)),
}


def steps_of(
    folder: Path, config: CALConfig | None, accumulation: int, per_device: int
) -> tuple[list[dict[str, torch.Tensor]], float, Any]:
    settings = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": per_device, "max_steps": 1}
    settings |= {"ddp_find_unused_parameters": True}
    steps, logs, _ = train(Trainer if config is None else with_cal(config), folder, tiny_model(), **settings)
    return steps, logs[0]["loss"], logs[0].get("cal/weight_mean")


def worker(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    found = {(name, count): steps_of(folder, config, count, 2) for name, (config, counts) in ARMS.items() for count in counts}
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, int], Any]]:
    folder = tmp_path_factory.mktemp("parallel")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(worker, (port, folder), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_same_step(found: Any, expected: Any, relative: float = 1e-6) -> None:
    assert found[1] == pytest.approx(expected[1], rel=relative)
    (now,), (before,) = found[0], expected[0]
    # A process whose rows are all text gives the projector a zero gradient; alone, it gives none.
    assert before.keys() <= now.keys()
    assert_same_gradients(now, before, relative)


@pytest.mark.parametrize(("arm", "accumulation"), [("tokens", 1), ("tokens", 2), ("global_equal", 2)])
def test_equal_bounds_give_the_stock_step(parallel: list[dict[tuple[str, int], Any]], arm: str, accumulation: int) -> None:
    for process in parallel:
        assert_same_step(process[arm, accumulation], process["stock", accumulation])


def test_the_stock_step_is_that_of_one_process_with_the_whole_batch(parallel: list[dict[tuple[str, int], Any]], tmp_path: Path) -> None:
    assert_same_step(parallel[0]["stock", 1], steps_of(tmp_path, None, 1, 4), relative=1e-4)


def test_global_does_not_depend_on_the_split(parallel: list[dict[tuple[str, int], Any]], tmp_path: Path) -> None:
    whole = steps_of(tmp_path, GLOBAL, 1, 4)
    assert_same_step(parallel[0]["global", 1], whole, relative=1e-4)
    assert parallel[0]["default", 1][1] != pytest.approx(steps_of(tmp_path, CALConfig(), 1, 4)[1], rel=1e-4)


def test_processes_agree_and_log_the_mean_over_all_of_them(parallel: list[dict[tuple[str, int], Any]], tmp_path: Path) -> None:
    assert_same_step(parallel[0]["default", 1], parallel[1]["default", 1])
    assert parallel[0]["global", 1][2] == pytest.approx(steps_of(tmp_path, GLOBAL, 1, 4)[2], rel=1e-4)
