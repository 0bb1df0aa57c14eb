"""What a command says while it works: bars on a terminal, dated lines anywhere else; always on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 30.0


def say(text: str) -> None:
    """One line on standard error, dated where nobody watches."""
    stamp = "" if sys.stderr.isatty() else time.strftime("%Y-%m-%d %H:%M:%S ")
    print(stamp + text, file=sys.stderr, flush=True)


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show how far a piece of work is; gives the function to call with how many more are done."""
    show = _bar if sys.stderr.isatty() else _lines
    with show(label, total, done) as advance:
        yield advance


@contextmanager
def unseen(label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """The same for a process that leaves the speaking to another."""
    yield lambda count: None


@contextmanager
def _bar(label: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=total, completed=done, rate="")
        begun, ours = time.monotonic(), 0

        def advance(count: int) -> None:
            nonlocal ours
            ours += count
            bars.update(task, advance=count, rate=f"{ours / max(time.monotonic() - begun, 1e-9):.1f}/s")

        yield advance


@contextmanager
def _lines(label: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    begun = told = time.monotonic()
    first = done

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        now = time.monotonic()
        if now - told < SECONDS_BETWEEN_LINES or done >= total:
            return
        told = now
        rate = (done - first) / (now - begun)
        say(f"{label}: {done} of {total}, {rate:.1f}/s, {duration((total - done) / rate)} left")

    yield advance
    seconds = time.monotonic() - begun
    say(f"{label}: {done} of {total}, {duration(seconds)}")


def duration(seconds: float) -> str:
    """Seconds as people say them: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
