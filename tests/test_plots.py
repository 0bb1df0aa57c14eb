"""Findings over seeds, and their plots: made of records alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cal_bench import plots
from cal_bench.compare import arm_sums
from cal_bench.conclude import conclude, conclude_seeds
from cal_bench.evidence import write_details
from cal_bench.figure import COLOURS
from cal_bench.findings import find, held_against, in_hundredths, mean_of, score
from cal_bench.overhead import costs_markdown
from tests.made_up import COMMAND, arm, summaries, write_study
from tests.test_compare import result

NAMES = {"ocrbench": "points", "docvqa": "%", "chartqa": "%", "coco_caption": "CIDEr", "refcocog_val": "IoU", "pope": "%"}
SEEDS = (0, 1, 2, 3, 4)
SWAPS = (0.0, 0.1, 0.2, 0.3)


@pytest.fixture
def sweep(tmp_path: Path) -> list[Path]:
    """Three arms over five seeds, of which one is better by 12 points and one by nothing."""
    chances = {"baseline": 0.5, "better": 0.62, "alike": 0.501}
    return [
        write_study(tmp_path / f"seed-{seed}", {name: arm(name, summaries(NAMES, chance, seed), seed) for name, chance in chances.items()})
        for seed in SEEDS
    ]


@pytest.fixture
def noise(tmp_path: Path) -> list[Path]:
    """A list of four studies over two seeds: the baseline loses 30 points with the swaps, the other arm 15."""
    folders = []
    for seed in SEEDS[:2]:
        rows = {}
        for swap in SWAPS:
            study = f"noise-{100 * swap:.0f}"
            rows[study] = arm("baseline", summaries(NAMES, 0.6 - swap, seed), seed, swap)
            rows[f"{study}+cal"] = arm("cal", summaries(NAMES, 0.61 - swap / 2, seed), seed, swap)
        folders.append(write_study(tmp_path / f"noise-{seed}", rows))
    return folders


def test_every_arm_is_held_against_the_first_and_in_a_list_against_its_own_study() -> None:
    assert held_against(["baseline", "a", "b"]) == {"a": "baseline", "b": "baseline"}
    assert held_against(["x", "x+cal", "y", "y+cal"]) == {"x+cal": "x", "y+cal": "y"}
    assert held_against(["alone"]) == {}


def test_seeds_are_told_apart_from_noise(sweep: list[Path]) -> None:
    better, alike = find(sweep, COMMAND).pairs
    assert (better.after.name, better.before.name, len(better.comparison.before)) == ("better", "baseline", 5)
    assert set(better.comparison.named("better")) == set(NAMES)
    assert not alike.comparison.named("better")
    assert better.overall is not None
    assert alike.overall is not None
    assert 9 < better.overall.gain.low < better.overall.gain.value < better.overall.gain.high < 15
    assert alike.overall.gain.low < 0 < alike.overall.gain.high
    # The mean of many benchmarks is known better than any of them.
    assert better.overall.gain.error < min(row.gain.error for row in better.comparison.rows)


def test_the_mean_is_that_of_the_scores_and_no_picture_counts_twice() -> None:
    first, second = result("docvqa", [1, 0, 0, 0]), result("chartqa", [1, 1], scale=50.0)
    assert mean_of([arm_sums([first]), arm_sums([second])]).scores() == pytest.approx((25 + 50) / 2)
    found = {"textvqa": (result("textvqa", [1.0]),), "textvqa_ocr": (result("textvqa_ocr", [1.0]),)}
    found |= {
        name: (result(name, [1.0], unit=unit, data_fingerprint=name),) for name, unit in {"mme": "points", "refcocog_val": "IoU"}.items()
    }
    assert in_hundredths(found) == ("textvqa", "refcocog_val")


def test_the_interval_of_a_score_over_seeds_is_wider_than_that_of_one_run() -> None:
    rng = np.random.default_rng(0)
    runs = [result("docvqa", [float(rng.random() < chance) for _ in range(400)]) for chance in (0.4, 0.5, 0.6)]
    one, several = score(runs[1:2]), score(runs)
    assert one.value == pytest.approx(runs[1].score)
    assert several.value == pytest.approx(np.mean([run.score for run in runs]))
    assert several.high - several.low > 2 * (one.high - one.low)


def test_tables_over_seeds_hold_means_and_deviations(sweep: list[Path], tmp_path: Path) -> None:
    text = conclude_seeds(tmp_path, sweep, COMMAND)
    better = next(row for row in find(sweep, COMMAND).rows if row.name == "better")
    scores = [results["pope"].score for results in better.seeds]
    written = json.loads((tmp_path / "tables.json").read_text())
    assert written["scores"]["better"]["pope"] == scores
    assert f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f}" in text
    assert "Means over the seeds 0, 1, 2, 3, 4 ± the deviation between them." in text
    assert text == (tmp_path / "tables.md").read_text()
    compared = (tmp_path / "comparison.md").read_text()
    assert "## better against baseline" in compared
    assert "Mean of 4 benchmarks (docvqa, chartqa, refcocog_val, pope): " in compared
    assert "The intervals cover other seeds and other pictures." in compared
    first = json.loads((tmp_path / "comparison.json").read_text())["comparisons"][0]
    assert (first["row"], first["against"], len(first["benchmarks"])) == ("better", "baseline", 6)
    assert first["mean"]["gain"]["value"] == pytest.approx(first["mean"]["after"] - first["mean"]["before"])


def test_differences_are_drawn_for_any_study_and_lines_over_swaps_where_there_are_several(
    sweep: list[Path], noise: list[Path], tmp_path: Path
) -> None:
    conclude(sweep[0], COMMAND)
    assert_drawn(sweep[0] / "differences.png")
    assert not (sweep[0] / "swaps.png").exists()
    conclude_seeds(tmp_path, noise, COMMAND)
    for name in ("differences.png", "swaps.png"):
        assert_drawn(tmp_path / name)


def test_the_lines_hold_the_mean_scores_by_share_of_swaps(noise: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures: list[tuple[Any, str]] = []
    monkeypatch.setattr(plots, "save", lambda figure, path, caption: figures.append((figure, caption)))
    findings = find(noise, COMMAND)
    plots.draw_swaps(findings, tmp_path / "swaps.png")
    figure, caption = figures[0]
    docvqa = next(axis for axis in figure.axes if axis.get_title(loc="left") == "DOCVQA")
    baseline = docvqa.lines[0]
    wanted = {100 * row.swap: np.mean([results["docvqa"].score for results in row.seeds]) for row in findings.rows if row.arm == "baseline"}
    assert dict(zip(baseline.get_xdata(), baseline.get_ydata(), strict=True)) == pytest.approx(wanted)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["baseline", "cal"]
    assert "2 seeds (0, 1), 100 samples in each benchmark; intervals cover other seeds and other pictures." in caption
    assert COMMAND in caption


def test_means_are_of_the_same_benchmarks_in_every_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = {}
    for swap in SWAPS[:3]:
        for name in ("baseline", "cal"):
            easy, hard = result("docvqa", [1.0] * 100, data_fingerprint="a"), result("chartqa", [0.0] * 100, data_fingerprint="b")
            whole = (name, swap) != ("cal", 0.1)
            rows[f"noise-{100 * swap:.0f}" + "+cal" * (name == "cal")] = arm(name, [easy, hard] if whole else [hard], 0, swap)
    findings = find([write_study(tmp_path / "study", rows)], COMMAND)
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, path, caption: figures.append(figure))
    plots.draw_swaps(findings, tmp_path / "swaps.png")
    mean = next(axis for axis in figures[0].axes if axis.get_title(loc="left").startswith("mean"))
    assert mean.get_title(loc="left") == "mean of 1"
    assert [list(line.get_ydata()) for line in mean.lines[::3]] == [[0, 0, 0], [0, 0, 0]]
    plots.draw_differences(findings, tmp_path / "differences.png")
    mean = next(axis for axis in figures[1].axes if axis.get_title(loc="left").startswith("mean"))
    assert mean.get_title(loc="left") == "mean of 2"
    assert sum(line.get_marker() == "o" for line in mean.lines) == 2


def test_dots_are_filled_where_a_difference_is_more_than_chance(sweep: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, path, caption: figures.append(figure))
    findings = find(sweep, COMMAND)
    plots.draw_differences(findings, tmp_path / "differences.png")
    docvqa = next(axis for axis in figures[0].axes if axis.get_title(loc="left") == "DOCVQA")
    dots = [line for line in docvqa.lines if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() for dot in dots] == [COLOURS[0], "white"]
    gains = [row.gain.value for pair in findings.pairs for row in pair.comparison.rows if row.benchmark == "docvqa"]
    assert [dot.get_xdata()[0] for dot in dots] == gains


def test_a_study_of_one_arm_is_compared_with_nothing(tmp_path: Path) -> None:
    conclude(write_study(tmp_path, {"only": arm("only", summaries(NAMES, 0.5, 0))}), COMMAND)
    assert not (tmp_path / "comparison.md").exists()
    assert not (tmp_path / "differences.png").exists()


def test_costs_are_the_medians_of_the_logs_over_seeds(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    paces = {"stock": [[9.0, 1.0, 1.0], [1.0, 1.2]], "cal": [[1.5, 1.5, 1.5], [1.5, 1.5]]}
    for place, folder in enumerate(folders):
        logs = {
            name: {"it": [{"step": 10 * (number + 1), "seconds_per_step": pace} for number, pace in enumerate(given[place])]}
            for name, given in paces.items()
        }
        folder.mkdir()
        write_details(folder, {}, logs)
    text = costs_markdown(folders, COMMAND)
    assert "| stock | 30 | 1.000 | 1.00 | 30 s |" in text
    assert "| cal | 30 | 1.500 | 1.50 | 45 s |" in text
    assert costs_markdown([tmp_path], COMMAND) == ""


def test_it_imports_neither_torch_nor_lmms_eval(sweep: list[Path]) -> None:
    code = "import sys; from pathlib import Path; from cal_bench.conclude import conclude; conclude(Path(sys.argv[1]), 'x');"
    code += "print([name for name in ('torch', 'transformers', 'lmms_eval', 'datasets') if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code, str(sweep[0])], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def assert_drawn(path: Path) -> None:
    """A PNG of a page's width in which something is drawn in the first colour."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert 900 < picture.width < 1600
        assert 300 < picture.height < 2400
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    wanted = [int(COLOURS[0][place : place + 2], 16) for place in (1, 3, 5)]
    assert (pixels == wanted).all(axis=1).sum() > 500
