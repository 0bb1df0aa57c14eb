"""Several processes that answer one run together, as `torchrun` and `accelerate launch` start them.

The first one opens the run, speaks and writes the summaries; each writes its answers to a file of its own. torch is imported only
where there are several.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from cal_bench.batching import by_picture
from cal_bench.errors import UserError
from cal_bench.processes import count as processes
from cal_bench.tasks.base import BenchmarkError, Sample

# A process waits for one that has more to do; one that is gone is noticed by its closed connection, not by the time.
PATIENCE = timedelta(days=7)

T = TypeVar("T")


@dataclass(frozen=True)
class _Outcome(Generic[T]):
    value: T | None
    error: UserError | BenchmarkError | None = None


@dataclass(frozen=True)
class Ranks:
    """The processes that answer together, of which this is number `rank`."""

    rank: int = 0
    count: int = 1
    group: Any = None

    def share(self, samples: Sequence[Sample]) -> list[Sample]:
        """What this process answers of the samples, which are the same in all; those that share a picture stay together."""
        shares: list[list[Sample]] = [[] for _ in range(self.count)]
        for together in sorted(by_picture(samples), key=len, reverse=True):
            min(shares, key=len).extend(together)
        return shares[self.rank]

    def each(self, work: Callable[[], T]) -> list[T]:
        """What `work` gives in each process, by rank, once all are done; an error that has a message for people is raised in all."""
        if self.count == 1:
            return [work()]
        outcomes = self._gathered(_outcome(work))
        for outcome in outcomes:
            if outcome.error is not None:
                outcome.error.in_all = True
                raise outcome.error
        return [outcome.value for outcome in outcomes]

    def once(self, work: Callable[[], T]) -> T:
        """What `work` gives in the first process, for all."""
        found: list[Any] = self.each(lambda: work() if self.rank == 0 else None)
        first: T = found[0]
        return first

    def _gathered(self, outcome: _Outcome[T]) -> list[Any]:
        import torch.distributed

        found: list[Any] = [None] * self.count
        try:
            torch.distributed.all_gather_object(found, outcome, group=self.group)
        except RuntimeError as error:
            raise UserError(
                "Another process of this command has ended. All answers are kept; the same command goes on from here."
            ) from error
        return found


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """All processes of this command, once each of them has come here; `ALONE` if there is one."""
    count = processes()
    if count == 1:
        yield ALONE
        return
    import torch.distributed as distributed

    # A training before has made the group of all processes, and may need it again after.
    ours = not distributed.is_initialized()
    if ours:
        distributed.init_process_group("gloo", timeout=PATIENCE)
    group = None if ours else distributed.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), count, group)
    finally:
        if ours:
            distributed.destroy_process_group()


def _outcome(work: Callable[[], T]) -> _Outcome[T]:
    try:
        return _Outcome(work())
    except (UserError, BenchmarkError) as error:
        return _Outcome(None, error)
