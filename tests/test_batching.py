"""Which samples are answered together, in what order, and what is done ahead of the model."""

import os

import pytest

from cal_bench.batching import Batches, ahead, by_picture, groups, reading_threads
from cal_bench.tasks.base import Generation, Sample

SHORT = Generation(8, ())


def by_prompt(sample: Sample) -> int:
    return len(sample.prompt)


def plain(number: int, prompt: str, generation: Generation = SHORT, cluster: str | None = None) -> Sample:
    return Sample(number, prompt, list, generation, "", cluster)


def test_groups_share_their_settings_and_go_from_long_to_short() -> None:
    asked = [plain(1, "aa"), plain(2, "aaaa"), plain(3, "a", Generation(12, ("x",))), plain(4, "aaa"), plain(5, "aa")]
    assert [[one.id for one in group] for group in groups(asked, by_prompt)] == [[2, 4, 1, 5], [3]]
    assert groups([], by_prompt) == []


def test_samples_that_share_a_picture_are_neighbours() -> None:
    asked = [plain(1, "a", cluster="x"), plain(2, "aaa", cluster="y"), plain(3, "aaaa", cluster="x"), plain(4, "aaaaa"), plain(5, "a")]
    assert [[one.id for one in group] for group in groups(asked, by_prompt)] == [[4, 3, 1, 2, 5]]
    assert [[one.id for one in shared] for shared in by_picture(asked)] == [[1, 3], [2], [4], [5]]


def test_the_order_of_the_samples_does_not_matter() -> None:
    asked = [plain(number, "a" * (number % 3), cluster=str(number % 4)) for number in range(12)]
    assert groups(asked[::-1], by_prompt) == groups(asked, by_prompt)


def test_batches_become_smaller_on_the_way_and_none_is_lost() -> None:
    cut_up = Batches([plain(number, "") for number in range(10)], 4)
    sizes = []
    for batch in cut_up:
        sizes.append(len(batch))
        cut_up.size = 3
    assert sizes == [4, 3, 3]


def test_work_ahead_keeps_its_order_and_is_bounded() -> None:
    started: list[int] = []

    def prepare(item: int) -> int:
        started.append(item)
        return item * item

    made = ahead(prepare, range(50), 2)
    assert next(made) == 0
    assert max(started) < 12
    assert list(made) == [number * number for number in range(1, 50)]


def test_without_threads_work_is_done_when_its_turn_comes() -> None:
    started: list[int] = []
    made = ahead(started.append, range(5), 0)
    next(made)
    assert started == [0]
    assert list(made) == [None] * 4
    assert started == list(range(5))


@pytest.mark.parametrize(("cores", "beside", "on_cpu", "on_gpu"), [(2, 1, 0, 1), (8, 1, 2, 2), (96, 8, 3, 3), (96, 1, 4, 4), (8, 8, 0, 1)])
def test_the_model_keeps_its_cores(cores: int, beside: int, on_cpu: int, on_gpu: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(beside))
    assert (reading_threads(on_gpu=False), reading_threads(on_gpu=True)) == (on_cpu, on_gpu)
