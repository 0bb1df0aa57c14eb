"""Results for other places: the hub's formats as the hub's own library reads them, and loggers by stand-ins."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from cal_bench import cli
from cal_bench.records import TaskResult
from cal_bench.tasks import get
from tests.test_compare import result
from tests.test_page import write_run


def whole(name: str, right: int, **changes: Any) -> TaskResult:
    """A result of as many samples as the benchmark has."""
    size = get(name).size
    return result(name, [1.0] * right + [0.0] * (size - right), **changes)


def exported(*arguments: object) -> int:
    return cli.main(["export", *map(str, arguments)])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    metrics = {"exact_match": 0.4, "no_value": None}
    results = [
        whole("mmstar", 513),
        whole("scienceqa_img", 1000, metrics=metrics),
        result("docvqa", [1.0] * 100, limit=100),
        result("pope", [1.0] * 50),
    ]
    return write_run(tmp_path / "llava", results, {})


def test_the_hub_reads_what_is_written_for_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exported(run, "--hub-eval-results") == 0
    told = capsys.readouterr()
    folder = run / "export" / ".eval_results"
    assert told.out.splitlines() == [str(folder / "mmstar.yaml"), str(folder / "scienceqa_img.yaml")]
    assert "docvqa (limited to 100 samples), pope (50 samples, the benchmark has 9,000)" in told.err
    [entry] = parse_eval_result_entries(yaml.safe_load((folder / "scienceqa_img.yaml").read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("lmms-lab-encoder/ScienceQA", "ScienceQA-IMG", round(100 * 1000 / 2017, 4))
    assert entry.notes == "%; 2,017 samples of split test; lmms-eval 0.7.3; data dddddddddddd"
    [entry] = parse_eval_result_entries(yaml.safe_load((folder / "mmstar.yaml").read_text()))
    assert (entry.task_id, entry.value) == ("default", 34.2)


def test_parts_of_benchmarks_alone_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "part", [result("pope", [1.0] * 50), whole("textcaps", 10, approximate=True)], {})
    assert exported(run, "--hub-eval-results", "--out", tmp_path / "out") == 2
    assert "pope (50 samples, the benchmark has 9,000), textcaps (approximate, without Java)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_card_is_one_that_the_hub_reads(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exported(run, "--card", "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out == f"{tmp_path}/out/card.md\n"
    card = ModelCard.load(tmp_path / "out" / "card.md")
    results = card.data.eval_results
    assert results is not None
    assert {(one.dataset_name, one.metric_value) for one in results} == {("MMSTAR", 34.2), ("SCIENCEQA_IMG", round(100 * 1000 / 2017, 4))}
    assert card.data.pipeline_tag == "image-text-to-text"
    assert "| llava |" in card.text
    assert "† Limited to at most 100 random samples" in card.text
    assert "- transformers 5" in card.text


def test_a_card_of_parts_has_tables_and_no_metadata_of_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "part", [result("pope", [1.0] * 50)], {})
    assert exported(run, "--card") == 0
    assert "Not given as results of the benchmark: pope (50 samples, the benchmark has 9,000)" in capsys.readouterr().err
    text = (run / "export" / "card.md").read_text()
    assert "model-index" not in text
    assert "POPE" in text


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_scores_are_logged_as_one_run(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tracker: str) -> None:
    calls: list[tuple[str, Any]] = []

    def init(**settings: Any) -> None:
        print("chatter")
        calls.append(("init", settings))

    stand_in = SimpleNamespace(init=init, log=lambda scores: calls.append(("log", scores)), finish=lambda: calls.append(("finish", None)))
    monkeypatch.setitem(sys.modules, tracker, stand_in)  # type: ignore[arg-type]
    assert exported(run, f"--{tracker}", "vlm") == 0
    assert [name for name, _ in calls] == ["init", "log", "finish"]
    settings, scores = calls[0][1], calls[1][1]
    assert (settings["project"], settings["name"], settings["config"]["weights"]) == ("vlm", "llava", "llava")
    assert scores["eval/mmstar"] == pytest.approx(34.2)
    assert scores["eval/scienceqa_img/exact_match"] == 0.4
    assert not any("no_value" in name for name in scores)
    assert capsys.readouterr().out == f"5 scores in project vlm of {tracker}\n"


def test_a_tracker_that_takes_nothing_is_a_message(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def init(**settings: Any) -> None:
        raise LookupError("No API key configured.")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))  # type: ignore[arg-type]
    assert exported(run, "--wandb", "vlm") == 2
    assert "wandb did not take the scores: No API key configured." in capsys.readouterr().err


def test_tensorboard_gets_a_scalar_for_each_score(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, float] = {}

    class Writer:
        def __init__(self, log_dir: str) -> None:
            assert log_dir == str(run / "export")

        def __enter__(self) -> "Writer":
            return self

        def __exit__(self, *rest: object) -> None:
            written["closed"] = 1

        def add_scalar(self, name: str, value: float, step: int) -> None:
            assert step == 0
            written[name] = value

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))  # type: ignore[arg-type]
    assert exported(run, "--tensorboard") == 0
    assert written["eval/docvqa"] == 100
    assert written["closed"]


def test_a_real_event_file_is_read_back(run: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    assert exported(run, "--tensorboard") == 0
    events = accumulator.EventAccumulator(str(run / "export"))
    events.Reload()
    assert events.Scalars("eval/docvqa")[0].value == 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Say where to: --hub-eval-results, --card"),
        (["--trackio", "p", "--card"], "trackio is not installed. Type: pip install trackio"),
        (["--crad"], "Did you mean '--card'"),
    ],
)
def test_mistakes_are_told(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)  # type: ignore[arg-type]
    assert exported(run, *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (run / "export").exists()


def test_a_folder_that_is_no_run_or_an_empty_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exported(tmp_path, "--card") == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert exported(write_run(tmp_path / "empty", [], {}), "--card") == 2
    assert "holds no complete benchmark" in capsys.readouterr().err
