"""Streamed Hugging Face datasets with the columns `images` and `messages` (see messages.py): features of rows as they come by."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from PIL import Image

from .config import CALError
from .data import DataOptions, Encoder, Features, read_rgb
from .messages import file_of, turns_of
from .records import rendered


def streamed(rows: Any, options: DataOptions, processor: Any) -> Any:
    """Features of what `datasets.load_dataset(…, streaming=True)` gives, in its order: an IterableDataset, to be trained on by steps.

    Nothing is kept of a row that has gone by. CALError for options that need all rows at once, and for rows that do not fit.
    """
    import datasets

    if not isinstance(rows, datasets.IterableDataset):
        raise CALError(f"streamed takes what load_dataset(…, streaming=True) gives, not a {type(rows).__name__}")
    if options.swap or options.skip_unreadable:
        raise CALError("swap and skip_unreadable need all rows at once; leave them out, or read the files with ConversationDataset")
    columns = rows.column_names
    if columns is not None and "messages" not in columns:
        raise CALError(f"the streamed rows have the columns {', '.join(columns)}; expected messages, and images where there are any")
    if columns is not None and "images" in columns:
        # Decoded here, as ConversationDataset does it: datasets would also turn pictures by their EXIF, and name none that is broken.
        rows = rows.cast_column("images", datasets.List(datasets.Image(decode=False)))
    return rows.map(partial(_features, Encoder(options, processor)), remove_columns=columns)


def _features(encoder: Encoder, row: Mapping[str, Any]) -> Features:
    where = f"the streamed row with the messages {str(row.get('messages'))[:100]}"
    cells = row.get("images") or []
    turns = turns_of(row.get("messages"), len(cells), where)
    record = rendered("", tuple(str(number) for number in range(len(cells))), turns, where, encoder.options.template)
    return encoder.encode(record.segments, [_picture(cell, f"{number} of {where}") for number, cell in enumerate(cells)]).features


def _picture(cell: Any, name: str) -> Image.Image:
    return cell.convert("RGB") if isinstance(cell, Image.Image) else read_rgb(file_of(cell), name)
