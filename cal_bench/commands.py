"""One function per command: read the arguments, call one thing, print the answer; each returns the exit code."""

import contextlib
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from cal_bench.errors import UserError, suggest
from cal_bench.progress import say

DONE, FAILED, WRONG_COMMAND = 0, 1, 2
ALL = "all"


def tasks(arguments: Namespace) -> int:
    """List the benchmarks in the order of the paper."""
    from cal_bench.tasks import BENCHMARKS

    width = max(len(benchmark.name) for benchmark in BENCHMARKS)
    print(f"{'benchmark':<{width}}  {'column':<18}  {'samples':>7}  {'score in':<8}  file")
    for benchmark in BENCHMARKS:
        java = "  (needs java)" if benchmark.needs_java else ""
        columns = f"{benchmark.column:<18}  {benchmark.size:>7,}  {benchmark.unit:<8}  {benchmark.file}.parquet"
        print(f"{benchmark.name:<{width}}  {columns}{java}")
    return DONE


def train(arguments: Namespace) -> int:
    """Train one arm of a study."""
    with _working():
        from cal_bench.config import load_study
        from cal_bench.study import prepare, train_arm

        study = load_study(arguments.config, arguments.seed)
        _known("arm", arguments.arm, list(study.arms))
        if arguments.stage is not None:
            _known("stage", arguments.stage, list(study.stages))
        checkpoint = train_arm(prepare(study, _study_folder(arguments, study.name)), arguments.arm, arguments.stage)
        say(f"Next: cal-bench eval all --model {checkpoint}")
    print(checkpoint)
    return DONE


def evaluate(arguments: Namespace) -> int:
    """Run benchmarks on one checkpoint."""
    with _working():
        from cal_bench.evaluation import Options, evaluate_checkpoint, open_tasks, result_line, without_java
        from cal_bench.models import checkpoint_folder
        from cal_bench.tasks import names

        asked = names() if ALL in arguments.benchmarks else tuple(arguments.benchmarks)
        wanted = without_java(asked)
        checkpoint = checkpoint_folder(arguments.model)
        out = Path(arguments.out or Path("results", "runs", checkpoint.resolve().name))
        opened = open_tasks(wanted, arguments.data)
        say(f"Evaluating {checkpoint} on {len(opened)} benchmarks into {out}")
        done = evaluate_checkpoint(checkpoint, opened, out, Options(arguments.batch_size, arguments.limit))
        say(f"Answers and scores: {out}. Next: cal-bench table {out}")
    for evaluation in done:
        print(result_line(evaluation))
    if wanted != asked and ALL not in arguments.benchmarks:
        return WRONG_COMMAND
    return DONE if all(evaluation.complete for evaluation in done) else FAILED


def score(arguments: Namespace) -> int:
    """Score answers that were made elsewhere."""
    with _working(), tempfile.TemporaryDirectory() as passing:
        from cal_bench.evaluation import result_line, score_file, without_java

        if not without_java([arguments.benchmark]):
            return WRONG_COMMAND
        evaluation = score_file(arguments.benchmark, Path(arguments.predictions), arguments.data, Path(arguments.out or passing))
    print(result_line(evaluation))
    if evaluation.result is not None:
        for name, value in evaluation.result.metrics.items():
            print(f"  {name}: {value}")
    return DONE


def study(arguments: Namespace) -> int:
    """Train and evaluate every arm, write the tables."""
    with _working():
        from cal_bench.config import load_study
        from cal_bench.study import run_study

        config = load_study(arguments.config, arguments.seed)
        outcome = run_study(config, _study_folder(arguments, config.name), _study_command(arguments))
    print(outcome.tables, end="")
    return DONE if outcome.complete else FAILED


def table(arguments: Namespace) -> int:
    """Print the tables of runs, or of a study."""
    from cal_bench.evidence import read_rows
    from cal_bench.runs import write_atomically
    from cal_bench.tables import tables_markdown

    rows = read_rows([Path(run) for run in arguments.runs])
    text = tables_markdown(rows.arms, rows.command)
    if arguments.out is None:
        print(text, end="")
        return DONE
    write_atomically(Path(arguments.out), text)
    say(f"Wrote {arguments.out}")
    return DONE


def doctor(arguments: Namespace) -> int:
    """Look at this machine, or at what CAL means on a model; 1 where something is missing or wrong."""
    from cal_bench.doctor import Finding, examine, report

    if arguments.cal is None:
        findings = examine(Path("results"))
        print(report(findings))
    else:
        with _working():
            from cal_bench.trainer_plugin.selftest import selftest_of

            findings = [Finding(check.name, check.found, check.remedy) for check in selftest_of(arguments.cal)]
        print(report(findings, ask="do"))
    return FAILED if any(finding.remedy for finding in findings) else DONE


@contextlib.contextmanager
def _working() -> Iterator[None]:
    """While libraries work, what they print goes to standard error; a wrong use of the plug-in is a wrong command."""
    with contextlib.redirect_stdout(sys.stderr):
        from cal_bench.trainer_plugin.config import CALError

        try:
            yield
        except CALError as error:
            raise UserError(str(error)) from error


def _known(what: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise UserError(f"The study has no {what} '{name}'.{suggest(name, known)} It has {', '.join(known)}.")


def _study_folder(arguments: Namespace, name: str) -> Path:
    return Path(arguments.out or Path("results", name))


def _study_command(arguments: Namespace) -> str:
    """What was typed, as it goes into the tables: without folders of this machine, which a reader elsewhere doesn't have."""
    config = Path(arguments.config).name if Path(arguments.config).is_absolute() else arguments.config
    return f"cal-bench study {config}" + ("" if arguments.seed is None else f" --seed {arguments.seed}")
