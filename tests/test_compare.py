"""Two runs become one comparison, or a refusal; and what the command prints."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cal_bench import cli
from cal_bench.alike import Source
from cal_bench.compare import compare, read_sides
from cal_bench.compare_text import comparison_text
from cal_bench.errors import UserError
from cal_bench.records import Answer, Identity, Makeup, Questions, TaskResult
from cal_bench.runs import Run
from cal_bench.stats import Plan
from cal_bench.tables import signed

COUNT = 200
PLAN = Plan(2000)
DECIMALS = {"ocrbench": 0, "mme": 0}


def result(benchmark: str, scores: list[float], ids: list[int] | None = None, scale: float = 100.0, **changes: object) -> TaskResult:
    """A summary of one benchmark, each sample with a picture of its own."""
    numbers = list(range(len(scores))) if ids is None else ids
    made = TaskResult(
        benchmark=benchmark,
        column=benchmark.upper(),
        score=scale * float(np.mean(scores)),
        unit="%",
        decimals=DECIMALS.get(benchmark, 1),
        n=len(scores),
        limit=None,
        unreadable=0,
        empty=0,
        data_fingerprint="d" * 64,
        prompts=str(numbers),
        metrics={},
        samples=tuple(zip(numbers, map(float, scores), strict=True)),
        split="test",
        scorer="lmms-eval 0.7.3",
        makeup=Makeup(scale, tuple(range(len(scores)))),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def source(name: str, *results: TaskResult) -> Source:
    return Source(name, {one.benchmark: one for one in results})


def bits(right: int, count: int = COUNT) -> list[float]:
    return [1.0] * right + [0.0] * (count - right)


def row_of(before: TaskResult, after: TaskResult, shared: bool = False):  # type: ignore[no-untyped-def]
    return compare([source("a", before)], [source("b", after)], shared, PLAN).rows[0]


def test_a_row_says_all_about_one_benchmark() -> None:
    row = row_of(result("docvqa", bits(100)), result("docvqa", bits(130)))
    assert (row.before, row.after, row.gain.value) == (50.0, 65.0, 15.0)
    assert (row.fixed, row.broken, row.test, row.n, row.pictures) == (30, 0, "McNemar", 200, 200)
    assert row.p == 2 / 2**30
    assert row.gain.low > 9
    assert row.beyond_chance == "better"
    assert row.detectable == pytest.approx(2.8 * 100 * np.sqrt(0.15 * 0.85 / 199), rel=0.05)


def test_the_same_the_other_way_round_is_worse() -> None:
    row = row_of(result("docvqa", bits(130)), result("docvqa", bits(100)))
    assert (row.gain.value, row.fixed, row.broken, row.beyond_chance) == (-15.0, 0, 30, "worse")


def test_benchmarks_come_in_the_order_of_the_paper() -> None:
    names = ["mme", "own", "docvqa", "ocrbench"]
    sides = [[source(side, *(result(name, bits(100)) for name in names))] for side in "ab"]
    assert [row.benchmark for row in compare(*sides, plan=PLAN).rows] == ["ocrbench", "docvqa", "mme", "own"]


def test_many_benchmarks_make_one_small_p_less_of_a_find() -> None:
    names = ["docvqa", "chartqa", "textvqa", "mmt"]
    before = source("a", *(result(name, bits(100)) for name in names))
    after = source("b", result("docvqa", bits(107)), *(result(name, bits(100)) for name in names[1:]))
    row = compare([before], [after], plan=PLAN).rows[0]
    assert row.p == 2 / 2**7 < 0.05 < row.p_holm == 4 * row.p
    assert row.beyond_chance == ""


def test_win_all_counts_as_the_paper_per_table() -> None:
    scores = {"docvqa": (100, 101), "chartqa": (100, 100), "textcaps": (100, 99), "mme": (100, 150)}
    sides = [[source(str(place), *(result(name, bits(pair[place])) for name, pair in scores.items()))] for place in (0, 1)]
    wins = compare(*sides, plan=PLAN).wins()
    assert {number: str(count) for number, count in wins.items()} == {1: "1/2", 2: "0/1"}


def test_categories_pictures_and_fractions_go_into_the_sums() -> None:
    makeup = Makeup(50.0, (0, 0, 1, 1, 2, 2), ("a", "a", "a", "a", "b", None), (1, 1, 0, 1, 2, 9), (1, 1, 1, 1, 4, 9), summed=True)
    before = result("mme", [0, 0, 0, 0, 0, 0], makeup=replace(makeup, numerators=(0, 0, 0, 0, 0, 9)), score=0.0)
    row = row_of(before, result("mme", [1, 1, 0, 1, 1, 1], makeup=makeup, score=50 * (3 / 4 + 2 / 4)))
    assert (row.before, row.after) == (0.0, 62.5)
    assert (row.fixed, row.pictures) == (4, 3)
    assert row.test == "sign flips"


def test_a_score_that_its_samples_do_not_give_is_refused() -> None:
    with pytest.raises(UserError, match=r"says 51.0, its samples give 50.0: it was changed"):
        row_of(result("docvqa", bits(100)), result("docvqa", bits(100), score=51.0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limit": 50}, r"docvqa: other limits \(none and 50\)"),
        ({"data_fingerprint": "e" * 64}, r"docvqa: other data \(dddddddddddd and eeeeeeeeeeee\)"),
        ({"prompts": "others"}, "docvqa: other prompts"),
        ({"scorer": "lmms-eval 0.8"}, r"docvqa: scored by other rules \(lmms-eval 0.7.3; lmms-eval 0.8\)"),
        ({"makeup": None}, "docvqa: b was scored by an earlier version"),
        ({"ids": list(range(1, COUNT + 1))}, r"docvqa: other samples \(200 and 200\)"),
    ],
)
def test_unlike_runs_are_refused_by_name(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words) as refusal:
        row_of(result("docvqa", bits(100)), result("docvqa", bits(100), **changes))  # type: ignore[arg-type]
    assert str(refusal.value).startswith("a and b cannot be compared:\n")
    assert ("--shared" in str(refusal.value)) == (not {"data_fingerprint", "scorer", "makeup"} & set(changes))


def test_all_differences_are_told_at_once_and_equal_ones_together() -> None:
    before = source("a", *(result(name, bits(100)) for name in ("docvqa", "chartqa", "mmt")))
    after = source("b", result("docvqa", bits(9), limit=9), result("chartqa", bits(9), limit=9), result("mmt", bits(9), prompts="x"))
    with pytest.raises(UserError, match=r"  docvqa, chartqa: other limits \(none and 9\)\n  mmt: other prompts\n"):
        compare([before], [after])


def test_a_benchmark_of_one_side_only_is_left_out_and_told() -> None:
    both = result("docvqa", bits(100))
    comparison = compare([source("a", both, result("mmt", bits(1)))], [source("b", both)], plan=PLAN)
    assert comparison.notes == ("mmt is left out: b lacks it.",)
    with pytest.raises(UserError, match="No benchmark is complete in all of a and b"):
        compare([source("a", result("mmt", bits(1)))], [source("b", both)])


def write_run(folder: Path, *results: TaskResult, prompts: dict[int, str] | None = None, generation: str = "16 tokens") -> Path:
    """A run folder with these summaries, and an answer for each of their samples."""
    run = Run.open(folder, Identity(folder.name, folder.name))
    for one in results:
        run.begin(one.benchmark, Questions(one.data_fingerprint, one.prompts, (generation,), one.n, one.limit))
        with run.appending(one.benchmark) as append:
            for number, _ in one.samples:
                append(Answer(number, (prompts or {}).get(number, f"p{number}"), "x", 0.0))
        run.finish(one)
    return folder


def compared(*arguments: object) -> int:
    return cli.main(["compare", *map(str, arguments)])


EXPECTED = """\
Before: a
After:  b
Note: mmt is left out: a lacks it.

| benchmark         | before | after | difference |  95 % interval |      p | p (Holm) | fixed | broken | detectable | beyond chance |
| ----------------- | -----: | ----: | ---------: | -------------: | -----: | -------: | ----: | -----: | ---------: | ------------: |
| ocrbench (points) |    500 |   500 |          0 |              – |  1.000 |    1.000 |     0 |      0 |          – |               |
| docvqa            |   50.0 |  65.0 |      +15.0 | +10.0 to +20.0 | <0.001 |   <0.001 |    30 |      0 |        7.1 |        better |

Win/All, as the paper counts (strictly better at the printed precision): Table 1 1/2.
Better beyond chance: 1 of 2: docvqa.
Worse beyond chance: 0 of 2.

Scores are in percent unless another unit is named.
Interval: paired bootstrap; samples that share a picture are drawn together. –: no score changed, which tells no width.
p: McNemar's exact test. Holm: adjusted for 2 benchmarks; at most 0.05 is beyond chance.
Fixed, broken: samples whose score rose, fell.
Detectable: the true difference that would be found, in this benchmark alone, four times in five.
Samples (pictures, where fewer): ocrbench 200, docvqa 200.
One run each: how much another training seed would move the scores is not in the intervals.
"""


def test_the_whole_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    points = result("ocrbench", bits(100), scale=1000.0, unit="points")
    write_run(Path("a"), points, result("docvqa", bits(100)))
    write_run(Path("b"), points, result("docvqa", bits(130)), result("mmt", bits(1)))
    assert compared("a", "b") == 0
    assert capsys.readouterr().out == EXPECTED


def test_json_has_the_unrounded_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(tmp_path / name, result("docvqa", bits(right))) for name, right in (("a", 100), ("b", 131))]
    assert compared(*runs, "--json", "--fail-if-worse", "2") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["benchmarks"][0]["after"] == 65.5
    assert content["benchmarks"][0]["beyond_chance"] == "better"
    assert content["gate"] == {"points": 2.0, "met": True, "failed": []}
    assert content["win_all"] == {"table 1": "1/1"}


@pytest.mark.parametrize(
    ("right", "gate", "code", "words"),
    [
        (130, [], 0, "Gate met: nothing is worse beyond chance."),
        (99, [], 0, "Gate met"),  # one sample in 200 is chance
        (70, [], 1, "Gate not met: worse beyond chance: docvqa (−15.0)."),
        (70, ["15"], 0, "Gate met: nothing is worse beyond chance by more than 15."),
        (70, ["14.9"], 1, "Gate not met: worse beyond chance by more than 14.9: docvqa (−15.0)."),
    ],
)
def test_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str], right: int, gate: list[str], code: int, words: str) -> None:
    runs = [write_run(tmp_path / name, result("docvqa", bits(count))) for name, count in (("a", 100), ("b", right))]
    assert compared(*runs, "--fail-if-worse", *gate) == code
    assert words in capsys.readouterr().out


def test_shared_compares_what_both_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(
        tmp_path / "a", result("docvqa", bits(100)), result("textcaps", bits(100), makeup=Makeup(100.0, (0,) * COUNT, of_the_set=True))
    )
    limited = result("docvqa", bits(40, 100), ids=list(range(50, 150)), limit=100)
    caption = result("textcaps", bits(4, 9), limit=9, makeup=Makeup(100.0, (0,) * 9, of_the_set=True))
    b = write_run(tmp_path / "b", limited, caption, prompts={149: "another"})
    assert compared(a, b) == 2
    assert "other limits (none and 100)" in capsys.readouterr().err
    assert compared(a, b, "--shared") == 0
    out = capsys.readouterr().out
    assert "Note: docvqa: 99 shared samples of 200 and 100; the scores are those of the shared ones." in out
    assert "Note: textcaps is left out: what a caption is worth depends on all that were scored, and the runs scored others." in out
    assert "| docvqa    |   50.5 |  40.4 |" in out


def test_shared_numbers_pictures_alike_in_both_runs(tmp_path: Path) -> None:
    whole = result("docvqa", [0.0] * 6, makeup=Makeup(100.0, (0, 1, 2, 0, 1, 2)))
    part = result("docvqa", [1.0, 0.0, 1.0], ids=[2, 3, 5], makeup=Makeup(100.0, (0, 1, 0)))
    sides = read_sides([write_run(tmp_path / "a", whole), write_run(tmp_path / "b", part)], [], [])
    row = compare(*sides, shared=True, plan=PLAN).rows[0]
    assert (row.n, row.pictures, row.fixed) == (3, 2, 2)
    assert row.after == pytest.approx(200 / 3)


def test_shared_without_a_common_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a", result("docvqa", bits(2, 4), ids=[0, 1, 2, 3]))
    b = write_run(tmp_path / "b", result("docvqa", bits(2, 4), ids=[4, 5, 6, 7]))
    assert compared(a, b, "--shared") == 2
    assert "share no sample of any benchmark" in capsys.readouterr().err


def test_other_generation_settings_are_told_from_other_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a", result("docvqa", bits(100)))
    b = write_run(tmp_path / "b", result("docvqa", bits(100), prompts="x"), generation="32 tokens")
    assert compared(a, b) == 2
    assert "docvqa: other generation settings (16 tokens and 32 tokens)" in capsys.readouterr().err


def test_several_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    folders = {
        side: [write_run(tmp_path / f"{side}{seed}", result("docvqa", list((rng.random(COUNT) < level) * 1.0))) for seed in range(3)]
        for side, level in (("a", 0.4), ("b", 0.7))
    }
    assert compared("--before", *folders["a"], "--after", *folders["b"], "--json") == 0
    row = json.loads(capsys.readouterr().out)["benchmarks"][0]
    assert row["spread_before"] > 0
    assert row["test"] == "seeds and samples"
    assert row["beyond_chance"] == "better"
    assert compared("--before", *folders["a"], "--after", *folders["b"]) == 0
    out = capsys.readouterr().out
    assert " ± " in out
    assert "Means of 3 runs before and 3 after, ± the deviation between them." in out


def test_the_record_of_a_study_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import asdict

    arms = {name: {"results": [asdict(result("docvqa", bits(right)))]} for name, right in (("baseline", 100), ("cal", 130))}
    for count in (1, 2):
        kept = dict(list(arms.items())[:count])
        (tmp_path / "records.json").write_text(json.dumps({"command": "cal-bench study x", "arms": kept}))
        assert compared(tmp_path) == (0 if count == 2 else 2)
    streams = capsys.readouterr()
    assert f"Before: {tmp_path}: baseline\nAfter:  {tmp_path}: cal\n" in streams.out
    assert f"Two arms are compared; those of {tmp_path} are baseline. Give the run folders of two" in streams.err
    assert compared(tmp_path, tmp_path / "runs" / "x") == 2
    assert f"is a study, not a run. Give the folders of its runs, {tmp_path}/runs/baseline {tmp_path}/runs/cal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "compare takes two run folders, BEFORE and AFTER, or one study; 0 were given"),
        (["a", "b", "c"], "3 were given. For several seeds type: cal-bench compare --before RUN RUN --after RUN RUN"),
        (["a", "a"], "a is given twice"),
        (["a", "./a"], "a is given twice"),
        (["a"], "There is nothing to compare a with"),
        (["a", "nowhere"], "nowhere is not a run folder"),
        (["--before", "a", "b"], "There is no --after"),
        (["--after", "a", "b"], "There is no --before"),
        (["a", "b", "--before", "c", "--after", "a"], "a b stands on neither side"),
        (["--before", "a", "b", "--after", "c"], "There are 2 runs before and 1 after"),
        (["--fail-if-worse", "a", "b"], "expected points such as 0.5, got a. Type it behind the run folders"),
        (["a", "b", "--fail-if-worse", "-1"], "expected"),
        (["a", "b", "--fail-if-worse", "nan"], "expected points such as 0.5, got nan"),
        (["a", "b", "--sharde"], "Did you mean '--shared'"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    first = write_run(Path("a"), result("docvqa", bits(100)))
    for name in "bc":
        shutil.copytree(first, name)
    assert compared(*arguments) == 2
    streams = capsys.readouterr()
    assert words in streams.err
    assert streams.out == ""


def test_differences_are_shown_with_their_sign() -> None:
    assert [signed(number, 1) for number in (1.25, -0.5, 0.0, -0.04, 0.04)] == ["+1.2", "−0.5", "0.0", "0.0", "0.0"]
    assert signed(-30.4, 0) == "−30"


def test_text_of_a_limited_run_is_marked() -> None:
    limited = result("docvqa", bits(5, 20), limit=20)
    text = comparison_text(compare([source("a", limited)], [source("b", limited)], plan=PLAN))
    assert "| docvqa†   |" in text
    assert "† Limited to at most 20 random samples." in text


def test_comparisons_and_tables_need_nothing_heavier_than_numpy() -> None:
    names = ", ".join(f"cal_bench.{name}" for name in ("stats", "alike", "compare", "compare_text", "tables", "table_text", "table_rows"))
    heavy = ["torch", "transformers", "lmms_eval", "datasets", "pandas", "scipy", "matplotlib", "PIL", "pyarrow"]
    code = f"import sys, {names}; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
