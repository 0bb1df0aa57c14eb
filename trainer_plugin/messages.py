"""Hugging Face datasets with the columns `images` and `messages`, row by row as LLaVA's turns; pictures stay where they are.

messages: [{"role": "user" | "assistant", "content": text, or a list of {"type": "image"} and {"type": "text", "text": …}}]
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .config import CALError
from .templates import IMAGE, Turn

SPEAKERS = {"user": "human", "assistant": "gpt"}
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Stored:
    """A picture in a dataset: its row there, and its place among the row's pictures."""

    source: str
    row: int
    number: int
    rows: Any = field(compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.source}, row {self.row}, image {self.number}"

    def open(self) -> Any:
        """The file of the picture, for PIL."""
        return file_of(self.rows[self.row]["images"][0][self.number].as_py())


@dataclass(frozen=True)
class Row:
    """One row of a dataset."""

    number: int
    turns: list[Turn]
    images: tuple[Stored, ...]


def is_dataset(file: Path) -> bool:
    """Whether a data file is a dataset of this kind: a folder, or a parquet file."""
    return file.is_dir() or file.suffix == ".parquet"


def dataset_files(file: Path) -> list[Path]:
    """The files that hold a dataset's content, in their order."""
    if not file.is_dir():
        return [file]
    return sorted(path for path in file.rglob("*") if path.suffix in (".parquet", ".arrow"))


def read_rows(file: Path) -> Iterator[Row]:
    """The rows of a parquet file, a folder of them, or a folder that `save_to_disk` wrote; CALError where a row does not fit."""
    rows = _opened(file)
    counts = _image_counts(rows)
    # As Arrow, so that of a row that is asked for only the bytes of its files are read, and nothing is decoded.
    pictures = rows.select_columns("images").with_format("arrow") if counts else None
    for number, messages in enumerate(rows["messages"]):
        images = tuple(Stored(str(file), number, place, pictures) for place in range(counts[number] if counts else 0))
        yield Row(number, turns_of(messages, len(images), f"{file}, row {number}"), images)


def count_rows(file: Path) -> int:
    """How many conversations a dataset holds."""
    return len(_opened(file))


def file_of(cell: Mapping[str, Any]) -> Any:
    """The file of a picture as datasets hold it, for PIL."""
    return io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]


def turns_of(messages: Any, images: int, where: str) -> list[Turn]:
    """Messages as LLaVA's turns; a picture that no message places belongs to the first question. `where` is named if they don't fit."""
    try:
        return _turns(messages, images)
    except (CALError, KeyError, TypeError, AttributeError) as error:
        told = error if isinstance(error, CALError) else "expected messages: [{role, content}]"
        raise CALError(f"{where}: {told}") from error


def _turns(messages: Sequence[Any], images: int) -> list[Turn]:
    turns: list[Turn] = []
    for message in messages:
        if message["role"] not in SPEAKERS:
            raise CALError(f"the role {message['role']!r} has no place in the templates, which begin with a user; leave it out")
        turns.append({"from": SPEAKERS[message["role"]], "value": _text(message["content"])})
    if images and turns and not any(IMAGE in turn["value"] for turn in turns):
        turns[0] = {**turns[0], "value": f"{IMAGE}\n{turns[0]['value']}"}
    return turns


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(IMAGE if part["type"] == "image" else part["text"] for part in content)


def _opened(file: Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise CALError(f"{file} is a Hugging Face dataset, and reading it needs: pip install datasets") from error
    saved = file.is_dir() and (file / "state.json").is_file()
    rows = datasets.load_from_disk(str(file)) if saved else _mapped(file)
    if "messages" not in rows.column_names:
        raise CALError(f"{file} has the columns {', '.join(rows.column_names)}; expected messages, and images where there are any")
    if "images" not in rows.column_names or rows.features.arrow_schema.field("images").type == _stored_type():
        return rows
    try:
        return rows.cast_column("images", datasets.List(datasets.Image(decode=False)))
    except (TypeError, ValueError) as error:
        raise CALError(f"{file}: the column images must hold lists of pictures (datasets.Image)") from error


def _mapped(file: Path) -> Any:
    """The rows of parquet files from the Arrow copy that `datasets` makes of them in its cache, once, and maps into memory."""
    import datasets
    from pyarrow.dataset import ParquetFragmentScanOptions

    files = [str(path) for path in dataset_files(file)]
    if not files:
        raise CALError(f"the folder {file} holds no dataset: expected *.parquet, or what save_to_disk writes")
    # A few rows at a time, and none read ahead: by default the copy is made in memory that grows with the files.
    scan = ParquetFragmentScanOptions(pre_buffer=False)
    try:
        return datasets.load_dataset("parquet", data_files=files, split="train", batch_size=ROWS_AT_ONCE, fragment_scan_options=scan)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise CALError(f"{file} cannot be read as one dataset, with whole files and the same columns in each: {reason}") from error


def _stored_type() -> Any:
    """How Arrow holds lists of pictures. Rows that are stored so are not cast, which would write another copy of them all."""
    import datasets

    return datasets.Features({"images": datasets.List(datasets.Image())}).arrow_schema.field("images").type


def _image_counts(rows: Any) -> list[int]:
    """Pictures of each row, without reading any; empty where there is no such column."""
    if "images" not in rows.column_names:
        return []
    import pyarrow.compute as compute

    return [count or 0 for count in compute.list_value_length(rows.data.column("images")).to_pylist()]
