"""What the summaries keep beside the scores: enough to make each score again from its samples."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import cal_bench.tasks as tasks
from cal_bench.records import Identity, TaskResult, result_from_json, to_json
from cal_bench.runner import evaluate
from cal_bench.runs import Run
from cal_bench.tasks.captions import check_java
from tests import tasks_rows


class Stored:
    """Says what it was told to say."""

    def __init__(self, texts: dict[int, str]) -> None:
        self.texts = texts

    def answer(self, samples):  # type: ignore[no-untyped-def]
        from cal_bench.records import Answer

        return [Answer(sample.id, sample.prompt_hash, self.texts[sample.id], 0.0) for sample in samples]


def summary(folder: Path, name: str, limit: int | None = None) -> TaskResult:
    benchmark = tasks.get(name)
    if check_java([benchmark]):
        pytest.skip("needs java")
    task = tasks.open_task(benchmark, str(tasks_rows.write(folder, benchmark.file)))
    answers = tasks_rows.mixed_answers(name, [sample.id for sample in task.samples()])
    done = evaluate(Stored(answers), task, Run.open(folder / "run", Identity("m", "w")), limit)
    assert done.result is not None
    return done.result


def made_again(result: TaskResult) -> float:
    makeup = result.makeup
    assert makeup is not None
    scores = np.array([score for _, score in result.samples])
    numerators = np.array(makeup.numerators or scores)
    denominators = np.array(makeup.denominators or np.ones_like(scores))
    categories = np.array(makeup.categories or [""] * len(scores), dtype=object)
    ratios = [numerators[categories == name].sum() / denominators[categories == name].sum() for name in set(categories) - {None}]
    return float(makeup.scale * (np.sum(ratios) if makeup.summed else np.mean(ratios)))


@pytest.mark.parametrize("name", tasks.names())
def test_every_score_can_be_made_again_from_its_samples(tmp_path: Path, name: str) -> None:
    result = summary(tmp_path, name)
    assert result.score > 0
    assert made_again(result) == pytest.approx(result.score, abs=1e-4)
    assert result_from_json(to_json(result)) == result
    assert re.fullmatch(r"cal-bench \S+( installed)?, lmms-eval \S+", result.scorer)
    assert result.split in ("train", "test", "val", "validation")


def test_two_questions_on_a_picture_share_its_number(tmp_path: Path) -> None:
    makeup = summary(tmp_path, "mme").makeup
    assert makeup is not None
    assert makeup.pictures == (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)


def test_cognition_is_no_part_of_mme(tmp_path: Path) -> None:
    makeup = summary(tmp_path, "mme").makeup
    assert makeup is not None
    assert set(makeup.categories) == {"existence", "OCR", None}


def test_a_plain_mean_is_kept_short(tmp_path: Path) -> None:
    raw = json.loads(to_json(summary(tmp_path, "chartqa")))["makeup"]
    assert (raw["categories"], raw["numerators"], raw["denominators"]) == ([], [], [])


def test_only_captions_depend_on_what_else_is_scored(tmp_path: Path) -> None:
    for name in ("coco_caption", "docvqa"):
        (tmp_path / name).mkdir()
        makeup = summary(tmp_path / name, name).makeup
        assert makeup is not None
        assert makeup.of_the_set == (name == "coco_caption")


def test_a_summary_of_an_earlier_version_can_still_be_read(tmp_path: Path) -> None:
    raw = json.loads(to_json(summary(tmp_path, "docvqa")))
    for name in ("split", "scorer", "makeup"):
        del raw[name]
    old = result_from_json(json.dumps(raw))
    assert (old.split, old.scorer, old.makeup) == ("", "", None)
