"""Training data read from its files: conversations, checked and rendered, and where their pictures are."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .config import CALError
from .messages import Stored, is_dataset, read_rows
from .templates import IMAGE, Segment, Turn, render

Picture = str | Stored


@dataclass(frozen=True)
class Record:
    """One conversation, checked and rendered, with its images: files of the image folder, or pictures in a dataset."""

    id: str
    images: tuple[Picture, ...]
    segments: tuple[Segment, ...]


def image_roots(files: Sequence[Path | str], images: Path | str | Sequence[Path | str]) -> list[Path]:
    """The image folder of each data file."""
    if isinstance(images, (str, Path)):
        return [Path(images)] * len(files)
    if len(images) != len(files):
        raise CALError(f"there are {len(files)} data files and {len(images)} image folders; give one folder, or one for each file")
    return [Path(root) for root in images]


def _rooted(record: Record, root: Path, first: Path) -> Record:
    """The record with images that are found from the first image folder."""
    if root == first:
        return record
    return replace(record, images=tuple(name if isinstance(name, Stored) else str(root.absolute() / name) for name in record.images))


def read_all(files: Sequence[Path], roots: Sequence[Path], template: str) -> list[Record]:
    """The records of all files, with images that are found from the first of the image folders."""
    pairs = zip(files, roots, strict=True)
    return [_rooted(record, root, roots[0]) for file, root in pairs for record in read_records(file, template)]


def read_records(file: Path, template: str) -> list[Record]:
    """The file's records, each checked against its template; the first that does not fit is named."""
    if is_dataset(file):
        return [rendered(str(row.number), row.images, row.turns, f"{file}, row {row.number}", template) for row in read_rows(file)]
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CALError(f"data file {file} does not exist") from error
    except ValueError as error:
        raise CALError(f"data file {file} is not JSON: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise CALError(f"data file {file} must hold a list of records: id, image, conversations")
    return [_record(row, number, file, template) for number, row in enumerate(rows)]


def _record(row: Any, number: int, file: Path, template: str) -> Record:
    name = str(row.get("id", number)) if isinstance(row, Mapping) else str(number)
    try:
        images = _image_names(row)
        turns: list[Turn] = [{"from": turn["from"], "value": turn["value"]} for turn in row["conversations"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise CALError(f"{file}, record {name}: expected conversations: [{{from, value}}], and image where there is one") from error
    return rendered(name, images, turns, f"{file}, record {name}", template)


def rendered(name: str, images: tuple[Picture, ...], turns: list[Turn], where: str, template: str) -> Record:
    """The conversation in its template, with a place for each image; `where` is named if it does not fit."""
    try:
        segments = render(turns, template)
    except CALError as error:
        raise CALError(f"{where}: {error}") from error
    except TypeError as error:
        raise CALError(f"{where}: expected text in every turn") from error
    places = sum(segment.text.count(IMAGE) for segment in segments)
    if places != len(images):
        raise CALError(f"{where}: {len(images)} image(s), but {IMAGE} stands in {places} question(s)")
    return Record(name, images, tuple(segments))


def _image_names(row: Mapping[str, Any]) -> tuple[str, ...]:
    images = row.get("image") or ()
    return (images,) if isinstance(images, str) else tuple(images)


def with_images(records: list[Record], folder: Path, skip: bool) -> tuple[list[Record], list[str]]:
    """The records whose images are there, and the names of those that are not."""
    names = {name: record.id for record in records for name in record.images if isinstance(name, str)}
    missing = {name: record for name, record in names.items() if not (folder / name).is_file()}
    if missing and not skip:
        first = next(iter(missing))
        raise CALError(f"{len(missing)} image(s) are missing, first {folder / first} (record {missing[first]})")
    return [record for record in records if missing.keys().isdisjoint(record.images)], list(missing)


def swap_images(records: list[Record], share: float, seed: int) -> tuple[list[Record], list[tuple[int, int]]]:
    """Exchange the images of a share of the image-bearing records in pairs; gives the new records and the pairs.

    Only records with different images, and as many, are paired, so that every exchange is a wrong picture.
    """
    bearing = [index for index, record in enumerate(records) if record.images]
    wanted = round(share * len(bearing) / 2)
    waiting = [bearing[place] for place in np.random.default_rng(seed).permutation(len(bearing))]
    swapped = list(records)
    pairs: list[tuple[int, int]] = []
    while waiting and len(pairs) < wanted:
        first = waiting.pop()
        near = (place for place in reversed(range(len(waiting))) if _exchangeable(records[first], records[waiting[place]]))
        if (place := next(near, None)) is None:
            continue
        second = waiting.pop(place)
        pairs.append((first, second))
        for index, other in ((first, second), (second, first)):
            swapped[index] = Record(records[index].id, records[other].images, records[index].segments)
    return swapped, pairs


def _exchangeable(first: Record, second: Record) -> bool:
    return len(first.images) == len(second.images) and first.images != second.images
