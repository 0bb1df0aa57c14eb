"""One function per command: read the arguments, call one thing, print the answer; each returns the exit code."""

import contextlib
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from cal_bench.errors import UserError, as_typed, suggest
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


def fetch(arguments: Namespace) -> int:
    """Fetch what evaluations and studies read from the hub."""
    with _working():
        from cal_bench.fetch import fetch_all, offline_command, plan, plan_lines, wanted

        what = wanted(arguments.wanted, arguments.models)
        items = plan(what)
        lines = plan_lines(items) if items else ["Nothing of this comes from the hub."]
    print(*lines, sep="\n", flush=True)
    if not arguments.dry_run:
        with _working():
            fetch_all(items)
            say(f"Everything is here. Without a connection, by the same names: {offline_command(what)}")
    return DONE


def train(arguments: Namespace) -> int:
    """Train one arm of a study."""
    with _working():
        from cal_bench.config import load_study
        from cal_bench.processes import is_main, say_once
        from cal_bench.study import prepare, run_folder, train_arm

        study = load_study(arguments.config, arguments.seed, arguments.data_root)
        _known("arm", arguments.arm, list(study.arms))
        if arguments.stage is not None:
            _known("stage", arguments.stage, list(study.stages))
        ready = prepare(study, _study_folder(arguments, study.name))
        checkpoint = train_arm(ready, arguments.arm, arguments.stage)
        run = run_folder(ready.out, arguments.arm if checkpoint.name == list(study.stages)[-1] else f"{arguments.arm}-{checkpoint.name}")
        say_once(f"Next: {as_typed('eval', 'all', '--model', checkpoint, '--data', ready.study.evaluate.data, '--out', run)}")
    if is_main():
        print(checkpoint)
    return DONE


def evaluate(arguments: Namespace) -> int:
    """Run benchmarks on one checkpoint or backend."""
    with _working():
        from cal_bench.answering import model_of, run_name
        from cal_bench.eval_plan import plan_lines
        from cal_bench.evaluation import Options, checked, evaluate_model, open_tasks
        from cal_bench.processes import is_main, say_once
        from cal_bench.scoring import result_line
        from cal_bench.tasks import names

        named = checked([name for name in arguments.benchmarks if name != ALL])
        wanted = checked(names()) if ALL in arguments.benchmarks else named
        model = model_of(arguments)
        out = Path(arguments.out or Path("results", "runs", run_name(arguments)))
        if arguments.dry_run:
            lines = plan_lines(wanted, arguments.data, out, arguments.limit, model.identity())
        else:
            opened = open_tasks(wanted, arguments.data)
            say_once(f"Evaluating {arguments.model or arguments.backend} on {len(opened)} benchmarks into {out}")
            options = Options(arguments.batch_size, arguments.limit, model.processing, arguments.data)
            done = evaluate_model(model, opened, out, options)
            say_once(f"Answers and scores: {out}. Next: {as_typed('table', out)}")
            lines = [result_line(evaluation) for evaluation in done]
    if is_main():
        print(*lines, sep="\n")
    return DONE if arguments.dry_run or all(evaluation.complete for evaluation in done) else FAILED


def score(arguments: Namespace) -> int:
    """Score answers that were made elsewhere."""
    with _working(), tempfile.TemporaryDirectory() as passing:
        from cal_bench.evaluation import checked
        from cal_bench.runner import Evaluation
        from cal_bench.scoring import metric_lines, result_line, score_file

        checked([arguments.benchmark])
        result = score_file(arguments.benchmark, Path(arguments.predictions), arguments.data, Path(arguments.out or passing))
        if arguments.out is not None:
            say(f"Answers and scores: {arguments.out}. Next: {as_typed('table', arguments.out)}")
    print(result_line(Evaluation(result.benchmark, result)), *metric_lines(result), sep="\n")
    return DONE


def rescore(arguments: Namespace) -> int:
    """Score the stored answers of a run again."""
    with _working():
        from cal_bench.scoring import change_line
        from cal_bench.scoring import rescore as score_again

        done = score_again(Path(arguments.run), arguments.data)
        say(f"Scores: {arguments.run}. Next: {as_typed('table', arguments.run)}")
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
        say(f"Answers and scores: {out}. Next: {as_typed('table', out)}")
    print(*[result_line(Evaluation(imported.result.benchmark, imported.result)) for imported in done], sep="\n")
    return DONE


def study(arguments: Namespace) -> int:
    """Train and evaluate every arm, write the tables; or say what that would be."""
    if arguments.seeds and arguments.seed is not None:
        raise UserError("--seed and --seeds say two things about the same. Give one of them.")
    if arguments.dry_run:
        with _working():
            from cal_bench.plan_text import study_lines

            lines = study_lines(arguments)
        print(*lines, sep="\n")
        return DONE
    with _working():
        from cal_bench.launch import launcher_command
        from cal_bench.seeds import run_seeds
        from cal_bench.several import load_studies, run_studies

        if arguments.gpus is not None and arguments.launcher is None:
            raise UserError("--gpus is for --launcher or --dry-run. Add --launcher ddp, or leave it out to train in one process.")
        launcher = () if arguments.launcher is None else launcher_command(arguments.launcher, arguments.gpus)
        if arguments.seeds:
            out = arguments.out and Path(arguments.out)
            outcome = run_seeds(arguments.config, arguments.seeds, out, arguments.data_root, launcher)
        else:
            asked = load_studies(arguments.config, arguments.seed, arguments.data_root)
            outcome = run_studies(asked, _study_folder(arguments, asked.name), _study_command(arguments), launcher)
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
    from cal_bench.table_command import check, table_text

    if arguments.check and arguments.out is None:
        raise UserError("--check looks at a file that was written before. Name it with --out FILE.")
    text = table_text(arguments)
    if arguments.out is None:
        print(text, end="")
    elif arguments.check:
        return DONE if check(Path(arguments.out), text) else FAILED
    else:
        write_atomically(Path(arguments.out), text)
        say(f"Wrote {arguments.out}")
    return DONE


def page(arguments: Namespace) -> int:
    """Write a comparison as one HTML file."""
    from cal_bench.page import page_html, read_pair
    from cal_bench.runs import write_atomically

    pair = read_pair(arguments.runs)
    command = as_typed("page", *arguments.runs)
    write_atomically(Path(arguments.out), page_html(pair, command, arguments.data))
    say(f"Wrote {arguments.out}: open it in a browser")
    return DONE


def export(arguments: Namespace) -> int:
    """Write or log the results of a run for other places."""
    from cal_bench.export import Doors, export_run

    doors = Doors(arguments.hub_eval_results, arguments.card, arguments.tensorboard, arguments.wandb, arguments.trackio)
    print(*export_run(Path(arguments.run), Path(arguments.out or Path(arguments.run, "export")), doors), sep="\n")
    return DONE


def look(arguments: Namespace) -> int:
    """Draw what a figure of the paper shows, of checkpoints or runs."""
    with _working():
        from cal_bench.look.command import look

        lines = look(arguments)
    print(*lines, sep="\n")
    return DONE


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
        say(f"Next: {as_typed('doctor', '--cal', made)}")
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
    """Look at this machine, or at one thing about a model; 1 where something is missing or wrong."""
    from cal_bench.doctor import Finding, examine, report

    if arguments.batch_check is not None:
        with _working():
            from cal_bench.batch_check import check_folder

            findings = check_folder(arguments.batch_check, arguments.data, arguments.dtype)
        print(report(findings, ask="do"))
    elif arguments.data or arguments.dtype:
        raise UserError("--data and --dtype belong to --batch-check MODEL. Give that too, or leave them out.")
    elif arguments.cal is None:
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
    return as_typed("study", config, *(() if arguments.seed is None else ("--seed", arguments.seed)))
