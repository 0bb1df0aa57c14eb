"""Does CAL mean on this model what it should? Four checks on one batch, for models that our own tests do not know.

`selftest(model, inputs)` takes any batch with labels and a picture; `probe(processor)` makes one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .config import CALConfig, CALError
from .contrast import both_passes, check_family
from .families import only_drop
from .loss import IGNORED, measure, without_image_labels

# Share of the largest value by which two results may differ and be called equal; in single precision they differ by about 1e-6.
TOLERANCE = 1e-3
QUESTION, ANSWER = "What does the picture show?", "It shows a field of coloured dots, and nothing else."
# As many of the last tokens of the probe have labels.
LABELS = 6


@dataclass(frozen=True)
class Check:
    """One thing that must hold; `remedy` says what to do, empty where it holds."""

    name: str
    found: str
    remedy: str = ""


def selftest(model: nn.Module, inputs: dict[str, Any]) -> list[Check]:
    """Compare the two passes of a batch [B, S] with labels, without dropout and without gradients left behind.

    Raises CALError for a family that has no contrast, or a batch without a labelled token in a row with a picture.
    """
    check_family(model)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            checks = _pixels(model, inputs) + _drop_and_mask(model, inputs)
        return [*checks, _equal_bounds(model, inputs)]
    finally:
        model.train(was_training)


def _pixels(model: nn.Module, inputs: dict[str, Any]) -> list[Check]:
    changed = {name: -value if name.startswith("pixel_values") else value for name, value in inputs.items()}
    one, two = _states(model, inputs, "drop"), _states(model, changed, "drop")
    seeing, blind = _difference(one.seeing, two.seeing), _difference(one.blind, two.blind)
    unmoved = "give the batch a picture: the model does not react to its pixels, so that all weights would be equal"
    leak = "report the model's config: something of the picture reaches the pass without it"
    return [
        Check("pixels move the answer", f"by {seeing:.1e} of its size", "" if seeing > TOLERANCE else unmoved),
        Check("pixels leave the image-free pass", f"as it is, to {blind:.1e}", "" if blind <= TOLERANCE else leak),
    ]


def _drop_and_mask(model: nn.Module, inputs: dict[str, Any]) -> list[Check]:
    name = "dropping equals masking"
    if kinds := only_drop(model.get_decoder()):
        return [Check(name, f"not defined: hidden tokens move layers of kind {', '.join(kinds)}; contrast='drop' is the only one")]
    dropped, masked = _states(model, inputs, "drop"), _states(model, inputs, "mask")
    gap = _difference(dropped.blind, masked.blind)
    remedy = "keep contrast='drop' and report the model's config: hidden image tokens still move the text, or positions differ"
    return [Check(name, f"to {gap:.1e}", "" if gap <= TOLERANCE else remedy)]


def _equal_bounds(model: nn.Module, inputs: dict[str, Any]) -> Check:
    loss = measure(model, inputs, CALConfig(alpha=1, beta=1)).loss.detach()
    image = both_passes(model, inputs, CALConfig(), contrasted=False).placeholders
    with torch.no_grad():
        stock = model(**inputs | {"labels": without_image_labels(inputs["labels"], image)}).loss
    gap = _difference(loss, stock)
    remedy = "report the model's config: its forward does more to logits or loss than CAL knows (a scale, an auxiliary loss)"
    return Check("equal weights give the stock loss", f"{loss:.5f}, stock {stock:.5f}", "" if gap <= TOLERANCE else remedy)


@dataclass(frozen=True)
class _States:
    """Hidden states [N, H] that predict the labels of rows with a picture."""

    seeing: Tensor
    blind: Tensor


def _states(model: nn.Module, inputs: dict[str, Any], contrast: str) -> _States:
    passes = both_passes(model, inputs, CALConfig(contrast=contrast))
    # Behind a placeholder the two contrasts differ by definition: masking leaves the placeholder's own state to predict from.
    asked = (inputs["labels"][:, 1:] != IGNORED) & passes.seeing[:, None] & ~passes.placeholders[:, :-1]
    rows, positions = asked.nonzero(as_tuple=True)
    if passes.blind is None or len(rows) == 0:
        raise CALError("the batch has no labelled token in a row with a picture; give input_ids with placeholders, pixels and labels")
    blind, exists = passes.blind.at(rows, positions)
    return _States(passes.hidden[rows, positions], blind[exists])


def _difference(one: Tensor, two: Tensor) -> float:
    """Largest difference as a share of the largest value; infinite where one is no number."""
    gap = ((one - two).abs().max() / two.abs().max()).item()
    return gap if gap == gap else float("inf")


def probe(processor: Any) -> dict[str, Any]:
    """A question about a picture of noise and its answer, as the processor writes them; the last tokens have labels."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    inputs = processor(text=[_conversation(processor)], images=[Image.fromarray(pixels)], return_tensors="pt")
    labels = inputs["input_ids"].clone()
    labels[:, :-LABELS] = IGNORED
    return {**inputs, "labels": labels}


def _conversation(processor: Any) -> str:
    if processor.chat_template is None:
        return f"{processor.image_token}{QUESTION} {ANSWER}"
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
    said = {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}
    text: str = processor.apply_chat_template([asked, said], tokenize=False)
    return text


def selftest_of(name: str) -> list[Check]:
    """The self-test of a checkpoint folder or a model of the hub, in single precision."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(name)
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=torch.float32)
    except (ValueError, OSError) as error:
        raise CALError(f"{name} is no model that answers questions about pictures, with its processor: {error}") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return selftest(model.to(device), {key: value.to(device) for key, value in probe(processor).items()})
