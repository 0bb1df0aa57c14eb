"""The doctor says what is missing and what to type."""

from pathlib import Path

import pytest

from cal_bench import doctor
from cal_bench.doctor import Finding, examine, nearest, report


def test_every_finding_that_is_a_problem_says_what_to_type() -> None:
    told = report([Finding("python", "3.11.7"), Finding("java", "not found", "sudo apt-get install default-jre-headless")])
    assert told.splitlines() == [
        "ok  python  3.11.7",
        "!!  java    not found",
        "            type: sudo apt-get install default-jre-headless",
    ]


def test_it_looks_at_everything(tmp_path: Path) -> None:
    subjects = {finding.subject for finding in examine(tmp_path / "results")}
    assert {"python", "torch", "transformers", "lmms-eval", "java", "disk", "gpu", "threads", "offline"} <= subjects
    assert "vllm" not in subjects  # an extra


def test_without_java_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    java = next(finding for finding in examine(tmp_path) if finding.subject == "java")
    assert "textcaps" in java.state
    assert java.remedy == doctor.JAVA_HELP


def test_the_offline_variables_are_read_as_the_libraries_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "0")
    offline = next(finding for finding in examine(tmp_path) if finding.subject == "offline")
    assert offline.state.startswith("HF_HUB_OFFLINE")
    assert "TRANSFORMERS_OFFLINE set" not in offline.state


def test_nearest_is_the_first_parent_that_exists(tmp_path: Path) -> None:
    assert nearest(tmp_path / "a" / "b") == tmp_path
