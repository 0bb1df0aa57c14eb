"""Several processes that answer together: shares, exactly one answer each, and the summary of one process, byte for byte."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cal_bench.errors import UserError
from cal_bench.ranks import ALONE, Ranks, joined
from cal_bench.records import Answer
from cal_bench.runner import evaluate
from cal_bench.runs import read_run
from cal_bench.tasks.base import Generation, Sample
from tests.test_records import QUESTIONS
from tests.test_runner import ToyModel, ToyTask, run_in

# What each process runs: argv are the run folder and what goes wrong.
PROCESS = """
import os, sys, time
from cal_bench.cli import main
from cal_bench import commands
from cal_bench.evaluation import Options, evaluate_model
from cal_bench.errors import UserError
from cal_bench.records import Identity
from pathlib import Path
from tests.test_runner import ToyModel, ToyTask, IDENTITY

class Model(ToyModel):
    def identity(self): return IDENTITY
    def answer(self, samples):
        mine = os.environ.get("RANK", "0")
        for number, reply in enumerate(super().answer(samples)):
            if sys.argv[2] == "kill " + mine and number == 2: os.kill(os.getpid(), 9)
            yield reply

def evaluate(arguments):
    if sys.argv[2] == "missing " + os.environ.get("RANK", "0"): raise UserError("the model is not here")
    task = ToyTask(data_fingerprint="d2") if sys.argv[2] == "other data" else ToyTask()
    evaluate_model(Model(torn=(3,) if sys.argv[2] == "torn" else ()), [task], Path(sys.argv[1]), Options(4))
    return 0

commands.tasks = evaluate
sys.exit(main(["tasks"]))
"""


def sample(number: int, cluster: str | None) -> Sample:
    return Sample(number, "?", list, Generation(1, ()), "", cluster)


def test_every_sample_is_in_one_share_and_pictures_stay_together() -> None:
    samples = [sample(number, f"picture {number // 3}" if number < 12 else None) for number in range(23)]
    shares = [Ranks(rank, 4).share(samples) for rank in range(4)]
    assert sorted(one.id for share in shares for one in share) == list(range(23))
    assert sorted(map(len, shares)) == [5, 6, 6, 6]
    for picture in range(4):
        assert sum(any(one.cluster == f"picture {picture}" for one in share) for share in shares) == 1
    assert ALONE.share(samples) == samples


def test_more_processes_than_samples_leave_some_without_work() -> None:
    assert [len(Ranks(rank, 3).share([sample(1, None)])) for rank in range(3)] == [1, 0, 0]


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as ranks:
        assert ranks == ALONE
        assert ranks.each(lambda: 3) == [3]
        assert ranks.once(lambda: 3) == 3


# The files of several processes


def written(folder: Path, rank: int, count: int, *answers: Answer) -> None:
    run = run_in(folder)
    run.begin("toy", QUESTIONS)
    with run.appending("toy", rank, count) as append:
        for answer in answers:
            append(answer)


def test_what_each_wrote_becomes_one_file(tmp_path: Path) -> None:
    written(tmp_path, 0, 2, Answer(4, "p", "four", 0.5))
    written(tmp_path, 1, 2, Answer(1, "p", "one", 0.5), Answer(9, "p", "nine", 0.5))
    assert (tmp_path / "toy.rank1-of-2.jsonl").is_file()
    run = run_in(tmp_path)
    assert sorted(run.answered("toy")) == [1, 4, 9]
    run.gather("toy")
    assert [path.name for path in tmp_path.glob("*.jsonl*")] == ["toy.jsonl"]
    assert list(run.answered("toy")) == [1, 4, 9]


def test_a_gathering_that_was_killed_before_it_removed_the_parts_is_done_again(tmp_path: Path) -> None:
    written(tmp_path, 0, 2, Answer(4, "p", "four", 0.5))
    written(tmp_path, 1, 2, Answer(1, "p", "one", 0.5))
    part = (tmp_path / "toy.rank1-of-2.jsonl").read_bytes()
    run_in(tmp_path).gather("toy")
    (tmp_path / "toy.rank1-of-2.jsonl").write_bytes(part)
    run_in(tmp_path).gather("toy")
    assert list(run_in(tmp_path).answered("toy")) == [1, 4]
    assert not (tmp_path / "toy.rank1-of-2.jsonl").exists()


def test_two_answers_to_a_sample_are_refused(tmp_path: Path) -> None:
    written(tmp_path, 0, 2, Answer(4, "p", "four", 0.5))
    written(tmp_path, 1, 2, Answer(4, "p", "five", 0.5))
    with pytest.raises(UserError, match=r"rank1-of-2\.jsonl holds a second answer to sample 4 of toy"):
        run_in(tmp_path).gather("toy")


def test_the_answers_of_a_process_that_died_count_for_other_questions_too(tmp_path: Path) -> None:
    written(tmp_path, 1, 2, Answer(4, "p", "four", 0.5))
    with pytest.raises(UserError, match=r"Give another run folder, or delete .*toy\.rank1-of-2\.jsonl"):
        run_in(tmp_path).begin("toy", replace(QUESTIONS, data="d2"))


# Processes


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


def launched(folder: Path, count: int, what: str = "", patience: float = 0, machines: int = 1) -> list[tuple[int, str, str]]:
    """Exit code, standard output and error of each process; those that another leaves behind are stopped, as launchers do, after so
    many seconds."""
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    here = count // machines
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(folder), what],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank % here)}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]  # fmt: skip
    while all(process.poll() is None for process in started):
        time.sleep(0.05)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and any(process.poll() is None for process in started):
        time.sleep(0.05)
    if any(process.poll() for process in started):
        for process in started:
            process.send_signal(signal.SIGTERM)
    told = [process.communicate(timeout=60) for process in started]
    return [(process.returncode, *said) for process, said in zip(started, told, strict=True)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    evaluate(ToyModel(), ToyTask(), run_in(folder))
    return folder


def test_the_summary_does_not_depend_on_the_number_of_processes(alone: Path, tmp_path: Path) -> None:
    (first, second) = launched(tmp_path / "two", 2)
    assert first[0] == second[0] == 0, (first, second)
    assert (tmp_path / "two" / "toy.json").read_bytes() == (alone / "toy.json").read_bytes()
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["run.json", "toy.json", "toy.jsonl"]
    assert "toy (first of 2 processes)" in first[2]
    assert second[1] == ""
    assert "toy" not in second[2]


def test_what_a_process_that_died_has_answered_is_kept_for_any_number_of_processes(alone: Path, tmp_path: Path) -> None:
    first, second = launched(tmp_path / "cut", 2, "kill 1")
    assert second[0] == -9
    assert first[0] != 0
    assert "Traceback" not in first[2]
    assert not (tmp_path / "cut" / "toy.json").exists()
    kept = run_in(tmp_path / "cut").answered("toy")
    assert 2 <= len(kept) < 10
    rest = ToyModel()
    assert evaluate(rest, ToyTask(), run_in(tmp_path / "cut")).complete
    assert sorted(rest.asked) == sorted(set(range(10)) - set(kept))
    assert (tmp_path / "cut" / "toy.json").read_bytes() == (alone / "toy.json").read_bytes()
    assert not list((tmp_path / "cut").glob("*.rank*"))


def test_a_sample_that_another_process_could_not_answer_is_known_to_all(tmp_path: Path) -> None:
    assert [outcome[0] for outcome in launched(tmp_path / "torn", 2, "torn")] == [0, 0]
    assert read_run(tmp_path / "torn").benchmarks["toy"].unanswered == {3: "picture 3 cannot be decoded"}
    assert not (tmp_path / "torn" / "toy.json").exists()


def test_a_refusal_is_told_once_and_ends_all(tmp_path: Path) -> None:
    evaluate(ToyModel(), ToyTask(), run_in(tmp_path))
    first, second = launched(tmp_path, 2, "other data", patience=50)
    assert (first[0], second[0]) == (2, 2)
    assert "other data" in first[2]
    assert second[2] == ""


def test_what_one_machine_lacks_is_told_there(tmp_path: Path) -> None:
    _, second = launched(tmp_path, 2, "missing 1", machines=2)
    assert second[0] == 2
    assert second[2] == "cal-bench, process 1: the model is not here\n"
