"""SIGTERM lets what is being answered be finished and written; Ctrl-C stops at once."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cal_bench.runner import evaluate
from cal_bench.stopping import unbroken
from tests.test_runner import ToyModel, ToyTask, run_in

# A model that answers four samples at once, and is told to stop while it does so.
STOPPED = """
import os, signal, sys
from pathlib import Path
from cal_bench import commands
from cal_bench.cli import main
from cal_bench.runner import evaluate
from cal_bench.stopping import unbroken
from tests.test_runner import ToyModel, ToyTask, run_in

class Batched(ToyModel):
    def answer(self, samples):
        for start in range(0, len(samples), 4):
            with unbroken():
                replies = list(super().answer(samples[start : start + 4]))
                if start == 4:
                    os.kill(os.getpid(), int(sys.argv[2]))
                yield from replies

def command(arguments):
    evaluate(Batched(), ToyTask(), run_in(Path(sys.argv[1])))
    return 0

commands.tasks = command
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its jobs in the background ignore it
sys.exit(main(["tasks"]))
"""


@pytest.fixture
def handled() -> Any:
    """A handler of our own for SIGTERM, as the command line has one."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    yield came
    signal.signal(signal.SIGTERM, before)


def test_a_stop_takes_effect_behind_what_must_not_be_broken(handled: list[int]) -> None:
    with unbroken():
        os.kill(os.getpid(), signal.SIGTERM)
        assert handled == []
    assert handled == [signal.SIGTERM]


def test_without_a_stop_nothing_happens_and_the_handler_is_back(handled: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with unbroken():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert handled == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_error_puts_the_handler_back(handled: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), unbroken():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    def work() -> None:
        with unbroken():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(("number", "kept"), [(signal.SIGTERM, 8), (signal.SIGINT, 4)])
def test_a_stopped_run_says_so_keeps_its_answers_and_goes_on(tmp_path: Path, number: int, kept: int) -> None:
    command = [sys.executable, "-c", STOPPED, str(tmp_path / "cut"), str(int(number))]
    stopped = subprocess.run(command, capture_output=True, text=True)
    assert stopped.returncode == 130, stopped.stderr
    assert "stopped. The same command goes on from here." in stopped.stderr
    assert len(run_in(tmp_path / "cut").answered("toy")) == kept
    rest = ToyModel()
    evaluate(rest, ToyTask(), run_in(tmp_path / "cut"))
    assert len(rest.asked) == 10 - kept
    evaluate(ToyModel(), ToyTask(), run_in(tmp_path / "whole"))
    assert (tmp_path / "cut" / "toy.json").read_bytes() == (tmp_path / "whole" / "toy.json").read_bytes()
