"""How much of the visual words a trained miniature model owes to the picture: `python -m cal_bench.miniworld.measure MODEL`.

For visual label tokens of unseen test conversations: their mean surprisal (nats) for a text-only reader, which is the shipped
language model on the same text without a picture; and for the model with the picture. The share that the picture explains is
1 - with / without.
"""

import argparse
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaForCausalLM, PreTrainedTokenizerFast

from cal_bench.trainer_plugin.templates import render

from .base import BASE
from .conversations import image_turns, record
from .draw import draw
from .scene import make_scene

FIRST_TEST_SEED = 860_000_000  # past the last block that a world may draw from, and past what the base was chosen by


@dataclass(frozen=True)
class Conversation:
    """Token ids of one rendered conversation with its picture's place as one <image>, and which of them are visual labels."""

    seed: int
    ids: list[int]
    labelled: list[bool]
    visual: list[bool]


def conversation(seed: int, tokenizer: PreTrainedTokenizerFast) -> Conversation:
    turns = record("test", "picture", image_turns(make_scene(seed), random.Random(seed + 0.125)))
    segments = render(turns["conversations"], "v1")
    answers = iter(turns["spans"])
    ids, labelled, visual = [tokenizer.bos_token_id], [False], [False]
    for segment in segments:
        encoded = tokenizer(segment.text, add_special_tokens=False, return_offsets_mapping=True)
        # An answer's spans count from its first letter, which follows one space.
        spans = [(start + 1, end + 1) for start, end, kind in next(answers) if kind == "visual"] if segment.labelled else []
        ids += encoded.input_ids
        labelled += [segment.labelled] * len(encoded.input_ids)
        visual += [any(start < high and low < end for low, high in spans) for start, end in encoded.offset_mapping]
    return Conversation(seed, ids, labelled, visual)


def _surprisal(logits: Tensor, ids: Tensor) -> list[float]:
    """[T, V] and [T] to the nats of each token but the first."""
    nats: list[float] = (-logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]).tolist()
    return nats


def measure(folder: Path, count: int = 300) -> dict[str, Any]:
    """Mean nats of visual and of other label tokens: text-only reader, the model without and with the picture."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    reader = LlamaForCausalLM.from_pretrained(BASE / "language", dtype=torch.float32).eval()
    nats: dict[str, list[float]] = defaultdict(list)
    for seed in range(FIRST_TEST_SEED, FIRST_TEST_SEED + count):
        talk = conversation(seed, processor.tokenizer)
        pixels = processor.image_processor(images=[draw(make_scene(seed))], return_tensors="pt").pixel_values
        with torch.inference_mode():
            readings = _readings(model, reader, talk.ids, pixels)
        image = processor.image_token_id
        kept = [(label, visual) for token, label, visual in zip(talk.ids, talk.labelled, talk.visual, strict=True) if token != image]
        for name, values in readings.items():
            for value, (label, visual) in zip(values, kept[1:], strict=True):
                if label:
                    nats[f"{'visual' if visual else 'other'} {name}"].append(value)
    means = {name: sum(values) / len(values) for name, values in sorted(nats.items())}
    return {**means, "visual tokens": len(nats["visual with"]), "explained": 1 - means["visual with"] / means["visual reader"]}


def _readings(model: Any, reader: LlamaForCausalLM, ids: list[int], pixels: Tensor) -> dict[str, list[float]]:
    """The nats of every text token but the first, for the text-only reader and for the model without and with the picture."""
    image, tokens = model.config.image_token_id, model.config.image_seq_length
    first = ids.index(image)
    full = torch.tensor([*ids[:first], *[image] * tokens, *ids[first + 1 :]])
    text = torch.tensor([*ids[:first], *ids[first + 1 :]])
    seeing = _surprisal(model(input_ids=full[None], pixel_values=pixels).logits[0], full)
    blind = model.lm_head(model.model.language_model(input_ids=text[None]).last_hidden_state)[0]
    return {
        "with": seeing[: first - 1] + seeing[first + tokens - 1 :],
        "without": _surprisal(blind, text),
        "reader": _surprisal(reader(input_ids=text[None]).logits[0], text),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a trained miniature checkpoint")
    parser.add_argument("--count", type=int, default=300, help="test conversations (default 300)")
    arguments = parser.parse_args()
    for name, value in measure(arguments.model, arguments.count).items():
        print(f"{name:16} {value:.3f}" if isinstance(value, float) else f"{name:16} {value}")


if __name__ == "__main__":
    main()
