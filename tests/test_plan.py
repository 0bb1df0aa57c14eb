"""The plan of a study is what the study then does; making it changes nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cal_bench.cli import main
from cal_bench.config import load_study
from cal_bench.errors import UserError
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
    assert (plan.samples, plan.exact, plan.steps) == (record["samples"], True, record["steps"])
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
    assert "stage pt    800 samples, 100 steps\n" in text
    assert "comes with the package" in text


def test_a_model_that_is_not_here_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes: dict[str, Any] = {"model": "llava-hf/llava-1.5-7b-hf"}
    assert main(["study", str(lay_out(tmp_path, **changes)), "--dry-run"]) == 2
    assert "no model folder 'llava-hf/llava-1.5-7b-hf'" in capsys.readouterr().err


def test_what_is_done_stands_in_the_plan_and_what_would_be_refused_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = lay_out(tmp_path), tmp_path / "out"
    train_arm(prepare(load_study(str(config)), out), "baseline", "pt")
    text = printed(capsys, str(config), "--out", str(out))
    assert "done        1 of 2 x pt. Time left: about" in text
    assert main(["study", str(config), "--out", str(out), "--seed", "5", "--dry-run"]) == 2
    assert "pt holds a training of other inputs: stage.seed changed" in capsys.readouterr().err


def test_what_to_type_is_quoted_where_a_path_has_spaces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, str(lay_out(tmp_path)), "--out", str(tmp_path / "my runs"))
    assert text.endswith(f"--out '{tmp_path / 'my runs'}'\n")


def test_a_world_that_will_be_drawn_anew_is_counted_as_it_will_be(tmp_path: Path) -> None:
    study = load_study("demo")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pretrain.json").write_text("[{}, {}]")
    assert make_plan(study, tmp_path).stages["pt"].samples == 800
    own = tmp_path / "own.json"
    own.write_text("[{}, {}]")
    both = replace(study.stages["pt"], data=(*study.stages["pt"].data, str(own)))
    plan = make_plan(replace(study, stages={**study.stages, "pt": both}), tmp_path).stages["pt"]
    assert (plan.samples, plan.exact) == (802, True)


def test_a_model_of_the_hub_is_planned_for_once_it_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = lay_out(tmp_path, model="some/model")
    with pytest.raises(UserError, match="type: hf download some/model"):
        make_plan(load_study(str(config)), tmp_path / "out")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **options: str(tmp_path / "base"))
    assert make_plan(load_study(str(config)), tmp_path / "out").base == "some/model"


def lists(folder: Path, *names: str) -> str:
    """A config that lists these studies, each of which must be a file in the folder."""
    (folder / "all.yaml").write_text(yaml.safe_dump({"name": "all", "studies": [f"{name}.yaml" for name in names]}))
    return str(folder / "all.yaml")


def differs(folder: Path, name: str, **changes: Any) -> str:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "base": "study.yaml", **changes}))
    return name


def test_the_plan_of_a_list_says_once_what_all_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay_out(tmp_path)
    stage = {"it": {"swap": 0.5, "max_steps": 5}}
    listed = lists(tmp_path, differs(tmp_path, "one"), differs(tmp_path, "two", stages=stage))
    (tmp_path / "train.json").unlink()
    before = sorted(tmp_path.rglob("*"))
    shared, one, two = printed(capsys, listed, "--out", str(tmp_path / "out"), "--seeds", "1", "2").split("\nStudy ")
    two, rest = two.split("\ndisk ")
    assert sorted(tmp_path.rglob("*")) == before
    assert shared.startswith("Once for each of the seeds 1 2:\nPlan of all on 1 GPU, 2 studies one after the other.")
    assert [line.split()[0] for line in shared.splitlines()[2:] if line and line[0] != " "] == ["base", "arms", "benchmarks", "stage"]
    assert one.startswith("one\nswapped     images of 20% in pt, 20% in it\n\nstage it    an unknown number of samples, 6 steps")
    assert two.startswith("two\nswapped     images of 20% in pt, 50% in it\n\nstage it    an unknown number of samples, 5 steps")
    assert "for 8 trainings" in rest
    assert rest.count(f"stages.pt.data: {tmp_path / 'train.json'}") == 1
    assert rest.endswith(f"type next\n  cal-bench study {listed} --out {tmp_path / 'out'} --seeds 1 2\n")


def test_a_drawn_world_that_all_share_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "mini-table1")
    assert text.count("\nworld       drawn, 1,600 and 3,584 records to train on") == 1
    assert text.index("\nworld ") < text.index("\nStudy mini-llava15\nbase        miniworld, which") < text.index("\nStudy mini-mgm\n")


def test_a_list_is_planned_for_the_smallest_number_of_gpus_of_its_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay_out(tmp_path)
    smaller = {name: {"per_device_batch_size": 1} for name in STUDY["stages"]}
    listed = lists(tmp_path, differs(tmp_path, "one", stages=smaller, gpus=4), differs(tmp_path, "two", stages=smaller, gpus=2))
    text = printed(capsys, listed)
    assert "4 = 1 x 2 x 2 accumulated" in text
    assert text.endswith(f"cal-bench study {listed} --launcher ddp --gpus 2\n")
    assert main(["study", listed, "--dry-run", "--gpus", "3"]) == 2
    assert "one: batch_size 4 is not a multiple of" in capsys.readouterr().err
