"""The ways in which the package reaches people: wheel, source archive, plain clone; each is used from another folder."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCE = shutil.ignore_patterns(".?*", "build", "dist", "*.egg-info", "__pycache__", "runs", "arms", "data")
LOOK = """
import importlib, json
from importlib import resources
rooms = ["cal_bench." + room for room in ("tasks", "trainer_plugin", "results", "recipes", "miniworld")]
files = {name: importlib.import_module(name).__file__ for name in ["cal_bench", "cal_bench.cli", *rooms]}

def walk(folder, before=""):
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from walk(entry, before + entry.name + "/")
        else:
            yield before + entry.name

data = {name: sorted(walk(resources.files(name))) for name in rooms}
print(json.dumps({"files": files, "data": data}))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that building leaves nothing in the real one."""
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("source") / "checkout", ignore=NOT_SOURCE))


def build(source: Path, kind: str, out: Path) -> Path:
    """The wheel or source archive of `source`, by the build backend itself: nothing is downloaded."""
    out.mkdir(parents=True, exist_ok=True)
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))"
    built = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return out / built.stdout.splitlines()[-1]


def check(folder: Path, elsewhere: Path) -> None:
    """Everything can be imported from `folder`, and from there alone, by a process that works elsewhere."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    found = subprocess.run([sys.executable, "-c", LOOK], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout.splitlines()[-1])
    outside = {name: file for name, file in told["files"].items() if not Path(file).is_relative_to(folder)}
    assert not outside
    data = told["data"]
    assert "cal_chartqa.yaml" in data["cal_bench.tasks"]
    assert len([name for name in data["cal_bench.tasks"] if name.endswith(".yaml")]) == 15
    assert any(name.startswith("published/") for name in data["cal_bench.results"])
    assert "demo.yaml" in data["cal_bench.recipes"]
    assert any(name.endswith(".safetensors") for name in data["cal_bench.miniworld"])


@pytest.mark.slow
def test_a_plain_clone_works_with_nothing_but_its_place_on_the_path(source: Path, tmp_path: Path) -> None:
    check(source, tmp_path)


@pytest.mark.slow
def test_a_wheel_holds_everything(source: Path, tmp_path: Path) -> None:
    wheel = build(source, "wheel", tmp_path / "dist")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    check(tmp_path / "installed", tmp_path)
    tops = {path.name for path in (tmp_path / "installed").iterdir()}
    assert tops == {"cal_bench", next(name for name in tops if name.endswith(".dist-info"))}


@pytest.mark.slow
def test_a_source_archive_makes_the_same_wheel(source: Path, tmp_path: Path) -> None:
    archive = build(source, "sdist", tmp_path / "dist")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    check(unpacked, tmp_path)
    wheels = [build(folder, "wheel", tmp_path / place) for folder, place in ((source, "from_checkout"), (unpacked, "from_archive"))]
    contents = [sorted(zipfile.ZipFile(wheel).namelist()) for wheel in wheels]
    assert contents[0] == contents[1]
