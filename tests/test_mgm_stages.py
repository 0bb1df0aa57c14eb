"""MGM and MGM-HD through stages: read as one or the other, stopped and gone on with, and the same with checkpointed activations."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, Trainer

from cal_bench.errors import UserError
from cal_bench.systems.convert import Parts, from_scratch
from cal_bench.systems.register import register
from cal_bench.train import StageConfig, train_stage
from cal_bench.trainer_plugin import CALConfig
from tests.parts import OUR_SYSTEM, tiny_parts
from tests.test_systems import stages
from tests.test_train import Stopped, stop_at
from tests.tiny import save_tiny
from tests.tiny_mgm import HIGH

CAL = CALConfig(alpha=0, beta=None)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return tiny_parts(tmp_path_factory.mktemp("parts"))


def one_step(folder: Path, **settings: Any) -> StageConfig:
    return dataclasses.replace(stages(folder, OUR_SYSTEM["mgm"])["it"], max_steps=1, group_by_modality_length=False, **settings)


def reading(folder: Path) -> tuple[int, bool, int, int, int]:
    """How a checkpoint reads pictures: as its config and its processor say."""
    register()
    config, images = AutoConfig.from_pretrained(folder), AutoProcessor.from_pretrained(folder).image_processor
    assert (config.image_grid, config.image_global) == (images.image_grid, images.image_global)
    return config.image_grid, config.image_global, config.image_seq_length, images.size["shortest_edge"], images.crop_size["height"]


def test_mgm_hd_is_pretrained_as_mgm_and_then_reads_in_high_resolution(parts: Parts, tmp_path: Path) -> None:
    base = from_scratch(OUR_SYSTEM["mgm-hd"], parts, tmp_path / "base")
    train_stage(base, tmp_path / "pt", one_step(tmp_path, image_grid=1), None)
    train_stage(tmp_path / "pt", tmp_path / "it", one_step(tmp_path, image_grid=2), CAL)
    assert reading(tmp_path / "pt") == (1, False, 4, HIGH[False], HIGH[False])
    assert reading(tmp_path / "it") == reading(base) == (2, True, 20, HIGH[True], HIGH[True])
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "it").config.tiles == 5


def test_other_systems_have_no_grid_to_choose(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="image_grid is for MGM and MGM-HD, but the model's processor is LlavaProcessor"):
        train_stage(save_tiny(tmp_path / "base"), tmp_path / "out", one_step(tmp_path, image_grid=2), None)


def test_a_stopped_stage_of_mgm_goes_on_to_the_same_end_and_checkpointing_changes_nothing(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = from_scratch(OUR_SYSTEM["mgm"], parts, tmp_path / "base")
    config = dataclasses.replace(one_step(tmp_path), max_steps=3, save_steps=1)
    train_stage(base, tmp_path / "whole", config, CAL)
    stop_at(monkeypatch, 2 * 3)
    with pytest.raises(Stopped):
        train_stage(base, tmp_path / "out", config, CAL)
    monkeypatch.undo()
    seen = spied(monkeypatch)
    record = train_stage(base, tmp_path / "out", dataclasses.replace(config, gradient_checkpointing=True), CAL)
    assert record["resumed_at_step"] == 2
    assert seen == [True]
    whole, gone_on = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    # A hundredth of one step of AdamW: activations that are computed again round differently.
    for name, value in whole.items():
        torch.testing.assert_close(gone_on[name], value, rtol=1e-3, atol=1e-4)


def spied(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each model that is trained from now on has its activations checkpointed."""
    seen: list[bool] = []
    plain = Trainer.training_step

    def step(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        if not seen:
            seen.append(self.model.is_activation_checkpointing)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", step)
    return seen
