"""The commands that answer at once: they import nothing heavy, and so take little time."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ["torch", "transformers", "lmms_eval", "datasets", "numpy", "PIL", "rich", "yaml"]
WATCHED = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps([name for name in {heavy} if name in sys.modules]), file=sys.stderr))
from cal_bench.cli import main
sys.exit(main({arguments}))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["tasks"], ["study", "--help"], ["tsks"]])
def test_it_answers_without_anything_heavy_in_half_a_second(arguments: list[str]) -> None:
    code = WATCHED.format(heavy=HEAVY, arguments=arguments)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert json.loads(told.stderr.splitlines()[-1]) == []
    # Time on the processor, so that a busy machine does not make a quick command slow.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_a_table_of_published_runs_needs_no_torch(tmp_path: Path) -> None:
    code = WATCHED.format(heavy=["torch", "transformers", "lmms_eval", "datasets"], arguments=["table", str(tmp_path)])
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert told.returncode == 2
    assert json.loads(told.stderr.splitlines()[-1]) == []
