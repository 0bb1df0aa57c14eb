"""Which samples a page shows: those whose score rose or fell, and a draw of those that neither arm got fully right."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cal_bench.records import TaskResult

FIXED, BROKEN, WRONG = "fixed", "broken", "both wrong"
# As many of each kind in a benchmark as a page stays quick with.
MOST = {FIXED: 1000, BROKEN: 1000, WRONG: 100}


@dataclass(frozen=True)
class Change:
    """One sample: its score before and after, each in the benchmark's own measure, and which kind of change that is."""

    id: int
    kind: str
    before: float
    after: float


@dataclass(frozen=True)
class Selection:
    """The samples to show of one benchmark, most telling first, and how many there are of each kind."""

    changes: tuple[Change, ...]
    counts: Mapping[str, int]


def select(before: TaskResult, after: TaskResult) -> Selection:
    """The largest changes of each kind in turn, then a random draw of what both got wrong, which is the same every time."""
    kinds: dict[str, list[Change]] = {kind: [] for kind in MOST}
    for change in _changes(before, after):
        kinds[change.kind].append(change)
    for kind in (FIXED, BROKEN):
        kinds[kind].sort(key=lambda change: (-abs(change.after - change.before), change.id))
    random.Random(0).shuffle(kinds[WRONG])
    ranked = [(kind == WRONG, rank, kind, change) for kind, found in kinds.items() for rank, change in enumerate(found[: MOST[kind]])]
    ranked.sort(key=lambda entry: entry[:3])
    return Selection(tuple(change for *_, change in ranked), {kind: len(found) for kind, found in kinds.items()})


def _changes(before: TaskResult, after: TaskResult) -> Sequence[Change]:
    """Every changed or wrong sample that takes part in the headline, as the comparison counts them."""
    assert before.makeup is not None
    labels = before.makeup.categories or ("",) * len(before.samples)
    scores = dict(after.samples)
    found = []
    for (id, old), label in zip(before.samples, labels, strict=True):
        new = scores[id]
        if label is not None and (old != new or old < 1):
            found.append(Change(id, WRONG if old == new else FIXED if new > old else BROKEN, old, new))
    return found
