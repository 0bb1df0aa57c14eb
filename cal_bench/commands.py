"""One function per command: read the arguments, call one thing, print the answer; each returns the exit code."""

import contextlib
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from cal_bench.errors import UserError, suggest
from cal_bench.progress import say

DONE, FAILED = 0, 1
ALL = "all"


def tasks(arguments: Namespace) -> int:
    """List the benchmarks in the order of the paper, or say all about one."""
    from cal_bench.tasks import BENCHMARKS, get

    if arguments.benchmark is not None:
        benchmark = get(arguments.benchmark)
        with _working():
            from cal_bench.describe import describe

            lines = list(describe(benchmark, arguments.data))
        print(*lines, sep="\n")
        return DONE
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
        from cal_bench.evaluation import Options, checked, evaluate_checkpoint, open_tasks
        from cal_bench.models import checkpoint_folder
        from cal_bench.scoring import result_line
        from cal_bench.tasks import names

        wanted = checked(names() if ALL in arguments.benchmarks else arguments.benchmarks)
        checkpoint = checkpoint_folder(arguments.model)
        out = Path(arguments.out or Path("results", "runs", checkpoint.resolve().name))
        opened = open_tasks(wanted, arguments.data)
        say(f"Evaluating {checkpoint} on {len(opened)} benchmarks into {out}")
        options = Options(arguments.batch_size, arguments.limit, arguments.processing, arguments.data)
        done = evaluate_checkpoint(checkpoint, opened, out, options)
        say(f"Answers and scores: {out}. Next: cal-bench table {out}")
    for evaluation in done:
        print(result_line(evaluation))
    return DONE if all(evaluation.complete for evaluation in done) else FAILED


def score(arguments: Namespace) -> int:
    """Score answers that were made elsewhere."""
    with _working(), tempfile.TemporaryDirectory() as passing:
        from cal_bench.evaluation import checked
        from cal_bench.runner import Evaluation
        from cal_bench.scoring import metric_lines, result_line, score_file

        checked([arguments.benchmark])
        result = score_file(arguments.benchmark, Path(arguments.predictions), arguments.data, Path(arguments.out or passing))
        if arguments.out is not None:
            say(f"Answers and scores: {arguments.out}. Next: cal-bench table {arguments.out}")
    print(result_line(Evaluation(result.benchmark, result)), *metric_lines(result), sep="\n")
    return DONE


def rescore(arguments: Namespace) -> int:
    """Score the stored answers of a run again."""
    with _working():
        from cal_bench.scoring import change_line
        from cal_bench.scoring import rescore as score_again

        done = score_again(Path(arguments.run), arguments.data)
        say(f"Scores: {arguments.run}. Next: cal-bench table {arguments.run}")
    print(*map(change_line, done), sep="\n")
    return DONE if all(rescored.after.complete for rescored in done) else FAILED


def import_(arguments: Namespace) -> int:
    """Make a run of what lmms-eval wrote."""
    with _working():
        from cal_bench.lmms_import import find_output, import_output
        from cal_bench.runner import Evaluation
        from cal_bench.scoring import result_line

        output = find_output(Path(arguments.output))
        out = Path(arguments.out or Path("results", "runs", output.results.parent.name))
        if output.unknown:
            say(f"Left out, being no benchmarks here: {', '.join(output.unknown)}")
        done = import_output(output, arguments.data, out)
        for imported in done:
            for metric, theirs, ours in imported.differences:
                say(f"{imported.result.benchmark}: lmms-eval reports {metric} {theirs:.4f}, here it is {ours:.4f}")
        say(f"Answers and scores: {out}. Next: cal-bench table {out}")
    print(*[result_line(Evaluation(imported.result.benchmark, imported.result)) for imported in done], sep="\n")
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


def compare(arguments: Namespace) -> int:
    """Hold runs against each other; 1 where a gate was asked for and not met."""
    from cal_bench.compare import compare, read_sides
    from cal_bench.compare_text import comparison_json, comparison_text

    sides = [[Path(run) for run in given] for given in (arguments.runs, arguments.before, arguments.after)]
    before, after = read_sides(*sides)
    comparison = compare(before, after, arguments.shared)
    shown = comparison_json if arguments.json else comparison_text
    print(shown(comparison, arguments.fail_if_worse), end="")
    failed = arguments.fail_if_worse is not None and comparison.failed(arguments.fail_if_worse)
    return FAILED if failed else DONE


def table(arguments: Namespace) -> int:
    """Print the tables of runs, or of a study, or write them; with --check 1 where the file is not what would be written."""
    from cal_bench.runs import write_atomically

    if arguments.check and arguments.out is None:
        raise UserError("--check looks at a file that was written before. Name it with --out FILE.")
    text = _table_text(arguments)
    if arguments.out is None:
        print(text, end="")
    elif arguments.check:
        return _checked(Path(arguments.out), text)
    else:
        write_atomically(Path(arguments.out), text)
        say(f"Wrote {arguments.out}")
    return DONE


def _table_text(arguments: Namespace) -> str:
    from cal_bench.evidence import exact_only
    from cal_bench.table_rows import beside, named_rows
    from cal_bench.table_text import FORMATS
    from cal_bench.tables import LAYOUTS, Wanted

    found = named_rows([Path(run) for run in arguments.runs])
    rows = found if arguments.allow_approx else exact_only(found)
    if left_out := [f"{arm} {name}" for arm, results in found.arms.items() for name in results if name not in rows.arms[arm]]:
        say(
            f"Left out, being cider_approx: {', '.join(left_out)}. With Java, cal-bench rescore makes them exact; --allow-approx shows them"
        )
    numbers = tuple(sorted(set(arguments.tables))) or tuple(layout.number for layout in LAYOUTS)
    wanted = Wanted(numbers, beside(arguments.published, rows.arms) if arguments.published else None)
    chosen = [*(["--tables", *map(str, numbers)] if arguments.tables else [])]
    chosen += ["--published", arguments.published] if arguments.published else []
    chosen += ["--allow-approx"] if arguments.allow_approx else []
    chosen += ["--format", arguments.format] if arguments.format != "markdown" else []
    command = " ".join(["cal-bench table", *arguments.runs, *chosen]) if chosen else rows.command
    return FORMATS[arguments.format](rows.arms, command, wanted)


def _checked(path: Path, text: str) -> int:
    """Is the file on disk what the command would write?"""
    if not path.is_file():
        raise UserError(f"There is no file {path} to check. Give the same command without --check to write it.")
    if path.read_bytes() == text.encode():
        say(f"{path} is up to date")
        return DONE
    say(f"{path} is not what this command writes. Give it without --check, and look at what changes")
    return FAILED


def convert(arguments: Namespace) -> int:
    """Make a native folder from an original checkpoint, or from parts."""
    if len(arguments.folders) != (1 if arguments.from_scratch else 2):
        raise UserError("Give the original checkpoint and the new folder; with --from-scratch the new folder alone.")
    with _working():
        if arguments.from_scratch:
            made = _from_scratch(arguments)
        else:
            from cal_bench.systems.convert import convert

            source, destination = map(Path, arguments.folders)
            made = convert(source, destination, arguments.clip and Path(arguments.clip))
        say(f"Next: cal-bench doctor --cal {made}")
    print(made)
    return DONE


def _from_scratch(arguments: Namespace) -> Path:
    from cal_bench.systems.anatomy import SYSTEMS
    from cal_bench.systems.convert import Parts, from_scratch

    name = arguments.from_scratch
    if name not in SYSTEMS:
        raise UserError(f"There is no system '{name}'.{suggest(name, SYSTEMS)} The systems are {', '.join(SYSTEMS)}.")
    if not (arguments.language and arguments.clip):
        raise UserError(f"{name} is made from parts: give --language and --clip, each the folder of a checkpoint.")
    convnext, adapter = (folder and Path(folder) for folder in (arguments.convnext, arguments.adapter))
    parts = Parts(Path(arguments.language), Path(arguments.clip), convnext, adapter)
    return from_scratch(SYSTEMS[name], parts, Path(arguments.folders[0]))


def doctor(arguments: Namespace) -> int:
    """Look at this machine, or at what CAL means on a model; 1 where something is missing or wrong."""
    from cal_bench.doctor import Finding, examine, report

    if arguments.cal is None:
        findings = examine(Path("results"))
        print(report(findings))
    else:
        with _working():
            from cal_bench.systems.register import register
            from cal_bench.trainer_plugin.selftest import selftest_of

            register()
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
