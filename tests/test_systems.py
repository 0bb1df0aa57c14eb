"""The four systems of the paper, tiny: from parts, through both stages with CAL, to answers."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor

from cal_bench.models import HFModel
from cal_bench.systems.anatomy import SYSTEMS, System
from cal_bench.systems.convert import Parts, from_scratch
from cal_bench.tasks.base import Generation, Sample
from cal_bench.train import StageConfig, train_stage
from cal_bench.trainer_plugin import CALConfig
from tests.parts import OUR_SYSTEM, tiny_parts
from tests.tiny import write_data

ALL = {"llava-1.5": SYSTEMS["llava-1.5"], "llava-next": SYSTEMS["llava-next"], **OUR_SYSTEM}
JOINTS = ("multi_modal_projector", "patch_info_mining")
CAL = CALConfig(alpha=0, beta=None)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return tiny_parts(tmp_path_factory.mktemp("parts"))


def stages(folder: Path, system: System) -> dict[str, StageConfig]:
    """As LLaVA and MGM train: first what joins the towers to the language model, then the language model too."""
    data = write_data(folder / "data")
    captions = [row | {"conversations": row["conversations"][:2]} for row in json.loads(data.read_text()) if "image" in row]
    (folder / "data" / "captions.json").write_text(json.dumps(captions))
    joints = tuple(f"model.{name}" for name in JOINTS[: 2 if system.high_res_size else 1])
    shared = {"images": str(folder / "data" / "images"), "learning_rate": 1e-2, "batch_size": 4, "per_device_batch_size": 2, "max_steps": 2}
    captions_file = (str(folder / "data" / "captions.json"),)
    return {
        "pt": StageConfig(data=captions_file, template="plain", train=joints, image_aspect_ratio="square", **shared),
        "it": StageConfig(
            data=(str(data),), template="v1", train=(*joints, "model.language_model", "lm_head"), group_by_modality_length=True, **shared
        ),
    }


def changed(before: Path, after: Path) -> set[str]:
    """The parts of which a weight is not, bit for bit, what it was."""
    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert old.keys() == new.keys()
    return {".".join(name.split(".")[:2]) for name, tensor in new.items() if not tensor.float().equal(old[name].float())}


@pytest.mark.parametrize("name", list(ALL))
def test_a_system_trains_in_both_stages_and_answers(name: str, parts: Parts, tmp_path: Path) -> None:
    base = from_scratch(ALL[name], parts, tmp_path / "base")
    made = stages(tmp_path, ALL[name])
    train_stage(base, tmp_path / "pt", made["pt"], CAL)
    train_stage(tmp_path / "pt", tmp_path / "it", made["it"], CAL)
    joints = {f"model.{part}" for part in JOINTS[: 2 if ALL[name].high_res_size else 1]}
    assert changed(base, tmp_path / "pt") == joints
    assert joints < changed(tmp_path / "pt", tmp_path / "it") <= {*joints, "model.language_model", "lm_head.weight"}
    # Cut in pre-training, whole pictures from then on.
    assert AutoProcessor.from_pretrained(tmp_path / "it").image_processor.do_pad
    asked = [
        Sample(number, "What is it?", lambda shade=number: [Image.new("RGB", (40, 30), (60 * shade, 9, 9))], Generation(6, ()), "", None)
        for number in range(4)
    ]
    one, many = (
        {reply.id: reply.text for reply in HFModel(tmp_path / "it", batch_size=size, device="cpu").answer(asked)} for size in (1, 4)
    )
    assert one == many
    assert len(one) == 4
    assert torch.isfinite(torch.tensor([json.loads(line)["loss"] for line in (tmp_path / "it" / "log.jsonl").open()])).all()
