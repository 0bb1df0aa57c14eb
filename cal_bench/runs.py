"""A run folder: whose answers it holds, adding to it, finishing a benchmark of it."""

import dataclasses
import errno
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from cal_bench.errors import UserError
from cal_bench.records import (
    Answer,
    BenchmarkRecord,
    Identity,
    Questions,
    RunRecord,
    TaskResult,
    answer_from_json,
    answer_to_json,
    result_from_json,
    run_from_json,
    to_json,
)

RECORD = "run.json"
CONFIG = "config.yaml"  # of a study; in its folder from the start
PARTIAL = ".partial"  # behind the name of a file that is being written
SYNC_SECONDS = 5.0  # of answers that a machine may lose when it loses power; a process that is killed loses none
_PACKAGES = ("cal-bench", "lmms-eval", "torch", "transformers", "tokenizers", "pillow", "datasets")
_ANSWER_WORDS = {"data": "other data", "prompts": "other prompts", "generation": "other generation settings"}


class Run:
    """One model's answers and scores, in a folder; `open` makes it or goes on with it."""

    def __init__(self, folder: Path, record: RunRecord) -> None:
        self.folder = folder
        self.record = record

    @classmethod
    def open(cls, folder: str | Path, identity: Identity, config: Mapping[str, Any] | None = None) -> "Run":
        """Start a run in `folder` or go on with the one there; a run of another identity is refused."""
        folder = Path(folder)
        if (folder / CONFIG).is_file():
            raise UserError(f"{folder} is the folder of a study. Give a run one of its own, such as {folder / 'runs' / 'mine'}.")
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(folder):
            before = _record_in(folder)
            if before is None:
                record = RunRecord(identity, dict(config or {}), versions())
            else:
                check_identity(folder, before.identity, identity)
                merged = {name: _merged(before.versions.get(name, ""), version) for name, version in versions().items()}
                record = dataclasses.replace(before, config=dict(config or before.config), versions=merged)
            run = cls(folder, record)
            run._save(record)
        return run

    def begin(self, benchmark: str, questions: Questions) -> None:
        """Say what a benchmark is going to be asked; answers to other questions are refused."""
        if not self._is_begun(benchmark):
            if any(path.exists() for path in self._files(benchmark)):
                raise UserError(
                    f"{self.folder} holds answers to {benchmark} that are not in its {RECORD}. Give another run folder, or delete them."
                )
            self._save_benchmark(benchmark, BenchmarkRecord(questions))
        self.check(benchmark, questions)

    def check(self, benchmark: str, questions: Questions) -> None:
        """Refuse to go on where the folder holds answers to other questions."""
        if self._is_begun(benchmark) and (before := self.record.benchmarks[benchmark].questions) != questions:
            raise UserError(self._refusal(benchmark, before, questions))

    def _is_begun(self, benchmark: str) -> bool:
        self.record = _record_in(self.folder) or self.record
        return benchmark in self.record.benchmarks and any(path.exists() for path in self._files(benchmark))

    def result(self, benchmark: str) -> TaskResult | None:
        """The summary of a benchmark that is complete."""
        path = self.folder / f"{benchmark}.json"
        return _read_result(path) if path.is_file() else None

    def answered(self, benchmark: str) -> dict[int, Answer]:
        """What has been answered so far. A last line that was cut off while it was written does not count."""
        found: dict[int, Answer] = {}
        for path in (self._file(benchmark), *self._parts(benchmark)):
            for answer in _read_answers(path):
                if found.setdefault(answer.id, answer) != answer:
                    raise UserError(f"{path} holds a second answer to sample {answer.id} of {benchmark}. Delete one of the two lines.")
        return found

    @contextmanager
    def appending(self, benchmark: str, rank: int = 0, count: int = 1) -> Iterator[Callable[[Answer], None]]:
        """Gives the function that adds an answer; what it has added stays, whatever happens next.

        Of `count` processes each has a file of its own, the first one the benchmark's; `gather` puts them together.
        """
        path = self._file(benchmark, f".rank{rank}-of-{count}" if rank else "")
        with explained(path):
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file, path)
            with explained(path):
                _seek_behind_last_whole_line(file, path)
            yield _Appender(file, path).append
        finally:
            os.fsync(file)
            os.close(file)

    def gather(self, benchmark: str) -> None:
        """Put the answers of several processes into the benchmark's one file; at once or not at all."""
        if parts := self._parts(benchmark):
            answers = sorted(self.answered(benchmark).values(), key=lambda answer: answer.id)
            write_atomically(self._file(benchmark), "".join(map(answer_to_json, answers)))
            for part in parts:
                part.unlink()

    def finish(self, result: TaskResult) -> TaskResult:
        """Write a benchmark's summary, which is what makes it complete."""
        write_atomically(self.folder / f"{result.benchmark}.json", to_json(result))
        self.close(result.benchmark)
        return result

    def close(self, benchmark: str) -> None:
        """Record that a benchmark has its summary, unless that is said already."""
        entry = self.record.benchmarks[benchmark]
        if not entry.complete:
            self._save_benchmark(benchmark, BenchmarkRecord(entry.questions, complete=True))

    def leave_open(self, benchmark: str, unanswered: Mapping[int, str]) -> None:
        """Record which samples of a benchmark could not be answered, and why; it has no summary."""
        questions = self.record.benchmarks[benchmark].questions
        self._save_benchmark(benchmark, BenchmarkRecord(questions, unanswered=dict(sorted(unanswered.items()))))

    def _save_benchmark(self, benchmark: str, entry: BenchmarkRecord) -> None:
        """Add to the record as it is now: another command may be at another benchmark of the same folder."""
        with _alone_in(self.folder):
            now = _record_in(self.folder) or self.record
            self._save(dataclasses.replace(now, benchmarks={**now.benchmarks, benchmark: entry}))

    def _save(self, record: RunRecord) -> None:
        write_atomically(self.folder / RECORD, to_json(record))
        self.record = record

    def _refusal(self, benchmark: str, before: Questions, now: Questions) -> str:
        differences = []
        if before.limit != now.limit:
            differences.append(f"were given with {_limit(before.limit)}, this command has {_limit(now.limit)}")
        elif before.samples != now.samples:
            differences.append(f"are to {before.samples} samples, the benchmark now has {now.samples}")
        for name, words in _ANSWER_WORDS.items():
            old, new = getattr(before, name), getattr(now, name)
            if old != new:
                differences.append(f"are to {words} ({_shown(old)}, now {_shown(new)})")
        kept = " and ".join(str(path) for path in self._files(benchmark) if path.exists())
        return (
            f"The answers to {benchmark} in {self.folder} {', and '.join(differences)}. "
            f"Give another run folder, or delete {kept} to answer {benchmark} again."
        )

    def _file(self, benchmark: str, part: str = "") -> Path:
        return self.folder / f"{benchmark}{part}.jsonl"

    def _parts(self, benchmark: str) -> list[Path]:
        """What processes beside the first one have answered, where they were stopped before it was gathered."""
        return sorted(self.folder.glob(f"{benchmark}.rank*-of-*.jsonl"))

    def _files(self, benchmark: str) -> list[Path]:
        return [self._file(benchmark), *self._parts(benchmark), self.folder / f"{benchmark}.json"]


class _Appender:
    """An open file of answers, each of which is written when it comes, and brought to the disk itself every few seconds."""

    def __init__(self, file: int, path: Path) -> None:
        self.file = file
        self.path = path
        self.synced = time.monotonic()

    def append(self, answer: Answer) -> None:
        _write_line(self.file, self.path, answer_to_json(answer))
        if time.monotonic() - self.synced >= SYNC_SECONDS:
            with explained(self.path):
                os.fsync(self.file)
            self.synced = time.monotonic()


def read_run(folder: str | Path) -> RunRecord:
    """The record of a run folder; anything else is refused."""
    folder = Path(folder)
    record = _record_in(folder) if folder.is_dir() else None
    if record is None:
        raise UserError(f"{folder} is not a run folder: it has no {RECORD}. Give a folder that cal-bench eval or cal-bench study wrote.")
    return record


def read_results(folder: str | Path) -> dict[str, TaskResult]:
    """The summaries of a run folder, by benchmark; a benchmark that is not complete has none."""
    folder = Path(folder)
    paths = {name: folder / f"{name}.json" for name in read_run(folder).benchmarks}
    return {name: _read_result(path) for name, path in paths.items() if path.is_file()}


def versions() -> dict[str, str]:
    """The versions that an answer can depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_atomically(path: Path, text: str) -> None:
    """Write a file whole or not at all: whoever opens it finds the old content or the new."""
    partial = path.with_name(path.name + PARTIAL)
    with explained(path):
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a full disk and its like into a message that says nothing was lost."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else str(error.strerror)
        todo = "Free some space" if full else "Put that right"
        raise UserError(f"Cannot write {path}: {what}. What is finished is kept. {todo} and give the same command again.") from error


def _record_in(folder: Path) -> RunRecord | None:
    path = folder / RECORD
    if not path.is_file():
        if any(folder.glob("*.jsonl")):
            raise UserError(
                f"{folder} holds answers but no {RECORD}, so it is not known whose they are. Give another folder, or delete it."
            )
        return None
    try:
        return run_from_json(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a run record that this version can read ({error}). Give another folder, or delete it.") from error


def check_identity(folder: Path, before: Identity, now: Identity) -> None:
    """Refuse a run folder with answers of another identity."""
    for name, words in (
        ("weights", "other weights"),
        ("processor", "another processor, chat template or settings"),
        ("dtype", "another precision"),
    ):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            raise UserError(
                f"The run folder {folder} holds answers of {words}: {_shown(old)} (model {before.model}), "
                f"this model has {_shown(new)} ({now.model}). Give another run folder, or delete this one to start again."
            )


def _read_result(path: Path) -> TaskResult:
    try:
        return result_from_json(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a summary that this version can read ({error}). Delete it and run the benchmark again.") from error


def _read_answers(path: Path) -> list[Answer]:
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_read_answer(path, number, line) for number, line in enumerate(lines, start=1)]


def _read_answer(path: Path, number: int, line: bytes) -> Answer:
    try:
        return answer_from_json(line.decode())
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"Line {number} of {path} is not an answer: {line[:60]!r}. Delete the line and give the same command again."
        ) from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold up other commands that are about to write the folder's record, where the file system can lock a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _lock(file: int, path: Path) -> None:
    other = f"Another command is adding answers to {path.parent}. Wait until it ends, or give another run folder."
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(other) from error
    if not os.path.samestat(os.fstat(file), path.stat()):  # it has put the answers of its processes into a new file
        raise UserError(other)


def _seek_behind_last_whole_line(file: int, path: Path) -> None:
    end = path.read_bytes().rfind(b"\n") + 1
    os.ftruncate(file, end)
    os.lseek(file, end, os.SEEK_SET)


def _write_line(file: int, path: Path, line: str) -> None:
    # Unbuffered: a killed process loses at most the line it is writing, and the next one drops that.
    rest = line.encode()
    with explained(path):
        while rest:
            rest = rest[os.write(file, rest) :]


def _merged(before: str, now: str) -> str:
    return before if now in before.split(", ") else ", ".join(filter(None, (before, now)))


def _limit(limit: int | None) -> str:
    return "no limit" if limit is None else f"a limit of {limit}"


def _shown(value: str | tuple[str, ...]) -> str:
    return value[:12] if isinstance(value, str) else " and ".join(value)
