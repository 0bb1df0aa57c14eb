"""Two data-parallel processes (gloo): equal bounds give the stock step there too, and `global` does not see the split.

Models that are sharded give the gradients of one process, also where one process has no image in its micro-batch.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer

import cal_bench.trainer_plugin as cal
from cal_bench.trainer_plugin import CALConfig
from tests.test_cal_model import batch
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


def enter(rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)


def in_two_processes(work: Callable[[int, int, Path], None], folder: Path) -> list[Any]:
    """What each process saved under its rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(work, (port, folder), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def worker(rank: int, port: int, folder: Path) -> None:
    enter(rank, port)
    found = {(name, count): steps_of(folder, config, count, 2) for name, (config, counts) in ARMS.items() for count in counts}
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, int], Any]]:
    return in_two_processes(worker, tmp_path_factory.mktemp("parallel"))


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


# The second process has no image in its micro-batch.
SHAPES = ((2, 1), (0, 2))
SHARED_IMAGES = ((2, 1), (1, 1))
UNEVEN = CALConfig(alpha=0.1, beta=None)
LAYOUTS = ("root", "tail", "own")
# The options that communicate, or read the batch once more.
BEYOND = replace(UNEVEN, quantile=0.9, reference="adapters_off")
STEPS = ("ddp", "tower", *(f"{layout}{kind}" for layout in LAYOUTS for kind in ("", "-checkpointed", "-beyond")))


def parts(shapes: tuple[tuple[int, int], ...]) -> list[dict[str, torch.Tensor]]:
    """A micro-batch for each process, with its (images, rows of text)."""
    return [batch(*shape, seed=number) for number, shape in enumerate(shapes)]


def language_model(step: str = "") -> Any:
    """Trains the language model alone: without an image, a process has no gradient for what only images reach.

    Except where the tower is sharded too, so that such a process borrows an image.
    """
    model = tiny_model().train()
    for part in (model.model.vision_tower, model.model.multi_modal_projector):
        part.requires_grad_(step == "tower")
    if step.endswith("checkpointed"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if step.endswith("beyond"):
        adapters = peft.LoraConfig(r=2, target_modules=r".*language_model.*_proj", init_lora_weights=False)
        torch.manual_seed(3)
        model = peft.inject_adapter_in_model(adapters, model)
    cal.apply(model, BEYOND if step.endswith("beyond") else UNEVEN)
    return model


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {name: gradient.full_tensor() if isinstance(gradient, DTensor) else gradient for name, gradient in found.items()}


def alone(model: Any, shapes: tuple[tuple[int, int], ...] = SHAPES) -> dict[str, torch.Tensor]:
    """Gradients of one process with the micro-batches of both."""
    for inputs in parts(shapes):
        (model(**in_precision_of(model, inputs)).loss / len(shapes)).backward()
    return gradients(model)


def in_precision_of(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    dtype = next(model.parameters()).dtype
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def shard(model: Any, layout: str) -> None:
    """FSDP2 with the head in the root, with the last norm, or on its own, which is what accelerate makes of these models."""
    decoder = model.get_decoder()
    if layout == "tower":
        for layer in model.model.vision_tower.encoder.layers:
            fully_shard(layer)
    for layer in decoder.layers:
        fully_shard(layer)
    if layout == "tail":
        fully_shard([decoder.norm, model.lm_head])
    if layout == "own":
        fully_shard(model.lm_head)
    fully_shard(model)


def sharded_step(step: str, rank: int) -> dict[str, torch.Tensor]:
    model = language_model(step).double()
    inputs = in_precision_of(model, parts(SHAPES)[rank])
    if step == "ddp":
        wrapped = DistributedDataParallel(model)
    else:
        shard(model, step.partition("-")[0])
        wrapped = model
    wrapped(**inputs).loss.backward()
    return gradients(model)


def sharding_worker(rank: int, port: int, folder: Path) -> None:
    enter(rank, port)
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    torch.save({step: sharded_step(step, rank) for step in STEPS}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return in_two_processes(sharding_worker, tmp_path_factory.mktemp("sharded"))


@pytest.mark.parametrize("step", STEPS)
def test_sharded_models_give_the_gradients_of_one_process(sharded: list[dict[str, Any]], step: str) -> None:
    expected = alone(language_model(step).double())
    assert any("lora_" in name for name in expected) is step.endswith("beyond")
    for process in sharded:
        assert process[step].keys() == expected.keys()
        assert_same_gradients(process[step], expected, relative=1e-5)


# Stage 3 gathers the weights of the tower too, frozen or not: a process that skips it for want of an image holds the others up.
CASES = {
    "2": (2, SHAPES, ""),
    "3": (3, SHARED_IMAGES, ""),
    "3, text alone on one": (3, SHAPES, ""),
    "3, text alone on one, tower trained": (3, SHAPES, "tower"),
}


def deepspeed_worker(rank: int, port: int, folder: Path) -> None:
    enter(rank, port)
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    # Compiling its shared-memory kernels takes minutes, and gloo does without them.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", timeout=timedelta(minutes=5))
    found = {}
    for case, (stage, shapes, step) in CASES.items():
        model = language_model(step)
        settings = {"train_micro_batch_size_per_gpu": 3, "zero_allow_untested_optimizer": True}
        settings |= {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0}}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.SGD(trained, lr=0.1), config=settings)
        engine.backward(engine(**parts(shapes)[rank]).loss)
        found[case] = {name: safe_get_full_grad(value) for name, value in model.named_parameters() if value.requires_grad}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def deepspeed_steps(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: ZeRO-2 and ZeRO-3 are not tested")
    return in_two_processes(deepspeed_worker, tmp_path_factory.mktemp("deepspeed"))


@pytest.mark.parametrize("case", CASES)
def test_deepspeed_gives_the_gradients_of_one_process(deepspeed_steps: list[dict[str, Any]], case: str) -> None:
    _, shapes, step = CASES[case]
    expected = alone(language_model(step), shapes)
    for process in deepspeed_steps:
        assert_same_gradients(process[case], expected, relative=1e-5)
