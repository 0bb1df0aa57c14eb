"""A training stage: its checkpoint, its record, and going on after it was stopped."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer

from cal_bench import train
from cal_bench.errors import UserError
from cal_bench.parts import describe, prepare_parts
from cal_bench.stage_trainer import ModalityLengthSampler
from cal_bench.train import StageConfig, data_fingerprint, newest_checkpoint, train_stage
from cal_bench.train_log import read_log
from cal_bench.trainer_plugin import CHAT_TEMPLATES, CALConfig, CALError
from tests.tiny import save_tiny, tiny_model, write_data

LANGUAGE = ("model.multi_modal_projector", "model.language_model", "lm_head")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "base")


def stage(folder: Path, **settings: Any) -> StageConfig:
    data = folder / "data"
    if not data.is_dir():
        write_data(data)
    defaults = {"data": (str(data / "train.json"),), "images": str(data / "images"), "template": "v1", "train": LANGUAGE}
    defaults |= {"learning_rate": 1e-3, "batch_size": 4, "per_device_batch_size": 2, "max_steps": 4}
    return StageConfig(**(defaults | settings))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("cal", [None, CALConfig(alpha=0, beta=None)])
def test_a_stage_leaves_a_plain_checkpoint_a_log_and_a_record(base: Path, tmp_path: Path, cal: CALConfig | None) -> None:
    out = tmp_path / "out"
    record = train_stage(base, out, stage(tmp_path, swap=0.5), cal)
    assert record == json.loads((out / "train.json").read_text())
    assert (record["status"], record["steps"], record["samples"], record["swapped_samples"], record["seed"]) == ("complete", 4, 12, 4, 0)
    assert record["parameters"]["trainable"].keys() == {"model.multi_modal_projector", "model.language_model", "lm_head.weight"}
    assert record["parameters"]["frozen"].keys() == {"model.vision_tower"}
    assert {"torch", "transformers", "accelerate"} <= record["versions"].keys()
    assert record["identity"]["cal"] == (None if cal is None else {**dataclasses.asdict(cal)})
    log = read_log(out / "log.jsonl")
    assert [line["step"] for line in log] == [4]
    assert record["loss"]["last"] == log[-1]["loss"]
    assert log[0]["seconds_per_step"] > 0
    assert ("cal/weight_mean" in log[0]) == (cal is not None)
    assert len(json.loads((out / "swapped.json").read_text())["ids"]) == 2
    assert not list(out.rglob("*.bin")) + list(out.rglob("checkpoint-*"))
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert model.generation_config.eos_token_id == 2
    assert json.loads((out / "config.json").read_text()).get("use_cache", True)
    assert AutoProcessor.from_pretrained(out).chat_template == CHAT_TEMPLATES["v1"]


def test_only_what_is_named_is_trained(base: Path, tmp_path: Path) -> None:
    before = weights(base)
    train_stage(base, tmp_path / "pt", stage(tmp_path, train=("model.multi_modal_projector",)), CALConfig())
    after = weights(tmp_path / "pt")
    changed = {name for name, value in after.items() if not value.equal(before[name])}
    assert changed
    assert all("multi_modal_projector" in name for name in changed)


def test_the_arms_differ_in_the_weighting_alone(base: Path, tmp_path: Path) -> None:
    config = stage(tmp_path, max_steps=2)
    train_stage(base, tmp_path / "stock", config, None)
    train_stage(base, tmp_path / "equal", config, CALConfig(alpha=1, beta=1))
    train_stage(base, tmp_path / "cal", config, CALConfig(alpha=0, beta=None))
    stock, equal, weighted = (read_log(tmp_path / name / "log.jsonl")[-1]["loss"] for name in ("stock", "equal", "cal"))
    assert equal == pytest.approx(stock, rel=1e-5)
    assert weighted != pytest.approx(stock, rel=1e-3)


class Stopped(Exception):
    pass


def test_grouping_and_rates_by_part_reach_the_trainer(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Trainer] = []
    plain = Trainer.training_step

    def step(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        begun.append(self)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", step)
    settings = {"group_by_modality_length": True, "learning_rate_factors": {"model.multi_modal_projector": 0.1}, "warmup": 0}
    train_stage(base, tmp_path / "out", stage(tmp_path, **settings), CALConfig())
    groups = begun[0].optimizer.param_groups
    names = {id(parameter): name for name, parameter in begun[0].model.named_parameters()}
    slower = {names[id(each)].split(".")[1] for group in groups if group["initial_lr"] == pytest.approx(1e-4) for each in group["params"]}
    others = {names[id(each)].split(".")[1] for group in groups if group["initial_lr"] == pytest.approx(1e-3) for each in group["params"]}
    assert slower == {"multi_modal_projector"}
    assert others == {"language_model", "weight"}
    sampler = begun[0]._get_train_sampler()
    assert isinstance(sampler, ModalityLengthSampler)
    assert (sampler.step, len(sampler)) == (4, 12)


def test_a_step_holds_one_modality_and_like_lengths() -> None:
    lengths = [5, -7, 30, 12, -2, 8, 9, -40, 3, 21, -6, -5, 4]
    sampler = ModalityLengthSampler(lengths, step=3, seed=1)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths)))
    steps = [[lengths[index] for index in order[start : start + 3]] for start in range(0, 9, 3)]
    assert sorted(step[0] < 0 for step in steps) == [False, False, True]
    for step in steps:
        assert len({length < 0 for length in step}) == 1
        assert step == sorted(step, key=lambda length: -abs(length))
    assert list(sampler) == order
    sampler.set_epoch(1)
    assert list(sampler) != order


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    plain, calls = Trainer.training_step, iter(range(1, 1000))

    def step(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise Stopped
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", step)


def test_a_stopped_stage_goes_on_to_the_same_end(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = stage(tmp_path, max_steps=6, save_steps=2)
    whole = train_stage(base, tmp_path / "whole", config, CALConfig())
    stop_at(monkeypatch, 2 * 5)  # in the second micro-batch of the fifth step
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        train_stage(base, out, config, CALConfig())
    monkeypatch.undo()
    assert json.loads((out / "train.json").read_text())["status"] == "running"
    half = out / "checkpoints" / "checkpoint-5"
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_step": 5, "log_hi')
    assert newest_checkpoint(out / "checkpoints") == out / "checkpoints" / "checkpoint-4"
    record = train_stage(base, out, config, CALConfig())
    assert (record["resumed_at_step"], whole["resumed_at_step"], record["steps"]) == (4, None, 6)
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(out)[name], value, rtol=1e-5, atol=1e-7)
    assert [line["step"] for line in read_log(out / "log.jsonl")] == [6]


def test_a_complete_stage_is_found_done(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = stage(tmp_path, max_steps=1)
    record = train_stage(base, tmp_path / "out", config, None)
    monkeypatch.setattr(train, "_train", lambda *_: pytest.fail("trained again"))
    elsewhere = tmp_path / "moved"
    (tmp_path / "data").rename(elsewhere)
    moved = dataclasses.replace(config, data=(str(elsewhere / "train.json"),), images=str(elsewhere / "images"), report_to=("tensorboard",))
    assert train_stage(base, tmp_path / "out", moved, None) == record
    file = tmp_path / "out" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        train_stage(base, tmp_path / "out", moved, None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train_stage(save_tiny(folder / "base"), folder / "out", stage(folder, max_steps=1), None)
    return folder


@pytest.mark.parametrize(
    ("settings", "cal", "named"),
    [
        ({"learning_rate": 2e-3}, None, r"stage\.learning_rate"),
        ({"seed": 1}, None, r"stage\.seed"),
        ({}, CALConfig(), "cal"),
    ],
)
def test_other_inputs_are_refused_by_name(trained: Path, settings: dict[str, Any], cal: CALConfig | None, named: str) -> None:
    with pytest.raises(UserError, match=f"{named} changed.*another folder"):
        train_stage(trained / "base", trained / "out", stage(trained, max_steps=1, **settings), cal)


def test_other_data_and_other_weights_are_refused(trained: Path, tmp_path: Path) -> None:
    config = stage(trained, max_steps=1)
    write_data(tmp_path / "more", rows=13)
    other = dataclasses.replace(config, data=(str(tmp_path / "more" / "train.json"),))
    with pytest.raises(UserError, match="data changed"):
        train_stage(trained / "base", trained / "out", other, None)
    with pytest.raises(UserError, match="weights changed"):
        train_stage(save_tiny(tmp_path / "base", dropout=0.1) and _reweighted(tmp_path / "base"), trained / "out", config, None)


def _reweighted(folder: Path) -> Path:
    tiny_model(seed=1).save_pretrained(folder)
    return folder


def test_the_fingerprint_knows_pictures_and_records(tmp_path: Path) -> None:
    file = write_data(tmp_path)
    arguments = ((str(file),), str(tmp_path / "images"))
    before = data_fingerprint(*arguments)
    assert data_fingerprint(*arguments) == before
    Image.new("RGB", (300, 300), "red").save(tmp_path / "images" / "0.png")
    with_picture = data_fingerprint(*arguments)
    file.write_text(file.read_text() + "\n")
    assert len({before, with_picture, data_fingerprint(*arguments)}) == 3


def test_a_broken_picture_ends_the_training_with_its_name_alone(base: Path, tmp_path: Path) -> None:
    config = stage(tmp_path)
    picture = tmp_path / "data" / "images" / "5.png"
    picture.write_bytes(picture.read_bytes()[:50])
    with pytest.raises(CALError) as caught:
        train_stage(base, tmp_path / "out", config, None)
    message = str(caught.value)
    assert message.startswith(f"image {picture} can't be read")
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"train": ("model.projector",)}, "model.projector.*Parts: lm_head"),
        ({"learning_rate_factors": {"model.vision_tower": 0.1}}, "no trained name begins with 'model.vision_tower'"),
        ({"batch_size": 3}, "batch_size 3 is not a multiple"),
        ({"batch_size": 1}, "batch_size 1 is not a multiple"),
        ({"data": ("trian.json",)}, "no data file"),
    ],
)
def test_wrong_settings_are_refused(base: Path, tmp_path: Path, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        train_stage(base, tmp_path / "out", stage(tmp_path, **settings), None)


def test_a_training_that_was_killed_while_it_wrote_its_first_record_begins_anew(base: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.json.partial").write_text('{"stat')
    assert train_stage(base, tmp_path / "out", stage(tmp_path, max_steps=1), None)["status"] == "complete"


def test_wrong_folders_are_refused(base: Path, tmp_path: Path) -> None:
    config = stage(tmp_path)
    with pytest.raises(UserError, match="no model folder"):
        train_stage(tmp_path / "bas", tmp_path / "out", config, None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(UserError, match="not empty"):
        train_stage(base, tmp_path / "mine", config, None)
    Path(config.data[0]).write_text('["a"]')
    with pytest.raises(UserError, match="not LLaVA data"):
        train_stage(base, tmp_path / "out", config, None)


def test_freezing_matches_whole_name_parts() -> None:
    model = tiny_model()
    counts = prepare_parts(model, ("model.language_model.layers.1",))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable
    assert all(name.startswith("model.language_model.layers.1.") for name in trainable)
    assert set(counts["trainable"]) == {"model.language_model"}
    assert sum(counts["trainable"].values()) + sum(counts["frozen"].values()) == sum(each.numel() for each in model.parameters())
    assert describe(counts).startswith(
        f"Parameters: trainable model.language_model {counts['trainable']['model.language_model']:,}; frozen "
    )
    with pytest.raises(UserError, match=r"model\.lang"):
        prepare_parts(model, ("model.lang",))
