"""Questions, references and pictures of single samples, straight from a benchmark's parquet files; needs pyarrow and Pillow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cal_bench.tasks import Benchmark, BenchmarkError
from cal_bench.tasks.boxes import Box

from .pictures import picture_size

LETTERS = "ABCDEFGHI"
IMAGE = "image"
_REFERENCES = ("answers", "answer", "caption_str")


@dataclass(frozen=True)
class Question:
    """What a row asks: its text, the options, the expected answers, the files of its pictures, and the box that is to be found."""

    text: str
    options: tuple[str, ...]
    references: tuple[str, ...]
    pictures: tuple[bytes, ...] = field(repr=False)
    box: Box | None = None  # in shares of the picture


def read_questions(benchmark: Benchmark, files: Sequence[Path], ids: Sequence[int]) -> dict[int, Question]:
    """The questions of these samples; BenchmarkError if a file cannot be read."""
    import pyarrow as pa

    try:
        places = _places(benchmark, files, ids)
        rows = dict(_rows(files, {row for row, _ in places.values()}))
        return {id: _question(rows[row], expression) for id, (row, expression) in places.items() if row in rows}
    except (pa.ArrowException, OSError) as error:
        raise BenchmarkError(f"{benchmark.name}: {files[0]} cannot be read: {error}") from error


def _places(benchmark: Benchmark, files: Sequence[Path], ids: Sequence[int]) -> dict[int, tuple[int, int | None]]:
    """Row and expression of each sample: where a row has several expressions, each of them is a sample."""
    import pyarrow.parquet as pq

    if not benchmark.expressions:
        return {id: (id, None) for id in ids}
    lengths = [len(answer) for file in files for answer in pq.read_table(file, columns=["answer"])["answer"].to_pylist()]
    every = [(row, place) for row, length in enumerate(lengths) for place in range(length)]
    return {id: every[id] for id in ids if id < len(every)}


def _rows(files: Sequence[Path], wanted: set[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The wanted rows with their numbers; of a file only the row groups that hold one are read."""
    import pyarrow.parquet as pq

    first = 0
    for file in files:
        with pq.ParquetFile(file) as parquet:
            for group in range(parquet.num_row_groups):
                size = parquet.metadata.row_group(group).num_rows
                own = [row - first for row in sorted(wanted) if first <= row < first + size]
                if own:
                    rows = parquet.read_row_group(group).take(own).to_pylist()
                    yield from zip([first + row for row in own], rows, strict=True)
                first += size


def _question(row: Mapping[str, Any], expression: int | None) -> Question:
    pictures = _pictures(row)
    if expression is not None:
        box = _box(row["bbox"], pictures)
        shown = f"[{box.left:.3f}, {box.top:.3f}, {box.right:.3f}, {box.bottom:.3f}]" if box else str(row["bbox"])
        return Question(str(row["answer"][expression]), (), (shown,), pictures, box)
    options = _options(row)
    return Question(str(row.get("question") or "").strip(), options, _references(row, len(options)), pictures)


def _options(row: Mapping[str, Any]) -> tuple[str, ...]:
    named = [row.get(f"choice_{letter}") for letter in "abcd"] if "choice_a" in row else [row.get(letter) for letter in LETTERS]
    listed = row.get("choices", named)
    return tuple(f"{letter}. {option}" for letter, option in zip(LETTERS, listed, strict=False) if option not in (None, ""))


def _references(row: Mapping[str, Any], options: int) -> tuple[str, ...]:
    """The expected answers, each once; the number of an option as its letter."""
    value = next((row[name] for name in _REFERENCES if row.get(name) not in (None, [])), None)
    listed = value if isinstance(value, list) else [] if value is None else [value]
    lettered = [LETTERS[one] if isinstance(one, int) and one < options else str(one) for one in listed]
    return tuple(dict.fromkeys(lettered))


def _box(pixels: Sequence[float], pictures: Sequence[bytes]) -> Box | None:
    """[x, y, width, height] in pixels, in shares of the picture; None without a picture that can be read."""
    size = picture_size(pictures[0]) if pictures else None
    if size is None:
        return None
    (x, y, width, height), (across, down) = pixels, size
    return Box(x / across, y / down, (x + width) / across, (y + height) / down)


def _pictures(row: Mapping[str, Any]) -> tuple[bytes, ...]:
    value = row.get(IMAGE)
    parts = value if isinstance(value, list) else [value]
    return tuple(part["bytes"] for part in parts if part and part.get("bytes"))
