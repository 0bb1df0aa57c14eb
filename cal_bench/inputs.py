"""Samples as a model reads them: pictures decoded, each distinct one processed once, prompts in its chat template and left padded."""

import functools
import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cal_bench.records import Unanswered
from cal_bench.tasks.base import BenchmarkError, Sample

if TYPE_CHECKING:
    from PIL.Image import Image

LETTERS_TO_A_TOKEN = 4

# Families whose processor makes one row of every tensor from a picture, and whose towers make one tensor of features from a row.
ROW_TO_A_PICTURE = ("llava", "llava_next", "cal_mgm")
# Families to which a prompt with the beginning of an answer behind it is what the two were when the answer was written: the tested ones.
# Not so PaliGemma, whose prompt reads itself in both directions, and Mllama, which needs to be told what each token sees.
CONTINUED = (
    *ROW_TO_A_PICTURE, "gemma3", "gemma4", "glm4v", "idefics3", "internvl", "lfm2_vl", "llava_onevision", "mistral3", "qwen2_5_vl",
    "qwen2_vl", "qwen3_5", "qwen3_vl", "smolvlm",
)  # fmt: skip


@dataclass(frozen=True)
class Pictures:
    """The distinct pictures of a batch: what the processor made of them, row by row, and the name of each row.

    `shown` are the rows that each prompt shows, in order.
    """

    tensors: Mapping[str, Any]
    names: list[str]
    shown: list[tuple[int, ...]]


@dataclass(frozen=True)
class Inputs:
    """Samples that are answered together, with input_ids and attention_mask [B, T] among their `tensors`.

    Where the model's features can be shared, `pictures` holds the pixels; otherwise they are among the tensors too. `unanswered` are
    the samples that could not be read; if no other is left there are no tensors.
    """

    samples: list[Sample]
    unanswered: list[Unanswered]
    tensors: Mapping[str, Any]
    pictures: Pictures | None = None


class Reader:
    """Makes inputs with a model's processor; may be called in several threads."""

    def __init__(self, processor: Any, family: str) -> None:
        self.processor = processor
        self.shares = family in ROW_TO_A_PICTURE
        self.continues = family in CONTINUED
        self._picture_tokens = functools.cache(self._count_tokens)
        self._tokenizing = threading.Lock()  # tokenizers keep their settings for padding in themselves

    def length(self, sample: Sample) -> float:
        """About how many tokens the sample is: its prompt and, in the families that were tested for it, its pictures."""
        pictures = sum(map(self._picture_tokens, sample.sizes)) if self.shares else 0
        return len(sample.prompt) / LETTERS_TO_A_TOKEN + pictures

    def _count_tokens(self, size: tuple[int, int]) -> int:
        (count,) = self.processor._get_num_multimodal_tokens(image_sizes=[size[::-1]]).num_image_tokens
        return int(count)

    def read(self, samples: Sequence[Sample]) -> Inputs:
        """Decode the pictures and make the tensors; a sample whose pictures cannot be read, or that the processor refuses, is left out,
        and the reason is kept."""
        pictures: list[list[Image]] = []
        readable, unanswered = [], []
        for sample in samples:
            try:
                pictures.append(sample.load_images())
                readable.append(sample)
            except BenchmarkError as error:
                unanswered.append(Unanswered(sample.id, str(error)))
        return self._made(list(zip(readable, pictures, strict=True)), unanswered)

    def _made(self, shown: "list[tuple[Sample, list[Image]]]", unanswered: list[Unanswered]) -> Inputs:
        try:
            return self._inputs([sample for sample, _ in shown], [own for _, own in shown], unanswered)
        except ValueError as error:  # such as Qwen-VL's of a picture that is 200 times as long as it is wide
            if len(shown) == 1:
                return Inputs([], [*unanswered, Unanswered(shown[0][0].id, f"the model's processor refuses it: {error}")], {})
            refused = [one for alone in shown for one in self._made([alone], []).unanswered]
            if not refused:
                raise
        left = [(sample, own) for sample, own in shown if sample.id not in {one.id for one in refused}]
        return self._made(left, [*unanswered, *refused])

    def _inputs(self, readable: list[Sample], pictures: "list[list[Image]]", unanswered: list[Unanswered]) -> Inputs:
        if not readable:
            return Inputs([], unanswered, {})
        conversations = [_conversation(own, sample.prompt) for own, sample in zip(pictures, readable, strict=True)]
        if not (self.shares and any(pictures)):
            return Inputs(readable, unanswered, self._tensors(conversations))
        return self._with_shared_pictures(Inputs(readable, unanswered, {}), conversations, pictures)

    def _tensors(self, conversations: list[Any]) -> Any:
        with self._tokenizing:
            return self.processor.apply_chat_template(
                conversations,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True, "padding_side": "left"},
            )

    def _with_shared_pictures(self, inputs: Inputs, conversations: list[Any], shown: "list[list[Image]]") -> Inputs:
        """The same tensors, but for the pixels: those have a row for each distinct picture instead of one for each sample."""
        processor = self.processor
        named = [[(_name(picture), picture) for picture in own] for own in shown]
        distinct = dict(one for own in named for one in own)
        rows = {name: row for row, name in enumerate(distinct)}
        shown_rows = [tuple(rows[name] for name, _ in own) for own in named]
        pixels = processor.image_processor(list(distinct.values()), return_tensors="pt")
        places = [processor.replace_image_token(pixels, row) for row in range(len(rows))]
        texts = processor.apply_chat_template(conversations, add_generation_prompt=True)
        texts, _ = processor.get_text_with_replacements(texts, [places[row] for own in shown_rows for row in own])
        begun = str(texts[0]).startswith(processor.tokenizer.bos_token or "\0")
        with self._tokenizing:
            tensors = processor.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt", add_special_tokens=not begun)
        return Inputs(inputs.samples, inputs.unanswered, tensors, Pictures(pixels, list(rows), shown_rows))


def continued(tensors: Mapping[str, Any], written: Sequence[Sequence[int]]) -> Mapping[str, Any]:
    """The prompts among `tensors` with the tokens behind them that were `written` [B, T]; nothing else changes."""
    import torch

    more = torch.tensor(written)
    # What else has a number for each token says its kind, which is 0 for text in all of these families.
    behind = {"input_ids": more, "attention_mask": torch.ones_like(more)}
    shape = tensors["input_ids"].shape
    longer = {
        name: torch.cat([tensor, behind.get(name, torch.zeros_like(more)).to(tensor.dtype)], dim=1)
        for name, tensor in tensors.items()
        if tensor.shape == shape
    }
    return {**tensors, **longer}


def _conversation(images: "list[Image]", prompt: str) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]


def _name(picture: "Image") -> str:
    """Equal for pictures that are equal, pixel by pixel."""
    # A palette is part of what a picture shows.
    content = picture.convert("RGBA") if picture.mode == "P" else picture
    return hashlib.sha256(f"{picture.mode} {picture.size} ".encode() + content.tobytes()).hexdigest()
