"""`doctor --batch-check`: no flips on a sound model, flips on one whose positions are wrong, and what is said of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaModel

from cal_bench.batch_check import BatchCheck, Flip, batch_check, drawn_samples, samples_of
from cal_bench.cli import main
from cal_bench.errors import UserError
from cal_bench.models import HFModel
from tests import tasks_rows
from tests.tiny import save_tiny

FEW = 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("ckpt"))


def break_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is counted from the left edge of the batch, padding included, the answer from where the row begins."""
    whole = LlamaModel.forward

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        length = kwargs["inputs_embeds"].shape[1]
        if length > 1:
            kwargs["position_ids"] = torch.arange(length)[None]
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", broken)


def test_a_sound_model_answers_alike_in_every_batch(checkpoint: Path) -> None:
    checked = batch_check(HFModel(checkpoint, dtype="float32"), drawn_samples(FEW), (1, 7, 16))
    assert checked.flips == {7: (), 16: ()}
    assert not any(finding.remedy for finding in checked.findings)
    assert checked.findings[-1].state.startswith("no batch size changes an answer")


def test_wrong_positions_are_seen(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_positions(monkeypatch)
    checked = batch_check(HFModel(checkpoint, dtype="float32"), drawn_samples(FEW), (1, 7))
    assert len(checked.flips[7]) > FEW / 4
    assert "--batch-size 1" in checked.findings[-1].remedy


def test_the_command_prints_the_counts_and_fails_on_a_broken_model(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("chartqa", "pope"):
        tasks_rows.write(tmp_path, name)
    arguments = ["doctor", "--batch-check", str(checkpoint), "--data", str(tmp_path)]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ok  samples      24, in float32 on cpu, one at a time and in batches"
    assert lines[1:3] == ["ok  batch of 7   0 of 24 answers differ", "ok  batch of 32  0 of 24 answers differ"]
    break_positions(monkeypatch)
    assert main(arguments) == 1
    assert "do: evaluate this model with --batch-size 1" in capsys.readouterr().out


def test_rounding_is_told_from_a_mistake() -> None:
    flips = {7: (), 32: (Flip(3, "red", "Red"),)}
    half = BatchCheck(96, "bfloat16", "cuda:0", flips).findings
    assert half[2].state == "1 of 96 answers differ, such as 'red', which became 'Red'"
    assert "compare models at one --batch-size" in half[-1].state
    assert not half[-1].remedy
    assert BatchCheck(96, "float32", "cpu", flips).findings[-1].remedy


def test_drawn_samples_have_pictures_of_many_shapes() -> None:
    drawn = drawn_samples(12)
    assert len({sample.load_images()[0].size for sample in drawn}) == 6
    assert len({len(sample.prompt) for sample in drawn}) > 4
    assert drawn_samples(3)[2].load_images()[0].tobytes() == drawn[2].load_images()[0].tobytes()


def test_a_wrong_call_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"holds no benchmark\. Expected files such as ocrbench\.parquet"):
        samples_of(str(tmp_path))
    assert main(["doctor", "--dtype", "float32"]) == 2
    assert "belong to --batch-check MODEL" in capsys.readouterr().err
    assert main(["doctor", "--batch-check", str(tmp_path / "nowhere")]) == 2
    assert "There is no model folder" in capsys.readouterr().err
