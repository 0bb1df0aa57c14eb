"""Two output folders of lmms-eval, imported: compare, table and page all work on them."""

import json
from pathlib import Path

import pytest

from cal_bench import cli
from tests import tasks_rows
from tests.test_import import run_lmms_eval
from tests.test_page import embedded

NAMES = ("chartqa", "pope")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Run folders of two checkpoints: the first answers right one time in three, the second two times in three."""
    folder = tmp_path_factory.mktemp("lmms")
    data = folder / "data"
    data.mkdir()
    for name in NAMES:
        tasks_rows.write(data, name)
    made = []
    for place, side in enumerate(("before", "after"), start=1):
        answers = {name: {id: tasks_rows.right_answer(name, id) if id % 3 < place else "none" for id in range(12)} for name in NAMES}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            output = run_lmms_eval(data, folder / f"{side}_output", answers)
        made.append(folder / side)
        assert cli.main(["import", str(output), "--data", str(data), "--out", str(made[-1])]) == 0
    return made[0], made[1]


def test_compare(imported: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", *map(str, imported), "--json"]) == 0
    rows = {row["benchmark"]: row for row in json.loads(capsys.readouterr().out)["benchmarks"]}
    assert set(rows) == set(NAMES)
    assert (rows["chartqa"]["fixed"], rows["chartqa"]["broken"]) == (4, 0)
    assert rows["chartqa"]["after"] - rows["chartqa"]["before"] == pytest.approx(100 / 3)


def test_table(imported: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["table", *map(str, imported)]) == 0
    out = capsys.readouterr().out
    assert "| before | 33.3 |" in out
    assert "| after | **66.7** | 1/1 |" in out


def test_page(imported: tuple[Path, Path], tmp_path: Path) -> None:
    assert cli.main(["page", *map(str, imported), "-o", str(tmp_path / "page.html")]) == 0
    content = embedded((tmp_path / "page.html").read_text())
    fixed = [sample for sample in content["samples"] if sample["kind"] == "fixed"]
    assert {(sample["benchmark"], sample["id"]) for sample in fixed} == {(name, id) for name in NAMES for id in (1, 4, 7, 10)}
    first = next(sample for sample in fixed if (sample["benchmark"], sample["id"]) == ("chartqa", 1))
    assert (first["question"], first["answers"], first["references"]) == ("How many in 1?", ["none", "10"], ["10"])
    assert all(sample["pictures"] for sample in fixed)
