"""A study over several seeds: its folders, its one world, what it says beforehand, and what it leaves."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cal_bench import several as several_module
from cal_bench.cli import main
from cal_bench.config import StudyConfig, load_study
from cal_bench.miniworld import WorldSizes
from cal_bench.outlook import Work, left_line, merged, plan_lines, step_count, training_work
from cal_bench.records import Answer, Identity, Questions
from cal_bench.runs import Run
from cal_bench.seeds import run_seeds
from cal_bench.study import Outcome, works
from tests.made_up import arm, summaries, write_study
from tests.test_compare import result
from tests.test_study import STAGE, STUDY, lay_out

NAMES = {"docvqa": "%", "pope": "%"}
WORLD = {"pretrain": 2, "train": 2, "test": 2, "seed": 1}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, Path, str]]:
    """Studies are not run but written down: name, seed, folder and command. A world is a folder that is drawn."""
    seen: list[tuple[str, int, Path, str]] = []

    def run(study: StudyConfig, out: Path, command: str, launcher: tuple[str, ...] = ()) -> Outcome:
        seen.append((study.name, study.seed, out, command))
        stage = study.stages["it"]
        chances = {"baseline": 0.5, "cal": 0.55}
        seed, swap = study.seed, stage.swap
        write_study(out, {name: arm(name, summaries(NAMES, chance, seed), seed, swap) for name, chance in chances.items()})
        return Outcome("", complete=True)

    def draw(folder: Path, sizes: WorldSizes) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "drawn").write_text((folder / "drawn").read_text() + "again" if (folder / "drawn").exists() else str(sizes))

    monkeypatch.setattr(several_module, "run_study", run)
    monkeypatch.setattr(several_module, "draw_world", draw)
    return seen


def config(folder: Path, **changes: Any) -> str:
    path = folder / f"{changes.get('name', 'tiny')}.yaml"
    path.write_text(yaml.safe_dump({**STUDY, "world": WORLD, **changes}, sort_keys=False))
    return str(path)


def test_every_seed_has_a_folder_and_all_see_the_same_pictures(tmp_path: Path, ran: list[Any]) -> None:
    out = tmp_path / "out"
    outcome = run_seeds(config(tmp_path), [3, 0], out)
    assert ran == [("tiny", seed, out / f"seed-{seed}", f"cal-bench study tiny.yaml --seed {seed}") for seed in (3, 0)]
    assert {(out / f"seed-{seed}" / "data").resolve() for seed in (3, 0)} == {out / "data"}
    assert "again" not in (out / "data" / "drawn").read_text()
    assert "Means over the seeds 3, 0 ±" in outcome.tables
    assert outcome.tables == (out / "tables.md").read_text()
    assert "Made by `cal-bench study tiny.yaml --seeds 3 0`." in outcome.tables
    assert (out / "differences.png").is_file()


def test_a_list_of_studies_is_run_for_every_seed_and_one_table_holds_them_all(tmp_path: Path, ran: list[Any]) -> None:
    stages = [{**STUDY["stages"], "it": {**STUDY["stages"]["it"], "swap": swap}} for swap in (0.0, 0.3)]
    for place, stage in enumerate(stages):
        config(tmp_path, name=f"noise-{place}", stages=stage)
    listed = tmp_path / "noise.yaml"
    listed.write_text(yaml.safe_dump({"name": "noise", "studies": ["noise-0.yaml", "noise-1.yaml"]}))
    out = tmp_path / "out"
    outcome = run_seeds(str(listed), [0, 1], out)
    assert [(name, seed, str(folder.relative_to(out))) for name, seed, folder, _ in ran] == [
        ("noise-0", 0, "seed-0/noise-0"),
        ("noise-1", 0, "seed-0/noise-1"),
        ("noise-0", 1, "seed-1/noise-0"),
        ("noise-1", 1, "seed-1/noise-1"),
    ]
    assert {(folder / "data").resolve() for _, _, folder, _ in ran} == {out / "data"}
    assert "| noise-1+cal |" in outcome.tables
    assert "## noise-0+cal against noise-0" in (out / "comparison.md").read_text()
    assert (out / "swaps.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seeds", "1", "1"], "A seed is given twice in --seeds 1 1"),
        (["--seeds", "1", "--seed", "1"], "--seed and --seeds say two things"),
        (["--seeds", "one"], "invalid int value: 'one'"),
        (["--seeds"], "--seeds: expected at least one argument"),
    ],
)
def test_wrong_seeds_are_told(tmp_path: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", config(tmp_path), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_plan_of_several_seeds_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay_out(tmp_path)
    assert main(["study", str(tmp_path / "study.yaml"), "--seeds", "0", "1", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Once for each of the seeds 0 1:\nPlan of tiny")
    assert "--seeds 0 1" in text.splitlines()[-1]


def test_a_study_of_two_seeds_from_config_to_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate = {"benchmarks": ["chartqa", "scienceqa_img"], "data": "bench"}
    stages = {"it": {**STAGE, "max_steps": 2, "save_steps": None}}
    study = str(lay_out(tmp_path, stages=stages, arms={"baseline": {}, "cal": {"it": {}}}, evaluate=evaluate))
    out = tmp_path / "out"
    command = ["study", study, "--seeds", "0", "1", "--out", str(out)]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "±" in shown.out
    assert "Plan of tiny, seed 0:\n  it  9 samples, 2 steps; 2 x: baseline, cal\n  then 2 benchmarks for each arm" in shown.err
    assert "Time left: about" in shown.err
    assert "for 1 x it, 1 x evaluation" in shown.err
    assert "All seeds: Time left: about" in shown.err
    weights = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    assert len(weights) == 4
    assert len({path.read_bytes() for path in weights}) == 4
    costs = (out / "costs.md").read_text()
    assert "## Stage it" in costs
    assert "| cal | 2 |" in costs
    records = json.loads((out / "seed-1" / "records.json").read_text())["arms"]["cal"]
    assert (records["training"]["it"]["seed"], records["run"]["identity"]["model"]) == (1, "arms/cal/it")
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")} == weights
    assert capsys.readouterr().out == shown.out


def test_steps_are_those_of_whole_batches(tmp_path: Path) -> None:
    stage = load_study(config(tmp_path)).stages["it"]
    endless = stage.__class__(**{**vars(stage), "max_steps": -1, "epochs": 1.5, "batch_size": 4})
    assert (step_count(stage, 9), step_count(endless, 9), step_count(endless, 8)) == (6, 5, 3)
    lines = plan_lines({"it": endless}, {"it": 1200}, {"it": {Path("a"): "baseline", Path("b"): "cal"}})
    assert lines == ["  it  1,200 samples, 450 steps; 2 x: baseline, cal"]


def test_time_left_is_that_of_the_pieces_done_for_those_that_wait() -> None:
    pt, it = Work("pt", (60.0, 120.0), 2), Work("it", (), 3)
    assert left_line([pt]) == "Time left: about 3 min 0 s for 2 x pt"
    assert left_line([pt, it]) == "Time left: about 3 min 0 s for 2 x pt; not known yet for 3 x it"
    assert left_line([Work("pt", (60.0,), 0)]) == ""
    assert merged([pt, it, Work("pt", (30.0,), 1)]) == [Work("pt", (60.0, 120.0, 30.0), 3), it]


def test_the_time_of_a_training_is_that_of_all_its_steps_and_none_before_it_is_complete(tmp_path: Path) -> None:
    records = [
        {"status": "complete", "wall_seconds": 30, "steps": 100, "resumed_at_step": None},
        {"status": "complete", "wall_seconds": 30, "steps": 100, "resumed_at_step": 50},
        {"status": "running"},
    ]
    folders = [tmp_path / str(place) for place in range(4)]
    for folder, record in zip(folders, records, strict=False):
        folder.mkdir()
        (folder / "train.json").write_text(json.dumps(record))
    assert training_work("it", folders) == Work("it", (30.0, 60.0), 2)


def test_shared_trainings_and_evaluations_are_counted_once_each(tmp_path: Path) -> None:
    arms = {"baseline": {}, "late": {"it": {}}, "cal": {"pt": {}, "it": {}}}
    study = load_study(config(tmp_path, arms=arms, evaluate={"benchmarks": ["docvqa"]}))
    run = Run.open(tmp_path / "runs" / "late", Identity("m", "w" * 64), {})
    run.begin("docvqa", Questions("d", "p", (), 2, None))
    with run.appending("docvqa") as append:
        for number in range(2):
            append(Answer(number, "p", "yes", 1.5))
    run.finish(result("docvqa", [1, 0]))
    assert works(study, tmp_path) == [Work("pt", (), 2), Work("it", (), 3), Work("evaluation", (3.0,), 2)]


def test_one_seed_alone_has_no_mean_over_seeds(tmp_path: Path, ran: list[Any]) -> None:
    outcome = run_seeds(config(tmp_path), [4], tmp_path / "out")
    assert "Seed 4 alone." in outcome.tables
    assert "±" not in outcome.tables
