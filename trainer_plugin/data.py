"""Conversations to features, and features to batches: LLaVA-format JSON, or Hugging Face datasets (see messages.py)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from .config import CALError
from .loss import IGNORED
from .messages import Stored
from .records import Record, image_roots, read_all, swap_images, with_images
from .templates import CHAT_TEMPLATES, IMAGE, SPECIAL, SYSTEM, TEMPLATES, Segment, generation_prompt, render

__all__ = [
    "CHAT_TEMPLATES",
    "SYSTEM",
    "TEMPLATES",
    "Collator",
    "ConversationDataset",
    "DataOptions",
    "Record",
    "Segment",
    "generation_prompt",
    "render",
]

Features = dict[str, Any]
BESIDE_PIXELS = ("image_sizes", "high_res_pixel_values")  # what the processors of LLaVA-NeXT and MGM make of a picture besides


@dataclass(frozen=True)
class DataOptions:
    """How conversations become features. `swap` is the share of image-bearing samples whose images are exchanged in pairs.

    With `skip_unreadable` a record whose image is missing is left out, and one whose image can't be decoded gives way to the next;
    else either is an error.
    """

    template: str
    max_length: int = 2048
    swap: float = 0.0
    seed: int = 0
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        if self.template not in TEMPLATES:
            raise CALError(f"unknown template {self.template!r}; there are {', '.join(TEMPLATES)}")
        if not 0 <= self.swap <= 1:
            raise CALError(f"swap is {self.swap}, but must be a share between 0 and 1")


class UnreadableImage(CALError):
    """A picture that can't be decoded."""


class ConversationDataset(Dataset[Features]):
    """Features of conversations; images are decoded when a record is asked for.

    `images` is the folder of the pictures that JSON files name, or one folder for each file. `missing` names the images of records
    that were left out.
    """

    def __init__(
        self, files: Sequence[Path | str], images: Path | str | Sequence[Path | str], options: DataOptions, processor: Any
    ) -> None:
        roots = image_roots(files, images)
        self.images, self.options, self.processor = roots[0], options, processor
        self.encoder = Encoder(options, processor)
        records = read_all([Path(file) for file in files], roots, options.template)
        records, self.missing = with_images(records, self.images, options.skip_unreadable)
        self.records, self.swapped = swap_images(records, options.swap, options.seed)
        # One byte per record in shared memory, because records are encoded in the loader's worker processes.
        self._cut, self._unread = (torch.zeros(len(records), dtype=torch.uint8).share_memory_() for _ in range(2))

    def __len__(self) -> int:
        return len(self.records)

    @property
    def truncated(self) -> int:
        """How many of the records asked for so far were longer than max_length."""
        return int(self._cut.sum())

    @property
    def unreadable(self) -> list[str]:
        """The images of records asked for so far that could not be decoded."""
        return [str(name) for index in self._unread.nonzero()[:, 0].tolist() for name in self.records[index].images]

    def merge(self, over_all: Callable[[Tensor], Tensor]) -> None:
        """Count what other processes came upon too; `over_all` gives the sum of a tensor [records] over all of them."""
        for seen in (self._cut, self._unread):
            seen.copy_(over_all(seen.int()) > 0)

    def lengths(self) -> list[int]:
        """Words of each record; negative for those without an image."""
        words = [sum(len(segment.text.split()) for segment in record.segments) for record in self.records]
        return [count if record.images else -count for count, record in zip(words, self.records, strict=True)]

    def __getitem__(self, index: int) -> Features:
        if not self.options.skip_unreadable:
            return self._features(index)
        for place in (*range(index, len(self)), *range(index)):
            try:
                return self._features(place)
            except UnreadableImage:
                self._unread[place] = 1
        raise CALError(f"none of the {len(self)} records has an image that can be read")

    def _features(self, index: int) -> Features:
        record = self.records[index]
        pictures = [load_stored(name) if isinstance(name, Stored) else load_image(self.images / name) for name in record.images]
        encoded = self.encoder.encode(record.segments, pictures)
        self._cut[index] = encoded.cut
        return encoded.features


@dataclass(frozen=True)
class Encoded:
    """A conversation's features; `cut` if it was longer than max_length."""

    features: Features
    cut: bool


class Encoder:
    """Conversations with their pictures to features, by the model's own processor; CALError for one of another family than LLaVA's."""

    def __init__(self, options: DataOptions, processor: Any) -> None:
        self.options, self.processor = options, processor
        self.text = TextEncoder(processor.tokenizer, options.template)
        _check_images(processor)

    def encode(self, segments: Sequence[Segment], images: Sequence[Image.Image]) -> Encoded:
        """Ids, labels and the processor's tensors of a rendered conversation, which has a place for each image."""
        pictures = [self._picture(image) for image in images]
        ids, labels = self.text.encode(segments, [count for count, _ in pictures], self.processor.image_token_id)
        length = self._length(ids)
        features: Features = {"input_ids": torch.tensor(ids[:length]), "labels": torch.tensor(labels[:length])}
        if pictures:
            features |= {name: torch.cat([values[name] for _, values in pictures]) for name in pictures[0][1]}
        return Encoded(features, length < len(ids))

    def _length(self, ids: list[int]) -> int:
        """max_length, or what it takes to keep every image whole: a cut image would not fit its features."""
        if len(ids) <= self.options.max_length:
            return len(ids)
        image = self.processor.image_token_id
        last = max((position for position, token in enumerate(ids) if token == image), default=-1)
        return max(self.options.max_length, last + 1)

    def _picture(self, image: Image.Image) -> tuple[int, dict[str, Tensor]]:
        """An image's number of tokens, by the processor's own rule, and its tensors."""
        values = dict(self.processor.image_processor(images=[image], return_tensors="pt"))
        return self.processor.replace_image_token(values, 0).count(self.processor.image_token), values


def _check_images(processor: Any) -> None:
    made = processor.image_processor(images=[Image.new("RGB", (64, 64))], return_tensors="pt")
    if unknown := sorted(made.keys() - {"pixel_values", *BESIDE_PIXELS}):
        raise CALError(
            f"{type(processor).__name__} makes {', '.join(unknown)} of a picture, so its model is none of LLaVA, LLaVA-NeXT, MGM and"
            " MGM-HD, whose conversations are read here; train it with CALTrainer or CALSFTTrainer and its own collator"
        )


def load_image(path: Path) -> Image.Image:
    """The picture in RGB; transparency is dropped, as LLaVA does."""
    return read_rgb(path, path)


def load_stored(picture: Stored) -> Image.Image:
    """The same for a picture in a dataset."""
    return read_rgb(picture.open(), picture)


def read_rgb(file: Any, name: Any) -> Image.Image:
    """The picture of an open file or a path in RGB; `name` is what is told where it can't be decoded."""
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"image {name} can't be read ({error}); replace it or take its record out of the data") from error


class TextEncoder:
    """Token ids and labels of rendered segments, as the original data code makes them."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        self.tokenizer = tokenizer
        for text in SPECIAL[template]:
            if len(self._ids(text)) != 1:
                raise CALError(f"template {template!r} writes {text}, which is not a token of this tokenizer; add it as a special token")
        begin = tokenizer("")["input_ids"][:1]
        self.begin = begin if begin == [tokenizer.bos_token_id] else []
        # SentencePiece tokenizers put a space in front of every text they are given. Their text has to stay whole between
        # images, as in the original code, and labels go by character; others give the same tokens piece by piece.
        self.whole = tokenizer.convert_ids_to_tokens(self._ids("a"))[0][0] in "▁Ġ"

    def encode(self, segments: Sequence[Segment], image_tokens: Sequence[int], image_id: int) -> tuple[list[int], list[int]]:
        """Ids and labels; the n-th `<image>` becomes as many placeholders as image_tokens says."""
        ids, labels = list(self.begin), [IGNORED] * len(self.begin)
        counts = iter(image_tokens)
        for number, chunk in enumerate(_chunks(segments)):
            if number > 0:
                placeholders = next(counts)
                ids += [image_id] * placeholders
                labels += [IGNORED] * placeholders
            for token, labelled in self._encode_chunk(chunk):
                ids.append(token)
                labels.append(token if labelled else IGNORED)
        return ids, labels

    def _encode_chunk(self, chunk: list[Segment]) -> Iterable[tuple[int, bool]]:
        if not chunk:
            return []
        if not self.whole:
            return [(token, segment.labelled) for segment in chunk for token in self._ids(segment.text)]
        encoded = self.tokenizer("".join(segment.text for segment in chunk), add_special_tokens=False, return_offsets_mapping=True)
        labelled = [segment.labelled for segment in chunk for _ in segment.text]
        # A token belongs to where it ends: the space before an answer goes with its first word.
        return [(token, labelled[max(end, 1) - 1]) for token, (_, end) in zip(*_columns(encoded), strict=True)]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _columns(encoded: Mapping[str, Any]) -> tuple[list[int], list[tuple[int, int]]]:
    return encoded["input_ids"], encoded["offset_mapping"]


def _chunks(segments: Sequence[Segment]) -> list[list[Segment]]:
    """The segments cut at every `<image>`: n images make n + 1 chunks."""
    chunks: list[list[Segment]] = [[]]
    for segment in segments:
        first, *others = segment.text.split(IMAGE)
        chunks[-1].append(Segment(first, segment.labelled))
        chunks += [[Segment(text, segment.labelled)] for text in others]
    return [[segment for segment in chunk if segment.text] for chunk in chunks]


@dataclass(frozen=True)
class Collator:
    """Features to a batch: padded on the right, images of all rows in one tensor."""

    pad_token_id: int

    @classmethod
    def of(cls, tokenizer: Any) -> "Collator":
        """The collator that pads with this tokenizer's pad token."""
        if tokenizer.pad_token_id is None:
            raise CALError("the tokenizer has no pad token; set one (LLaVA uses the unknown token) and save the processor again")
        return cls(tokenizer.pad_token_id)

    def __call__(self, features: Sequence[Features]) -> dict[str, Tensor]:
        batch = {
            "input_ids": _padded([row["input_ids"] for row in features], self.pad_token_id),
            "labels": _padded([row["labels"] for row in features], IGNORED),
            "attention_mask": _padded([torch.ones_like(row["input_ids"]) for row in features], 0),
        }
        seeing = [row for row in features if "pixel_values" in row]
        if seeing:
            batch["pixel_values"] = _stacked([image for row in seeing for image in row["pixel_values"]])
        for name in BESIDE_PIXELS:
            if seeing and name in seeing[0]:
                batch[name] = torch.cat([row[name] for row in seeing])
        return batch


def _padded(rows: list[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def _stacked(images: list[Tensor]) -> Tensor:
    """One tensor; images of several tiles are filled up with empty ones, which the model ignores."""
    most = max(len(image) for image in images)
    return torch.stack([torch.cat([image, image.new_zeros(most - len(image), *image.shape[1:])]) for image in images])
