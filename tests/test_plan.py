"""The plan of a study is what the study then does; making it changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from cal_bench.cli import main
from cal_bench.config import load_study
from cal_bench.parts import describe
from cal_bench.plan import make_plan
from cal_bench.study import prepare, train_arm
from tests.test_study import STUDY, lay_out


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["study", *arguments, "--dry-run"]) == 0
    return capsys.readouterr().out


def test_the_study_does_what_the_plan_says(tmp_path: Path) -> None:
    stage = {name: value for name, value in STUDY["stages"]["it"].items() if name not in ("max_steps", "save_steps")}
    config = lay_out(tmp_path, stages={"it": {**stage, "epochs": 1.5, "per_device_batch_size": 2}}, arms={"baseline": {}})
    study = load_study(str(config))
    plan = make_plan(study, tmp_path / "out").stages["it"]
    record = json.loads((train_arm(prepare(study, tmp_path / "out"), "baseline") / "train.json").read_text())
    assert (plan.samples, plan.counted, plan.steps) == (record["samples"], True, record["steps"])
    assert plan.accumulation == 2
    assert describe(plan.counts) == describe(record["parameters"])


def test_a_plan_is_printed_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = lay_out(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    text = printed(capsys, str(config), "--out", str(tmp_path / "out"))
    assert sorted(tmp_path.rglob("*")) == before
    assert "Plan of tiny on 1 GPU." in text
    assert "stage pt    9 samples, 6 steps" in text
    assert "cal (CAL in pt, CAL in it)" in text
    assert "missing" not in text
    assert text.endswith(f"type next\n  cal-bench study {config} --out {tmp_path / 'out'}\n")


def test_missing_files_stand_in_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = lay_out(tmp_path)
    (tmp_path / "train.json").unlink()
    text = printed(capsys, str(config))
    assert f"stages.pt.data: {tmp_path / 'train.json'}" in text
    assert "an unknown number of samples, 6 steps" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--gpus", "3"], "batch_size 4 is not a multiple of per_device_batch_size 4 x 3 process"),
        (["--gpus", "0"], "expected a number of at least 1"),
    ],
)
def test_a_number_of_gpus_that_does_not_divide_is_refused(
    tmp_path: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", str(lay_out(tmp_path)), "--dry-run", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_the_miniature_has_a_plan_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "demo", "--out", str(tmp_path / "out"))
    assert "stage pt    about 1,600 samples" in text
    assert "comes with the package" in text


def test_a_model_that_is_not_here_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes: dict[str, Any] = {"model": "llava-hf/llava-1.5-7b-hf"}
    assert main(["study", str(lay_out(tmp_path, **changes)), "--dry-run"]) == 2
    assert "no model folder 'llava-hf/llava-1.5-7b-hf'" in capsys.readouterr().err
