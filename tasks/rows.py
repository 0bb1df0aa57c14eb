"""The rows of a benchmark: from the hub, a folder or a parquet file; texts in memory, pictures left where they are."""

from __future__ import annotations

import bisect
import contextlib
import copy
import glob
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import Benchmark, BenchmarkError
from .digests import hash_files
from .hub import split_of
from .lmms import Definition, quiet, refuse_truncated_pictures

if TYPE_CHECKING:
    from PIL import Image

HUB = "hub"


@dataclass(frozen=True)
class Rows:
    """Rows without their pictures, and ways to get at the picture of a row."""

    texts: Sequence[dict[str, Any]]
    pictures: Any  # pyarrow ChunkedArray of {bytes, path}, or of lists of them; on disk until asked for
    box_type: Any  # numpy type of the column `bbox`
    fingerprint: str  # of the content
    place: Callable[[int], str]  # "row 3 of chartqa.parquet"

    def text(self, row: int) -> dict[str, Any]:
        """A fresh copy: lmms-eval's TextVQA scorer rewrites the answers of the row that it is given."""
        return copy.deepcopy(self.texts[row])

    def decoded(self, row: int) -> Any:
        """The picture of a row, or the list of its pictures, decoded as datasets does."""
        value = self.pictures[row].as_py()
        refuse_truncated_pictures()
        with self._blame(row):
            return [_decode(part) for part in value] if isinstance(value, list) else _decode(value)

    def picture_size(self, row: int) -> tuple[int, int]:
        """Width and height of the decoded picture, read from its header alone."""
        from PIL import ExifTags

        with self._blame(row), _opened(self.pictures[row]) as picture:
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (picture.height, picture.width) if turned else (picture.width, picture.height)

    def cluster(self, row: int) -> str | None:
        """A short name of the pictures of a row, equal where the pictures are; None where there is none."""
        marks = [_ends(file) for file in self._files(row)]
        return hashlib.sha256(b"".join(marks)).hexdigest()[:16] if marks else None

    def sizes(self, row: int) -> tuple[tuple[int, int], ...]:
        """Width and height of the files of a row's pictures, not turned as their cameras say; a broken file has none."""
        found = (_size(file) for file in self._files(row))
        return tuple(size for size in found if size is not None)

    def _files(self, row: int) -> list[Any]:
        """The pictures of a row as pyarrow scalars of {bytes, path}."""
        import pyarrow as pa

        value = self.pictures[row]
        files = value.values or () if isinstance(value, (pa.ListScalar, pa.LargeListScalar)) else (value,)
        return [file for file in files if file.is_valid and (file["bytes"].is_valid or file["path"].is_valid)]

    def _blame(self, row: int) -> contextlib.AbstractContextManager[None]:
        return _blame(f"The picture in {self.place(row)} cannot be read")


@contextlib.contextmanager
def _blame(what: str) -> Iterator[None]:
    # Decoders of pictures raise errors of many kinds.
    try:
        yield
    except Exception as error:
        raise BenchmarkError(f"{what}: {error}. Replace the picture or leave the row out.") from error


def _decode(value: dict[str, Any] | None) -> Any:
    from datasets import Image

    return None if value is None else Image().decode_example(value)


def _ends(picture: Any) -> bytes:
    """Length, first and last 4 KB of a picture file: enough to tell compressed files apart without reading them all."""
    content = picture["bytes"]
    if not content.is_valid:
        return str(picture["path"].as_py()).encode()
    view = memoryview(content.as_buffer())
    return b"%d %b %b" % (len(view), bytes(view[:4096]), bytes(view[-4096:]))


def _opened(picture: Any) -> Image.Image:
    """A picture of which the header alone is read, without a copy of its file."""
    import pyarrow as pa
    from PIL import Image

    content = picture["bytes"]
    return Image.open(pa.BufferReader(content.as_buffer()) if content.is_valid else picture["path"].as_py())


def _size(picture: Any) -> tuple[int, int] | None:
    from PIL import Image

    try:
        with _opened(picture) as opened:
            return opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # said when the picture is loaded
        return None


def read_rows(benchmark: Benchmark, definition: Definition, data: str) -> Rows:
    """The rows of a benchmark from `data`: "hub", a folder that holds the benchmark's parquet files, or a parquet file."""
    files = _hub_files(benchmark, definition) if data == HUB else local_files(benchmark, definition.split, data)
    counts = [_check_file(benchmark, file) for file in files]
    if not sum(counts):
        raise BenchmarkError(f"{benchmark.name}: {files[0]} has no rows.")
    fingerprint = hash_files(files)
    dataset = _load_local(files, fingerprint)
    return _rows(benchmark, dataset, fingerprint, lambda row: _place(files, counts, row))


def _hub_files(benchmark: Benchmark, definition: Definition) -> list[Path]:
    try:
        return split_of(definition.dataset_path, definition.dataset_name, definition.split)
    except OSError as error:
        raise BenchmarkError(
            f"{benchmark.name}: {definition.dataset_path} ({definition.split}) cannot be had from the Hugging Face hub: "
            f"{_first_line(error)}. Where there is a connection, type: cal-bench fetch {benchmark.name}. "
            f"Without one, give a folder that holds {benchmark.file}.parquet."
        ) from error


def local_files(benchmark: Benchmark, split: str, data: str) -> list[Path]:
    """The parquet files of a benchmark in a folder, or the one that is named; it is an error if there is none."""
    path = Path(data).expanduser()
    if path.suffix == ".parquet" and not path.is_dir():
        expected, files = f"{path}", [path] if path.is_file() else []
    elif path.is_dir():
        single, folder = path / f"{benchmark.file}.parquet", path / benchmark.file
        expected, files = f"{single} or {folder}/{split}-*.parquet", [single] if single.is_file() else _parts(folder, split)
    else:
        what = f"{path} is no parquet file" if path.exists() else f"the data folder {path} does not exist"
        raise BenchmarkError(
            f"{benchmark.name}: {what}. Expected a folder that holds {benchmark.file}.parquet, the path of a parquet file, or '{HUB}'."
        )
    if not files:
        raise BenchmarkError(f"{benchmark.name}: no data at {path}. Expected {expected}, or '{HUB}' to fetch it.")
    return files


def _parts(folder: Path, split: str) -> list[Path]:
    """The files of one split where names tell splits apart as on the hub (test-00000-of-00003.parquet), else all."""
    files = sorted(folder.glob("*.parquet"))
    if any("-of-" in file.name for file in files):
        return [file for file in files if file.name.startswith(f"{split}-")]
    return files


def _check_file(benchmark: Benchmark, file: Path) -> int:
    """The number of rows of a file, whose columns are those that lmms-eval's code reads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            schema, count = parquet.schema_arrow, int(parquet.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        reason = _first_line(error)
        raise BenchmarkError(f"{benchmark.name}: {file} is not a whole parquet file: {reason}. Make or copy it again.") from error
    missing = [column for column in benchmark.columns if column not in schema.names]
    if missing:
        raise BenchmarkError(
            f"{benchmark.name}: {file} lacks {', '.join(map(repr, missing))}. "
            f"Columns needed: {', '.join(benchmark.columns)}; found: {', '.join(schema.names)}."
        )
    for column in benchmark.lists:
        if not _is_list(schema.field(column).type):
            raise BenchmarkError(f"{benchmark.name}: {column!r} in {file} is {schema.field(column).type}. Expected a list.")
    kind = schema.field("image").type
    kind = kind.value_type if _is_list(kind) else kind
    if not pa.types.is_struct(kind) or min(kind.get_field_index(name) for name in ("bytes", "path")) < 0:
        raise BenchmarkError(f"{benchmark.name}: 'image' in {file} is {kind}. Expected pictures as datasets stores them: {{bytes, path}}.")
    return count


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _load_local(files: Sequence[Path], fingerprint: str) -> Any:
    import datasets

    try:
        with quiet():
            # The name keeps datasets from serving its cached copy of a file of the same path, time and other content.
            names = [glob.escape(str(file.resolve())) for file in files]
            return datasets.load_dataset("parquet", name=fingerprint[:16], data_files=names, split="train")
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        reason = _first_line(error.__cause__ or error)
        raise BenchmarkError(f"{', '.join(map(str, files))} cannot be read: {reason}. Make or copy the file again.") from error


def _rows(benchmark: Benchmark, dataset: Any, fingerprint: str, place: Callable[[int], str]) -> Rows:
    table = dataset.data.table
    box_type = _box_type(benchmark, table.schema) if benchmark.expressions else None
    return Rows(table.drop_columns(["image"]).to_pylist(), table["image"], box_type, fingerprint, place)


def _box_type(benchmark: Benchmark, schema: Any) -> Any:
    import pyarrow as pa

    kind = schema.field("bbox").type
    if not _is_list(kind):
        raise BenchmarkError(f"{benchmark.name}: 'bbox' is {kind}. Expected a list of numbers: [x, y, width, height] in pixels.")
    return kind.value_type.to_pandas_dtype() if pa.types.is_floating(kind.value_type) else float


def _place(files: Sequence[Path], counts: Sequence[int], row: int) -> str:
    ends = list(itertools.accumulate(counts))
    file = bisect.bisect_right(ends, row)
    return f"row {row - (ends[file] - counts[file])} of {files[file]}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
