"""Kills a study at random moments, gives the same command again each time, and compares what comes out with an undisturbed run.

    python -m benchmarks.kill_study                # 20 kills, from the root of the checkout
    python -m benchmarks.kill_study --kills 5 --seed 7

The study is that of tests/test_study.py: a two-layer model, two arms of two stages, three benchmarks. Each process is killed with all
that it has started (kill -9) after a random part of the time that the undisturbed study took, and the next one goes on in the same
folder, until the study is done; then another begins, until there were enough kills. Weights, answers' scores and tables must be
the same bytes. Exit code 1 if they are not. The processes are forked from one that has imported everything, to spend the time on the study.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from cal_bench.cli import main as command
from cal_bench.study import run_study
from cal_bench.tasks import get
from cal_bench.tasks.lmms import read_definition
from tests.test_study import STUDY, SUMMARIES, WEIGHTS, lay_out

COMPARED = [*SUMMARIES, *WEIGHTS, "tables.md", "tables.json", "config.yaml"]
LONGEST = 0.4  # of the undisturbed study's time; with the mean of half of it a study is killed about five times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    preload()
    with tempfile.TemporaryDirectory() as passing:
        config = lay_out(Path(passing))
        begun = time.monotonic()
        assert finished(start(config, "undisturbed")) == 0, told(config)
        whole = time.monotonic() - begun
        print(f"undisturbed: {whole:.0f} s", flush=True)
        return killed_studies(config, whole, random.Random(arguments.seed), arguments.kills)


def preload() -> None:
    """Import what a study imports on its way."""
    assert run_study
    for name in STUDY["evaluate"]["benchmarks"]:
        read_definition(get(name))


def killed_studies(config: Path, whole: float, generator: random.Random, kills: int) -> int:
    """Studies until enough processes were killed; 1 if one of them came out otherwise."""
    killed, studies, different = 0, 0, 0
    while killed < kills:
        studies += 1
        out = f"killed-{studies}"
        while True:
            process = start(config, out)
            if killed == kills or not killed_after(process, generator.uniform(0, LONGEST) * whole):
                break
            killed += 1
            print(f"kill {killed:>2} in study {studies}: {', '.join(state(config.parent / out))}", flush=True)
        assert finished(process) == 0, told(config)
        wrong = [file for file in COMPARED if differs(config.parent, out, file)]
        different += bool(wrong)
        print(f"study {studies} is done: {', '.join(wrong) + ' differ' if wrong else f'all {len(COMPARED)} files are the same bytes'}")
    print(f"{killed} kills, {studies} studies, {different} of them came out otherwise")
    return 1 if different else 0


def start(config: Path, out: str) -> int:
    """A process of its own group that runs the study's command."""
    process = os.fork()
    if process:
        return process
    os.setsid()
    with (config.parent / "told.txt").open("ab", buffering=0) as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.chdir(config.parent)
    code = 70
    try:
        code = command(["study", config.name, "--out", out])
    finally:
        os._exit(code)


def killed_after(process: int, seconds: float) -> bool:
    """Kill the process and its children after so long; False if it was done before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        time.sleep(0.005)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return True


def finished(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def told(config: Path) -> str:
    return (config.parent / "told.txt").read_text(errors="replace")[-4000:]


def state(out: Path) -> Iterator[str]:
    """What there is of a study: trained stages, the one in training, benchmarks scored, answers of the one that is not."""
    stages = {path.parent for path in out.glob("arms/*/*/train.json") if '"complete"' in path.read_text()}
    yield f"{len(stages)} stages trained"
    for checkpoint in sorted(out.glob("arms/*/*/checkpoints/checkpoint-*")):
        yield str(checkpoint.relative_to(out / "arms"))
    scored = sorted(out.glob("runs/*/*.json"))
    yield f"{sum(path.name != 'run.json' for path in scored)} benchmarks scored"
    for answers in sorted(out.glob("runs/*/*.jsonl")):
        if not answers.with_suffix(".json").exists():
            yield f"{answers.read_bytes().count(10)} answers in {answers.relative_to(out)}"


def differs(folder: Path, out: str, file: str) -> bool:
    return (folder / out / file).read_bytes() != (folder / "undisturbed" / file).read_bytes()


if __name__ == "__main__":
    sys.exit(main())
