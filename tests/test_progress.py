"""Progress: dated lines and no bars where nobody watches, on standard error only."""

import re

import pytest

from cal_bench import progress as module
from cal_bench.progress import duration, progress, say


@pytest.mark.parametrize(("seconds", "told"), [(0.2, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_a_duration_is_told_as_people_do(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_a_line_is_dated_and_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    say("hello")
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d hello\n", told.err)


def test_work_is_told_in_lines_with_rate_and_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    with progress("chartqa", 30, done=10) as advance:
        for _ in range(4):
            advance(5)
    lines = [line.split(" ", 2)[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["chartqa: 25 of 30, 0.5/s, 10 s left", "chartqa: 30 of 30, 50 s"]
