"""The command line: what a person reads, where, and with which exit code."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from cal_bench import cli, commands
from cal_bench.cli import main
from cal_bench.tasks import names
from tests import tasks_rows
from tests.tiny import save_tiny

ROOT = Path(__file__).resolve().parents[1]


def told(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """What a wrong command is told."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def predictions(folder: Path, answers: dict[int, str]) -> Path:
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps({"id": number, "answer": text}) + "\n" for number, text in answers.items()), encoding="utf-8")
    return path


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    folder = tmp_path / "bench"
    folder.mkdir()
    for name in ("chartqa", "scienceqa_img", "textcaps"):
        tasks_rows.write(folder, name)
    return folder


def test_tasks_lists_every_benchmark_in_the_order_of_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(names())
    assert "(needs java)" in next(line for line in lines if line.startswith("textcaps"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stduy", "demo"], "there is no command 'stduy'. Did you mean 'study'?"),
        (["study", "dmeo"], "no recipe 'dmeo'"),
        (["study", "nowhere/study.yaml"], "There is no config file and no recipe 'nowhere/study.yaml'."),
        (["score", "charqa", "--predictions", "x"], "no benchmark 'charqa'. Did you mean 'chartqa'?"),
        (["eval", "charqa", "--model", "x"], "no benchmark 'charqa'. Did you mean 'chartqa'?"),
        (["eval", "all", "charqa", "--model", "x"], "no benchmark 'charqa'. Did you mean 'chartqa'?"),
        (["eval", "chartqa", "--model", "./nowhere"], "nowhere"),
        (["study", "demo", "--data", "x"], "there is no argument '--data'. Did you mean '--data-root'?"),
        (["study", "demo", "--gpus", "2"], "--gpus is for --launcher or --dry-run"),
        (["study", "demo", "--seed", "-1", "--dry-run"], "seed: expected a number from 0"),
        (["compare", str(ROOT / "results" / "mini-noise")], "is a study over seeds"),
        (["eval", "chartqa", "--model", "x", "--limit", "0"], "expected a number of at least 1, got 0"),
        (["eval", "chartqa", "--model", "x", "--limit", "few"], "expected a number of at least 1, got few"),
        (["eval", "chartqa", "--model", "x", "--batchsize", "4"], "Did you mean '--batch-size'?"),
        (["eval", "chartqa"], "the following arguments are required: --model"),
        (["score", "chartqa", "--predictions", "nowhere.jsonl"], "The file of answers nowhere.jsonl does not exist."),
        (["table", "nowhere"], "nowhere is not a run folder"),
    ],
)
def test_a_wrong_command_is_told_what_to_type(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert message in told(capsys, arguments)


def test_no_command_at_all_is_told_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert "COMMAND" in told(capsys, [])


def test_score_prints_the_score_of_answers_in_a_file(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = {number: str(10 * number) for number in range(12)}
    arguments = ["score", "chartqa", "--predictions", str(predictions(tmp_path, right)), "--data", str(bench)]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"chartqa +VQA-Chart +100\.0 % +\(12 samples\)", lines[0])
    assert ["relaxed_overall", "1.0000"] in [line.split() for line in lines]


def test_score_writes_a_run_that_table_reads(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = {number: str(10 * number) if number < 6 else "" for number in range(12)}
    arguments = [
        "score",
        "chartqa",
        "--predictions",
        str(predictions(tmp_path, half)),
        "--data",
        str(bench),
        "--out",
        str(tmp_path / "half"),
    ]
    assert main(arguments) == 0
    assert "12 samples, 6 empty" in capsys.readouterr().out
    assert main(["table", str(tmp_path / "half")]) == 0
    printed = capsys.readouterr().out
    assert "| half | 50.0 |" in printed
    assert main(["table", str(tmp_path / "half"), "--out", str(tmp_path / "tables.md")]) == 0
    assert (tmp_path / "tables.md").read_text() == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("".join(f'{{"id": {number}, "answer": ""}}\n' for number in range(2, 14)), "  2 missing: 0-1\n  2 not in the benchmark: 12-13"),
        ('{"id": 0, "answer": ""}\n{"id": 0, "answer": "a"}\n', "line 2: id 0 has an answer already"),
        ('{"id": "0", "answer": ""}\n', 'line 1: the id is "0". Expected the row number'),
        ('{"id": 0}\n', "line 1 has no 'answer', only 'id'"),
        ("\n[1]\n", "line 2: expected"),
        ("0: a\n", "line 1 is not whole JSON"),
        ("", "12 missing"),
    ],
)
def test_answers_that_do_not_fit_are_named(
    tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    assert message in told(capsys, ["score", "chartqa", "--predictions", str(path), "--data", str(bench)])


def test_a_prediction_may_hold_any_line_separator_that_json_allows(tmp_path: Path, bench: Path) -> None:
    answers = dict.fromkeys(range(12), "a\u2028b\x85c")
    path = tmp_path / "answers.jsonl"
    path.write_text(
        "".join(json.dumps({"id": key, "answer": text}, ensure_ascii=False) + "\r\n" for key, text in answers.items()), newline=""
    )
    assert main(["score", "chartqa", "--predictions", str(path), "--data", str(bench)]) == 0


def test_eval_answers_scores_and_goes_on(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny(tmp_path / "model")
    arguments = [
        "eval",
        "chartqa",
        "scienceqa_img",
        "--model",
        str(model),
        "--data",
        str(bench),
        "--out",
        str(tmp_path / "run"),
        "--limit",
        "3",
    ]
    assert main(arguments) == 0
    first = capsys.readouterr()
    assert [line.split()[0] for line in first.out.splitlines()] == ["chartqa", "scienceqa_img"]
    assert "3 samples, limited" in first.out
    assert f"Next: cal-bench table {tmp_path / 'run'}" in first.err
    assert main(arguments) == 0
    assert capsys.readouterr().out == first.out
    assert "with no limit" not in first.err
    assert "limit" in told(capsys, arguments[:-2])


def test_without_java_captions_are_scored_approximately_and_kept_out_of_tables(
    tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(tmp_path / "run")
    captions = predictions(tmp_path, {number: tasks_rows.captions(number)[number % 3] for number in range(12)})
    score = ["score", "textcaps", "--predictions", str(captions), "--data", str(bench), "--out", run]
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert main(score) == 0
    captured = capsys.readouterr()
    charts = predictions(tmp_path, dict.fromkeys(range(12), "10"))
    assert main(["score", "chartqa", "--predictions", str(charts), "--data", str(bench), "--out", run]) == 0
    capsys.readouterr()
    assert "(12 samples, cider_approx)" in captured.out
    assert "coco" not in captured.out
    assert "To get Java, type: sudo apt-get install default-jre-headless" in captured.err
    assert main(["table", run]) == 0
    captured = capsys.readouterr()
    assert "TextCaps" not in captured.out
    assert "Left out, being cider_approx: run textcaps." in captured.err
    assert main(["table", run, "--allow-approx"]) == 0
    printed = capsys.readouterr().out
    assert "TextCaps" in printed
    assert "tokenizer without Java" in printed
    assert "--allow-approx`" in printed
    assert main(["rescore", run]) == 0
    assert "cider_approx" not in capsys.readouterr().out
    assert main(["table", run]) == 0
    assert "TextCaps" in capsys.readouterr().out


def test_a_picture_that_cannot_be_read_fails_its_benchmark_and_no_other(
    tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tasks_rows.rows("chartqa")
    rows[4]["image"] = {"bytes": rows[4]["image"]["bytes"][:40], "path": "4.png"}
    tasks_rows.write(bench, "chartqa", rows)
    model = save_tiny(tmp_path / "model")
    arguments = ["eval", "chartqa", "scienceqa_img", "--model", str(model), "--data", str(bench), "--out", str(tmp_path / "run")]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "1 samples could not be answered" in captured.out
    assert "sample 4:" in captured.err
    assert (tmp_path / "run" / "scienceqa_img.json").is_file()
    assert not (tmp_path / "run" / "chartqa.json").exists()


@pytest.mark.parametrize(
    ("name", "column", "words"), [("pope", "question", "cannot make a question of row 4"), ("chartqa", "answer", "cannot score row 4")]
)
def test_a_row_that_cannot_be_used_fails_its_benchmark_and_no_other(
    name: str, column: str, words: str, tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tasks_rows.rows(name)
    rows[4][column] = None
    tasks_rows.write(bench, name, rows)
    model = save_tiny(tmp_path / "model")
    arguments = ["eval", name, "scienceqa_img", "--model", str(model), "--data", str(bench), "--out", str(tmp_path / "run")]
    assert main(arguments) == 1
    assert f"not complete: {name}: lmms-eval's code {words}" in capsys.readouterr().out
    assert (tmp_path / "run" / "scienceqa_img.json").is_file()
    assert not (tmp_path / "run" / f"{name}.json").exists()


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "tasks", lambda arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["tasks"])


def test_ctrl_c_says_that_the_same_command_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(arguments: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "tasks", interrupted)
    assert main(["tasks"]) == 130
    assert "The same command goes on from here" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_command_with_130(number: signal.Signals) -> None:
    # A shell's background jobs are started with SIGINT ignored, and whoever runs the tests may be one.
    code = (
        "import signal, time; from cal_bench import cli, commands\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "commands.tasks = lambda arguments: print('begun', flush=True) or time.sleep(60)\n"
        "raise SystemExit(cli.main(['tasks']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    message = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert message == "cal-bench: stopped. The same command goes on from here.\n"


def test_a_signal_that_comes_while_an_error_is_told_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    told: list[str] = []

    def tell(text: str, in_all: bool = True) -> None:
        told.append(text)
        if len(told) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cli, "_tell", tell)
    assert main(["taks"]) == 130
    assert [text.split("\n")[0][:30] for text in told] == ["there is no command 'taks'. Di", "stopped. The same command goes"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    finished = subprocess.run([sys.executable, "-m", "cal_bench.cli", "tasks"], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_exit_codes_are_those_of_the_documentation() -> None:
    assert (cli.DONE, commands.FAILED, cli.WRONG_COMMAND, cli.STOPPED) == (0, 1, 2, 130)
