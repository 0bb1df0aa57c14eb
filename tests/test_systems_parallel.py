"""Each system in two processes (gloo), one without an image in its micro-batch: none waits for ever, and gradients are those of one."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import cal_bench.trainer_plugin as cal
from cal_bench.parts import prepare_parts
from cal_bench.stage_trainer import with_images_everywhere
from cal_bench.trainer_plugin import CALConfig
from tests.test_cal_model import batch
from tests.test_cal_parallel import enter, gradients, in_precision_of, in_two_processes
from tests.tiny import IMAGE_ID, SIDE, assert_same_gradients, tiny_model
from tests.tiny_mgm import tiny_batch, tiny_mgm

SYSTEMS = ("llava-1.5", "llava-next", "mgm", "mgm-hd")
ARMS = {"baseline": None, "cal": CALConfig(alpha=0.1, beta=None)}
LAYOUTS = ("ddp", "fsdp2")
CASES = [f"{system} {arm} {layout}" for system in SYSTEMS for arm in ARMS for layout in LAYOUTS]
JOINTS = ("model.multi_modal_projector", "model.patch_info_mining", "model.image_newline")


def system_model(system: str, arm: str) -> Any:
    """As instruction tuning trains it: joints and language model, and LLaVA-NeXT's tower too."""
    model = tiny_mgm(system == "mgm-hd") if system.startswith("mgm") else tiny_model(system == "llava-next")
    names = {".".join(name.split(".")[:2]) for name, _ in model.named_parameters()}
    trained = [joint for joint in JOINTS if joint in names] + ["model.language_model", "lm_head"]
    prepare_parts(model, trained + (["model.vision_tower"] if system == "llava-next" else []))
    model.train()
    if system.startswith("mgm"):
        model.model.high_res_vision_tower.eval()  # no drop path: processes draw their own
    if ARMS[arm] is not None:
        cal.apply(model, ARMS[arm])
    return model.double()


def micro_batches(system: str) -> list[dict[str, torch.Tensor]]:
    """Of two processes: rows with images, and text alone."""
    if system.startswith("mgm"):
        hd = system == "mgm-hd"
        text = {name: values for name, values in tiny_batch(hd, rows=0, text_rows=2).items() if "pixel" not in name}
        return [tiny_batch(hd), text]
    return [next_batch() if system == "llava-next" else batch(2, 1), batch(0, 2, seed=1)]


def next_batch() -> dict[str, torch.Tensor]:
    """Two pictures twice as wide as high: 4 tokens of the whole, then 2 rows of 4 and the token between rows."""
    found = batch(2, 1, length=26)
    found["input_ids"][:2, 3:17] = IMAGE_ID
    found["labels"][:, :18] = -100
    sizes = torch.tensor([[SIDE, 2 * SIDE]] * 2)
    generator = torch.Generator().manual_seed(5)
    return {**found, "pixel_values": 3 * torch.randn(2, 3, 3, SIDE, SIDE, generator=generator), "image_sizes": sizes}


def step(case: str, rank: int) -> dict[str, torch.Tensor]:
    system, arm, layout = case.split()
    model = system_model(system, arm)
    inputs = in_precision_of(model, micro_batches(system)[rank])
    wrapped = model
    if layout == "ddp":
        wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    else:
        for layer in [*model.model.vision_tower.encoder.layers, *model.get_decoder().layers]:
            fully_shard(layer)
        fully_shard(model)
    wrapped(**with_images_everywhere(model, inputs) if arm == "baseline" else inputs).loss.backward()
    return gradients(model)


def alone(system: str, arm: str) -> dict[str, torch.Tensor]:
    """Gradients of one process with the micro-batches of both."""
    model = system_model(system, arm)
    for inputs in micro_batches(system):
        (model(**in_precision_of(model, inputs)).loss / 2).backward()
    return gradients(model)


def worker(rank: int, port: int, folder: Path) -> None:
    enter(rank, port)
    dist.init_process_group("gloo", timeout=timedelta(minutes=3))
    torch.save({case: step(case, rank) for case in CASES}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    return in_two_processes(worker, tmp_path_factory.mktemp("systems"))


@pytest.mark.parametrize("case", CASES)
def test_text_alone_on_one_process_gives_the_gradients_of_one(steps: list[dict[str, dict[str, torch.Tensor]]], case: str) -> None:
    system, arm, _ = case.split()
    expected = alone(system, arm)
    for process in steps:
        assert_same_gradients(process[case], expected, relative=1e-5)
