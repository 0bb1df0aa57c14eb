"""A whole study with a two-layer model: killed twice and gone on with, it ends as the undisturbed one does."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cal_bench import study as study_module
from cal_bench.cli import main
from cal_bench.config import load_study
from cal_bench.errors import UserError
from cal_bench.miniworld import WorldSizes
from cal_bench.study import prepare, run_study, stage_folder, train_arm
from cal_bench.train import newest_checkpoint, train_stage
from tests import tasks_rows
from tests.tiny import save_tiny, write_data

STAGE = {
    "data": ["train.json"],
    "images": "images",
    "template": "plain",
    "train": ["model.multi_modal_projector"],
    "learning_rate": 1e-2,
    "batch_size": 4,
    "per_device_batch_size": 4,
    "max_steps": 6,
    "save_steps": 2,
    "swap": 0.2,
}
STUDY: dict[str, Any] = {
    "name": "tiny",
    "model": "base",
    "stages": {
        "pt": STAGE,
        "it": {**STAGE, "template": "v1", "train": ["model.multi_modal_projector", "model.language_model", "lm_head"]},
    },
    "arms": {"baseline": {}, "cal": {"pt": {}, "it": {"beta": 3}}},
    "evaluate": {"benchmarks": ["chartqa", "scienceqa_img", "mme"], "data": "bench", "batch_size": 4},
}
PATIENCE = 600  # seconds; a study takes about 20 on a machine that has nothing else to do
SUMMARIES = [f"runs/{arm}/{name}.json" for arm in STUDY["arms"] for name in STUDY["evaluate"]["benchmarks"]]
WEIGHTS = [f"arms/{arm}/{stage}/model.safetensors" for arm in STUDY["arms"] for stage in STUDY["stages"]]


def lay_out(folder: Path, **changes: Any) -> Path:
    """A base, training data, benchmark files and the config of a study, which is returned."""
    save_tiny(folder / "base", dropout=0.1)
    write_data(folder)
    # The captions' layout asks for a picture in every record.
    records = [record for record in json.loads((folder / "train.json").read_text()) if "image" in record]
    (folder / "train.json").write_text(json.dumps(records))
    (folder / "bench").mkdir()
    for name in STUDY["evaluate"]["benchmarks"]:
        tasks_rows.write(folder / "bench", name)
    config = folder / "study.yaml"
    config.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return config


def start(config: Path, out: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cal_bench.cli", "study", config.name, "--out", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=config.parent, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def kill_when(config: Path, out: str, reached: Callable[[Path], bool]) -> None:
    """Start the study and kill it, with all its processes, as soon as `reached` says so."""
    process = start(config, out)
    deadline = time.monotonic() + PATIENCE
    while not reached(config.parent / out):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def answering(out: Path) -> bool:
    answers = out / "runs" / "baseline" / "scienceqa_img.jsonl"
    return answers.is_file() and answers.stat().st_size > 0


def training(out: Path) -> bool:
    return newest_checkpoint(out / "arms" / "cal" / "it" / "checkpoints") is not None


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_and_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    config = lay_out(tmp_path)
    undisturbed = start(config, "undisturbed")
    printed, told = undisturbed.communicate(timeout=PATIENCE)
    assert undisturbed.returncode == 0, told

    kill_when(config, "killed", answering)
    kill_when(config, "killed", training)
    last = start(config, "killed")
    printed_again, told_again = last.communicate(timeout=PATIENCE)
    assert last.returncode == 0, told_again

    whole, torn = tmp_path / "undisturbed", tmp_path / "killed"
    for file in [*SUMMARIES, *WEIGHTS, "tables.md", "tables.json", "config.yaml"]:
        assert (torn / file).read_bytes() == (whole / file).read_bytes(), file
    assert json.loads((torn / "arms" / "cal" / "it" / "train.json").read_text())["resumed_at_step"] in (2, 4)
    assert printed == printed_again == (whole / "tables.md").read_text()
    check_what_it_left(whole, told)


def check_what_it_left(out: Path, told: str) -> None:
    records = json.loads((out / "records.json").read_text())
    assert set(records["arms"]) == {"baseline", "cal"}
    assert records["arms"]["baseline"]["training"]["it"]["cal"] is None
    assert records["arms"]["cal"]["training"]["it"]["cal"]["beta"] == 3
    data = [records["arms"][arm]["training"]["it"]["identity"]["data"] for arm in records["arms"]]
    assert data[0] == data[1]
    swapped = [(out / "arms" / arm / "it" / "swapped.json").read_bytes() for arm in records["arms"]]
    assert swapped[0] == swapped[1]
    for file in ("records.json", "tables.json", "tables.md", "config.yaml"):
        assert str(out.parent) not in (out / file).read_text(), file
    assert "| baseline |" in (out / "tables.md").read_text()
    assert "Next: cal-bench page" in told
    assert "\x1b" not in told


def test_sharing_follows_the_settings_up_to_a_stage(tmp_path: Path) -> None:
    arms = {"baseline": {}, "late": {"it": {}}, "cal": {"pt": {}, "it": {}}, "same": {"pt": {}, "it": {"beta": 5}}}
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump({**STUDY, "arms": arms}, sort_keys=False))
    study = load_study(str(config))
    shared = {arm: [stage_folder(study, Path("o"), arm, stage) for stage in study.stages] for arm in study.arms}
    assert shared == {
        "baseline": [Path("o/arms/baseline/pt"), Path("o/arms/baseline/it")],
        "late": [Path("o/arms/baseline/pt"), Path("o/arms/late/it")],
        "cal": [Path("o/arms/cal/pt"), Path("o/arms/cal/it")],
        "same": [Path("o/arms/cal/pt"), Path("o/arms/cal/it")],
    }


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda folder: (folder / "train.json").unlink(), r"stages\.pt\.data: .*train\.json"),
        (lambda folder: shutil.rmtree(folder / "bench"), r"evaluate\.data: .*bench"),
        (lambda folder: (folder / "images" / "0.png").unlink(), r"1 image\(s\) are missing"),
        (lambda folder: (folder / "train.json").write_text("{}"), "list of records"),
        (lambda folder: (folder / "base" / "model.safetensors").write_bytes(b"cut"), "half-written"),
        (lambda folder: (folder / "bench" / "mme.parquet").unlink(), "mme"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_trained(
    tmp_path: Path, break_it: Callable[[Path], None], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = lay_out(tmp_path)
    break_it(tmp_path)
    monkeypatch.setattr(study_module, "train_stage", lambda *given: pytest.fail("it trained"))
    assert main(["study", str(config), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert re.search(told, message), message


def test_a_parameter_that_the_base_lacks_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    stages = {**STUDY["stages"], "it": {**STUDY["stages"]["it"], "train": ["model.langauge_model"]}}
    study = load_study(str(lay_out(tmp_path, stages=stages)))
    with pytest.raises(UserError, match=r"Did you mean 'model\.language_model'"):
        prepare(study, tmp_path / "out")


def test_a_batch_that_cannot_be_cut_up_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    stages = {**STUDY["stages"], "it": {**STUDY["stages"]["it"], "batch_size": 3, "per_device_batch_size": 2}}
    study = load_study(str(lay_out(tmp_path, stages=stages)))
    with pytest.raises(UserError, match="batch_size 3 is not a multiple of per_device_batch_size 2"):
        prepare(study, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "told"), [("wandbb", "knows no 'wandbb'. Did you mean 'wandb'"), ("dagshub", "the package behind dagshub")]
)
def test_what_cannot_be_reported_to_is_told_before_anything_is_trained(name: str, told: str, tmp_path: Path) -> None:
    stages = {**STUDY["stages"], "it": {**STUDY["stages"]["it"], "report_to": [name]}}
    study = load_study(str(lay_out(tmp_path, stages=stages)))
    with pytest.raises(UserError, match=told):
        prepare(study, tmp_path / "out")


def test_a_stage_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    study = prepare(load_study(str(lay_out(tmp_path))), tmp_path / "out").study
    stage = replace(study.stages["pt"], batch_size=3, per_device_batch_size=2)
    with pytest.raises(UserError, match="batch_size 3"):
        train_stage(Path(study.model), tmp_path / "trained", stage, None)
    assert not (tmp_path / "trained").exists()


def test_too_little_disk_is_told_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(str(lay_out(tmp_path)))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"0\.0 GB free, and 4 stages need"):
        prepare(study, tmp_path / "out")


def test_without_java_captions_are_approximate_until_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = {**STAGE, "max_steps": 1}
    evaluate = {"benchmarks": ["chartqa", "textcaps"], "data": "bench", "limit": 2}
    config = lay_out(tmp_path, stages={"pt": stage}, arms={"only": {}}, evaluate=evaluate)
    tasks_rows.write(tmp_path / "bench", "textcaps")
    study = load_study(str(config))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        outcome = run_study(study, tmp_path / "out", "cal-bench study tiny")
    assert outcome.complete
    assert "VQA-Chart" in outcome.tables
    assert "TextCaps" not in outcome.tables
    told = capsys.readouterr().err
    assert "Not in the tables for want of Java: textcaps." in told
    assert told.index("No Java here: textcaps will be scored with") < told.index("only: stage pt")
    assert "TextCaps" in run_study(study, tmp_path / "out", "cal-bench study tiny").tables


def test_a_training_of_other_settings_is_refused(tmp_path: Path) -> None:
    study = load_study(str(lay_out(tmp_path)))
    short = replace(study, stages={"pt": replace(study.stages["pt"], max_steps=1)}, arms={"baseline": {}})
    train_arm(prepare(short, tmp_path / "out"), "baseline")
    other = replace(short, stages={"pt": replace(short.stages["pt"], learning_rate=0.5)})
    with pytest.raises(UserError, match="learning_rate changed"):
        train_arm(prepare(other, tmp_path / "out"), "baseline")


def test_an_arm_of_another_study_may_be_copied_and_is_not_trained_again(tmp_path: Path) -> None:
    study = load_study(str(lay_out(tmp_path)))
    short = replace(study, stages={"pt": replace(study.stages["pt"], max_steps=1)}, arms={"baseline": {}})
    trained = train_arm(prepare(short, tmp_path / "one"), "baseline")
    copied = Path(shutil.copytree(trained, tmp_path / "two" / "arms" / "plain" / "pt"))
    before = (copied / "train.json").stat().st_mtime_ns
    assert train_arm(prepare(replace(short, arms={"plain": {}}), tmp_path / "two"), "plain") == copied
    assert (copied / "train.json").stat().st_mtime_ns == before


def test_what_a_refused_study_would_replace_stays(tmp_path: Path) -> None:
    """The config and the pictures in the folder are those of the trainings in it."""
    stage = {**STAGE, "template": "v1", "max_steps": 1}
    world = {"pretrain": 4, "train": 4, "test": 2, "seed": 1}
    config = lay_out(tmp_path, stages={"pt": stage}, arms={"baseline": {}}, world=world)
    study, out = load_study(str(config)), tmp_path / "out"
    train_arm(prepare(study, out), "baseline")
    before = {file: file.read_bytes() for file in (out / "config.yaml", out / "data" / "train.json")}
    faster = replace(study, stages={"pt": replace(study.stages["pt"], learning_rate=0.5)})
    with pytest.raises(UserError, match="learning_rate changed"):
        prepare(faster, out)
    with pytest.raises(UserError, match="holds trainings in another world"):
        prepare(replace(study, world=WorldSizes(4, 8, 2, 1)), out)
    assert before == {file: file.read_bytes() for file in before}
    prepare(study, out)
