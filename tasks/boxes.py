"""Boxes in answers: ways to read them, their overlap, and the frame that they are shares of."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .base import Marked, mean

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_PLAIN = re.compile(r"\[\s*" + r"\s*,\s*".join([_NUMBER] * 4) + r"\s*\]")
_ANY_NUMBER = r"([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)"
_ROBUST = re.compile(r"[\[(]\s*" + r"(?:\s*[,;]\s*|\s+)".join([_ANY_NUMBER] * 4) + r"\s*[\])]")


@dataclass(frozen=True)
class Box:
    """Left, top, right and bottom."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Nothing for a box whose corners are exchanged."""
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def holds(self, across: float, down: float) -> bool:
        """Whether a point lies in the box."""
        return self.left <= across <= self.right and self.top <= down <= self.bottom

    def in_square(self, size: tuple[int, int]) -> Box:
        """A box in shares of a picture, in shares of that picture padded to a square, as LLaVA pads: evenly, in whole pixels."""
        width, height = size
        side = max(size)
        left, top = (side - width) // 2, (side - height) // 2
        corners = (self.left * width + left, self.top * height + top, self.right * width + left, self.bottom * height + top)
        return Box(*(corner / side for corner in corners))


def read_plain(answer: str) -> Box | None:
    """The first [left, top, right, bottom] in an answer, with white space anywhere between the numbers."""
    return _first(_PLAIN, answer)


def read_robust(answer: str) -> Box | None:
    """The first four numbers in square or round brackets, with any common separator and way to write a number."""
    return _first(_ROBUST, answer)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union; 0 where neither has an area."""
    common = Box(max(one.left, other.left), max(one.top, other.top), min(one.right, other.right), min(one.bottom, other.bottom)).area
    union = one.area + other.area - common
    return common / union if union > 0 else 0.0


def measures(true: Sequence[Box], answered: Sequence[Box | None]) -> dict[str, float]:
    """Mean overlap, the shares of overlaps that reach each threshold, and of boxes whose centre lies in the true one."""
    pairs = list(zip(true, answered, strict=True))
    overlaps = [overlap(one, other) if other else 0.0 for one, other in pairs]
    centred = [
        float(other is not None and one.holds((other.left + other.right) / 2, (other.top + other.bottom) / 2)) for one, other in pairs
    ]
    reached = {f"ACC@{threshold}": mean([float(value >= threshold) for value in overlaps]) for threshold in THRESHOLDS}
    return {"IoU": mean(overlaps), **reached, "Center_ACC": mean(centred)}


def true_box(mark: Marked) -> Box:
    """The true box in shares of the picture as stored."""
    assert mark.picture is not None
    (x, y, width, height), (across, down) = mark.row["bbox"], mark.picture
    return Box(x / across, y / down, (x + width) / across, (y + height) / down)


def _first(pattern: re.Pattern[str], answer: str) -> Box | None:
    found = pattern.search(answer)
    box = [float(number) for number in found.groups()] if found else []
    # A number may be too long for a float.
    return Box(*box) if box and all(map(math.isfinite, box)) else None
