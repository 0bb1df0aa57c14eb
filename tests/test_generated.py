"""Every generated table of the repository is what its command writes; each format can be read by what it is meant for."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cal_bench import cli
from cal_bench.conclude import conclude, conclude_seeds
from cal_bench.evidence import exact_only, read_rows
from cal_bench.tables import tables_json

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "results" / "demo"


def written(kind: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["table", str(DEMO), "--format", kind]) == 0
    return capsys.readouterr().out


def test_the_tables_are_what_the_command_writes() -> None:
    assert cli.main(["table", str(DEMO), "--out", str(DEMO / "tables.md"), "--check"]) == 0


def test_the_numbers_behind_the_tables_are_those_of_the_records() -> None:
    rows = exact_only(read_rows([DEMO]))
    assert json.loads((DEMO / "tables.json").read_text(encoding="utf-8")) == tables_json(rows.arms, rows.command)


def same_digits(text: str) -> str:
    """Numbers to ten digits: another numpy adds up in another order."""
    return re.sub(r"\d+\.\d{10,}(e-\d+)?", lambda number: f"{float(number[0]):.10g}", text)


def test_comparison_costs_and_plot_are_what_the_study_writes(tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "demo")
    written_by_the_study = ("comparison.md", "comparison.json", "costs.md", "differences.png")
    for name in written_by_the_study:
        (tmp_path / "demo" / name).unlink()
    conclude(tmp_path / "demo", "cal-bench study demo")
    for name in written_by_the_study:
        assert (tmp_path / "demo" / name).exists(), name
        if not name.endswith(".png"):  # another matplotlib draws other bytes
            assert same_digits((tmp_path / "demo" / name).read_text("utf-8")) == same_digits((DEMO / name).read_text("utf-8")), name


@pytest.mark.parametrize("study", sorted({folder.parent.name for folder in DEMO.parent.glob("*/seed-*")}))
def test_published_comparisons_over_seeds_follow_from_the_records(study: str, tmp_path: Path) -> None:
    published = DEMO.parent / study
    stored = json.loads((published / "comparison.json").read_text(encoding="utf-8"))
    conclude_seeds(tmp_path, [published / f"seed-{seed}" for seed in stored["seeds"]], stored["command"])
    for name in ("tables.md", "comparison.md", "comparison.json"):
        assert same_digits((tmp_path / name).read_text("utf-8")) == same_digits((published / name).read_text("utf-8")), name


# What guessing gives in hundredths of the range: the larger share where questions have two or four options, always "yes" for POPE's F1, and
# half of the points and a quarter of the pairs for MME, which has 200 for each of the five kinds of the miniature. Captions have no range.
CHANCE = {
    "ocrbench": 0, "docvqa": 0, "chartqa": 0, "textvqa": 0, "textvqa_ocr": 0, "refcocog_val": 0, "refcocog_test": 0, "scienceqa_img": 50,
    "mmstar": 25, "mmt": 50, "seed_img": 25, "pope": 67, "mme": 37.5,
}  # fmt: skip
RANGE = {"ocrbench": 1000, "mme": 1000}


def test_the_demo_leaves_room_for_a_difference_to_show() -> None:
    tables = json.loads((DEMO / "tables.json").read_text(encoding="utf-8"))["tables"]
    scores = {name: score for table in tables for name, score in table["rows"][0]["scores"].items()}
    counts = {column["benchmark"]: column["n"] for table in tables for column in table["columns"]}
    shares = {name: 100 * score / RANGE.get(name, 100) for name, score in scores.items() if name in CHANCE}
    half = {name: 196 * math.sqrt(max(0, share * (100 - share)) / 1e4 / counts[name]) for name, share in shares.items()}
    telling = [name for name, share in shares.items() if 20 <= share <= 90 and share - half[name] > CHANCE[name]]
    assert len(telling) >= 10, shares


def test_the_tables_in_the_readme_are_those_of_the_demo() -> None:
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "results/demo"], cwd=ROOT, capture_output=True)
    if changed.returncode:
        pytest.skip("the demo was made anew here, or this is no git checkout")
    assert (DEMO / "tables.md").read_text(encoding="utf-8") in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_table_that_was_edited_is_found(tmp_path: Path) -> None:
    edited = tmp_path / "tables.md"
    edited.write_text((DEMO / "tables.md").read_text(encoding="utf-8").replace("baseline", "Baseline", 1), encoding="utf-8")
    assert cli.main(["table", str(DEMO), "--out", str(edited), "--check"]) == 1


def test_csv_and_json_give_back_every_score(capsys: pytest.CaptureFixture[str]) -> None:
    known = {(arm, name): result.score for arm, results in exact_only(read_rows([DEMO])).arms.items() for name, result in results.items()}
    lines = list(csv.DictReader(io.StringIO(written("csv", capsys))))
    assert {(line["row"], line["benchmark"]): float(line["score"]) for line in lines} == known
    tables = json.loads(written("json", capsys))["tables"]
    assert {(row["arm"], name): score for table in tables for row in table["rows"] for name, score in row["scores"].items()} == known


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here: apt-get install texlive-latex-recommended")
def test_latex_compiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = written("latex", capsys)
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{chr(10)}{body}\end{{document}}"
    (tmp_path / "tables.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert made.returncode == 0, made.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "tables.log").read_text(errors="replace")
