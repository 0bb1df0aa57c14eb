"""Is everything here that a study needs? One line per thing, and what to type where something is missing."""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

JAVA_HELP = "sudo apt-get install default-jre-headless"
_OLDEST_PYTHON = (3, 10)
_DISK_GB = 10
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `remedy` is what to type, empty where all is well."""

    subject: str
    state: str
    remedy: str = ""


def examine(folder: Path) -> list[Finding]:
    """Everything worth knowing about this machine, for results that are written under `folder`."""
    looks: list[Callable[[], list[Finding]]] = [_python, _packages, _java, lambda: _disk(folder), _processors, _offline]
    return [finding for look in looks for finding in look()]


def report(findings: list[Finding], ask: str = "type") -> str:
    """The findings as lines of text; `ask` says what a remedy is."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{'!!' if finding.remedy else 'ok'}  {finding.subject:<{width}}  {finding.state}")
        if finding.remedy:
            lines.append(f"{'':{width + 4}}  {ask}: {finding.remedy}")
    return "\n".join(lines)


def _python() -> list[Finding]:
    enough = sys.version_info >= _OLDEST_PYTHON
    remedy = "" if enough else "sudo apt-get install python3.11 python3.11-venv"
    return [Finding("python", f"{platform.python_version()} ({sys.executable})", remedy)]


def _packages() -> list[Finding]:
    """The packages that cal-bench asks for, by their installed versions; importing them would take many seconds."""
    from packaging.requirements import Requirement

    findings = []
    for text in metadata.requires("cal-bench") or []:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        remedy = f"{sys.executable} -m pip install '{wanted.name}{wanted.specifier}'"
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            findings.append(Finding(wanted.name, "not installed", remedy))
            continue
        fits = wanted.specifier.contains(version, prereleases=True)
        findings.append(Finding(wanted.name, version if fits else f"{version}, needs {wanted.specifier}", "" if fits else remedy))
    return findings


def _java() -> list[Finding]:
    found = shutil.which("java")
    return [Finding("java", found or "not found: coco_caption and textcaps are scored only approximately", "" if found else JAVA_HELP)]


def _disk(folder: Path) -> list[Finding]:
    free = shutil.disk_usage(nearest(folder)).free / 1e9
    remedy = "" if free >= _DISK_GB else f"df -h {nearest(folder)}  (and free some space, or give --out on another disk)"
    return [Finding("disk", f"{free:.0f} GB free for {folder}", remedy)]


def _processors() -> list[Finding]:
    try:
        import torch
    except ImportError:
        return []  # said among the packages
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    threads = f"{torch.get_num_threads()} threads, {os.cpu_count()} processors"
    return [Finding("gpu", ", ".join(devices) or "none: training and evaluation run on the processors"), Finding("threads", threads)]


def _offline() -> list[Finding]:
    on = [name for name in _OFFLINE if os.environ.get(name, "0").lower() not in ("", "0", "false", "no")]
    return [Finding("offline", f"{', '.join(on)} set: nothing is fetched" if on else "no: data and models may be fetched from the hub")]


def nearest(folder: Path) -> Path:
    """The folder itself, or its first parent that exists."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder
