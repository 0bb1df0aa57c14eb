"""Who may import whom: the arrows of the project's rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIGHT = ("errors", "records", "tables", "stats", "compare")
OWN = ("cal_bench.tasks", "cal_bench.trainer_plugin")


def imports(path: Path, package: str) -> set[str]:
    """Every module that a file imports, anywhere in it; relative imports written out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = f"{package}." if node.level else ""
            module = f"{start}{node.module or ''}".rstrip(".")
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", ["tasks", "trainer_plugin"])
def test_a_lower_room_never_imports_an_upper_one(room: str) -> None:
    own = f"cal_bench.{room}"
    for path in (ROOT / room).glob("*.py"):
        upward = {name for name in imports(path, own) if name.split(".")[0] == "cal_bench" and not f"{name}.".startswith(f"{own}.")}
        assert not upward, f"{room}/{path.name} imports {upward}"


def test_only_the_study_and_what_it_is_made_of_use_the_plugin() -> None:
    users = {
        path.stem for path in (ROOT / "cal_bench").glob("*.py") if any("trainer_plugin" in name for name in imports(path, "cal_bench"))
    }
    assert users <= {"study", "config", "preflight", "train", "train_log", "stage_trainer", "training_data", "label_check", "commands"}


def test_results_hold_no_code() -> None:
    assert [path.name for path in (ROOT / "results").rglob("*.py")] == ["__init__.py"]


def test_records_and_tables_need_nothing_heavier_than_numpy() -> None:
    names = ", ".join(f"cal_bench.{name}" for name in LIGHT)
    heavy = ["torch", "transformers", "lmms_eval", "datasets", "pandas", "matplotlib", "rich", "yaml", "PIL"]
    code = f"import sys, {names}; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_the_bare_names_are_refused() -> None:
    for room in ("tasks", "trainer_plugin"):
        refused = subprocess.run([sys.executable, "-c", f"import {room}"], capture_output=True, text=True, cwd=ROOT)
        assert refused.returncode == 1
        assert f"import cal_bench.{room}" in refused.stderr
