"""The command line: what can be typed. What a command does is in `commands.py`; nothing heavy is imported before it runs."""

import argparse
import math
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

from cal_bench import __version__, commands
from cal_bench.errors import UserError, suggest
from cal_bench.look.arguments import add_look
from cal_bench.processes import is_first_here, is_main
from cal_bench.tasks.base import BenchmarkError

DONE, WRONG_COMMAND, STOPPED = 0, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 a benchmark failed, 2 the command was wrong, 130 stopped by the user."""
    # SIGTERM is how schedulers stop a job: the same as Ctrl-C, but that what is being answered is finished first (stopping.py).
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        try:
            return _code(argv)
        finally:
            signal.signal(signal.SIGTERM, before)  # what comes while Python itself ends has nothing left to stop
    except KeyboardInterrupt:
        signal.signal(signal.SIGTERM, before)
        _tell("stopped. The same command goes on from here.")
        return STOPPED


def _code(argv: Sequence[str] | None) -> int:
    try:
        arguments = _parser().parse_args(argv)
        code: int = arguments.command(arguments)
        sys.stdout.flush()
        return code
    except (UserError, BenchmarkError) as error:
        _tell(str(error), error.in_all)
        return WRONG_COMMAND
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone. Python would complain once more when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _tell(text: str, in_all: bool = True) -> None:
    """On standard error; of several processes one speaks for all, and of what not all know the first one of each machine."""
    if is_main():
        print(f"cal-bench: {text}", file=sys.stderr)
    elif not in_all and is_first_here():
        print(f"cal-bench, process {os.environ['RANK']}: {text}", file=sys.stderr)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


class _Parser(argparse.ArgumentParser):
    """argparse, except that a misspelled command or flag is told what was probably meant, and that none is abbreviated."""

    def __init__(self, **settings: Any) -> None:
        # --data would else be taken for --data-root.
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}\nType {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            self.error(f"there is no argument '{flag}'.{suggest(flag, self._option_string_actions)}")
        return parsed, unknown

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if isinstance(action.choices, dict) and value not in action.choices:
            known = ", ".join(action.choices)
            raise UserError(f"there is no command '{value}'.{suggest(str(value), action.choices)} The commands are {known}.")
        super()._check_value(action, value)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cal-bench",
        description="Train a vision-language model with and without CAL, and measure, benchmark by benchmark, what it changed.",
        epilog="Start with: cal-bench doctor, then cal-bench study demo",
    )
    parser.add_argument("--version", action="version", version=f"cal-bench {__version__}")
    added = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_tasks(added)
    _add_fetch(added)
    _add_train(added)
    _add_eval(added)
    _add_score(added)
    _add_rescore(added)
    _add_import(added)
    _add_study(added)
    _add_compare(added)
    _add_table(added)
    _add_page(added)
    add_look(added, commands.look)
    _add_export(added)
    _add_convert(added)
    _add_doctor(added)
    return parser


_Commands = argparse._SubParsersAction  # the type that add_subparsers returns has no public name


def _add_tasks(added: "_Commands[_Parser]") -> None:
    parser = added.add_parser(
        "tasks",
        help="list the benchmarks, or say all about one",
        description="List the benchmarks; or, with a name, where one comes from, how it is scored, and three of its questions.",
    )
    parser.add_argument("benchmark", nargs="?", metavar="BENCHMARK", help="only this one, in detail")
    parser.add_argument("--data", metavar="DIR", help="show three questions from this folder or parquet file, or from the hub (hub)")
    parser.set_defaults(command=commands.tasks)


def _add_fetch(added: "_Commands[_Parser]") -> None:
    parser = added.add_parser(
        "fetch",
        help="benchmark data and models for machines without a connection",
        description="Fetch what benchmarks, configs and models need from the Hugging Face hub. Prints what it weighs first.",
    )
    parser.add_argument("wanted", nargs="*", metavar="NAME", help="benchmarks as in `cal-bench tasks`, all, or configs")
    parser.add_argument("--models", nargs="+", default=[], metavar="MODEL", help="names of models on the hub")
    parser.add_argument("--dry-run", action="store_true", help="print the sizes and stop")
    parser.set_defaults(command=commands.fetch)


def _add_train(added: "_Commands[_Parser]") -> None:
    parser = added.add_parser(
        "train", help="train one arm of a study", description="Train the stages of one arm of a study, in the study's folder."
    )
    _add_study_config(parser)
    parser.add_argument("--arm", required=True, help="the arm to train")
    parser.add_argument("--stage", help="stop after this stage (default: the last)")
    parser.set_defaults(command=commands.train)


def _add_eval(added: "_Commands[_Parser]") -> None:
    parser = added.add_parser(
        "eval", help="run benchmarks on a checkpoint", description="Answer benchmarks with a checkpoint or a backend; score the answers."
    )
    parser.add_argument("benchmarks", nargs="+", metavar="BENCHMARK", help="names as in `cal-bench tasks`, or all")
    parser.add_argument("--model", metavar="PATH", help="folder or hub name of a transformers checkpoint")
    parser.add_argument("--backend", metavar="lmms:NAME", help="instead of --model: a model backend of lmms-eval, such as lmms:vllm")
    parser.add_argument("--model-args", metavar="NAME=VALUE,…", help="with --backend: its arguments, as for lmms-eval --model_args")
    parser.add_argument("--dry-run", action="store_true", help="say what would be asked, and stop")
    _add_data(parser)
    parser.add_argument("--out", metavar="RUN", help="run folder (default: results/runs/<name of the model>)")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only N samples of each benchmark, the same for every model")
    parser.add_argument("--batch-size", type=_positive, metavar="N", help="samples answered at once (default: 64 on a GPU, 16 on a CPU)")
    parser.add_argument(
        "--processing",
        choices=("original", "checkpoint"),
        default="original",
        help="LLaVA checkpoints: pictures and prompts as the original code makes them (default), or as the folder's own processor does",
    )
    parser.set_defaults(command=commands.evaluate)


def _add_score(added: "_Commands[_Parser]") -> None:
    parser = added.add_parser("score", help="score answers made elsewhere", description="Score answers from a file, without a model.")
    parser.add_argument("benchmark", metavar="BENCHMARK", help="a name as in `cal-bench tasks`")
    parser.add_argument(
        "--predictions", required=True, metavar="FILE.jsonl", help='one {"id": row number, "answer": text} per line; rows from 0'
    )
    _add_data(parser)
    parser.add_argument("--out", metavar="RUN", help="also write a run folder, as eval does")
    parser.set_defaults(command=commands.score)


def _add_rescore(added: "_Commands[_Parser]") -> None:
    parser = added.add_parser(
        "rescore", help="score a run's answers again", description="Score the stored answers of a run again, without the model."
    )
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--data", metavar="DIR", help="where the data lies now (default: where the run found it)")
    parser.set_defaults(command=commands.rescore)


def _add_import(added: "_Commands[_Parser]") -> None:
    parser = added.add_parser(
        "import",
        help="take over what lmms-eval wrote",
        description="Make a run of lmms-eval's output (results JSON and, with --log_samples, samples JSONL), scored as all other runs are.",
    )
    parser.add_argument("output", metavar="DIR", help="the folder given as --output_path, or one *_results.json in it")
    _add_data(parser)
    parser.add_argument("--out", metavar="RUN", help="run folder (default: results/runs/<folder of the results>)")
    parser.set_defaults(command=commands.import_)


def _add_study(added: "_Commands[_Parser]") -> None:
    parser = added.add_parser(
        "study", help="train and evaluate every arm, write the tables", description="Train every arm, evaluate every arm, write the tables."
    )
    _add_study_config(parser)
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="the whole study once for each of these seeds, in folders seed-N")
    parser.add_argument("--dry-run", action="store_true", help="print the plan: stages, steps, memory, what is missing, what to type")
    parser.add_argument(
        "--launcher", metavar="NAME", help="train in several processes: ddp, fsdp2, zero2, zero3, or a whole command in quotes"
    )
    parser.add_argument(
        "--gpus", type=_positive, metavar="N", help="processes of the launcher (default: all GPUs here); in a plan, the number it is for"
    )
    parser.set_defaults(command=commands.study)


def _add_compare(added: "_Commands[_Parser]") -> None:
    parser = added.add_parser(
        "compare",
        help="is it better, where, and is it real?",
        description="Compare runs benchmark by benchmark: differences, their intervals, and which of them are more than chance.",
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="two run folders, BEFORE and AFTER; or the folder of a study of two arms")
    parser.add_argument("--before", nargs="+", default=[], metavar="RUN", help="run folders of several seeds, instead of BEFORE")
    parser.add_argument("--after", nargs="+", default=[], metavar="RUN", help="run folders of several seeds, instead of AFTER")
    parser.add_argument("--shared", action="store_true", help="compare the samples that all runs have, where they have different ones")
    parser.add_argument(
        "--fail-if-worse",
        nargs="?",
        const=0.0,
        type=_points,
        metavar="POINTS",
        help="exit with 1 if a benchmark is worse beyond chance, and by more than POINTS (default: 0)",
    )
    parser.add_argument("--json", action="store_true", help="unrounded numbers, for programs")
    parser.set_defaults(command=commands.compare)


def _add_table(added: "_Commands[_Parser]") -> None:
    parser = added.add_parser("table", help="tables from run folders", description="The paper's tables from run folders or from studies.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, one row each; or studies, one row for each arm")
    parser.add_argument(
        "--tables", nargs="+", type=int, choices=(1, 2, 6, 7), default=[], metavar="N", help="the paper's tables to draw (default: 1 2 7)"
    )
    parser.add_argument("--published", metavar="MODEL", help="put a model of the paper beside the runs, such as llava-next-7b")
    parser.add_argument("--allow-approx", action="store_true", help="also caption scores that were made without Java")
    parser.add_argument("--format", choices=("markdown", "latex", "csv", "json"), default="markdown", help="default: markdown")
    parser.add_argument("--out", metavar="FILE", help="write the tables to a file instead of standard output")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file is not what would be written")
    parser.set_defaults(command=commands.table)


def _add_page(added: "_Commands[_Parser]") -> None:
    parser = added.add_parser(
        "page",
        help="one HTML file to look at",
        description="A comparison as one HTML file: intervals, the samples that changed with their pictures, training curves, configs.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a study of two arms; or two run folders; or demo")
    parser.add_argument("-o", "--out", default="report.html", metavar="FILE", help="default: report.html")
    parser.add_argument("--data", metavar="DIR", help="where the benchmarks lie now (default: where the runs found them)")
    parser.set_defaults(command=commands.page)


def _add_export(added: "_Commands[_Parser]") -> None:
    parser = added.add_parser(
        "export",
        help="results for the hub, a model card, wandb, trackio, TensorBoard",
        description="Write a run's results in the formats of other places.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--hub-eval-results", action="store_true", help=".eval_results/*.yaml, as model repositories on the hub have them")
    parser.add_argument("--card", action="store_true", help="a model card with the results: card.md")
    parser.add_argument("--wandb", metavar="PROJECT", help="log the scores to this project of Weights & Biases")
    parser.add_argument("--trackio", metavar="PROJECT", help="log the scores to this project of trackio")
    parser.add_argument("--tensorboard", action="store_true", help="an event file for TensorBoard")
    parser.add_argument("--out", metavar="DIR", help="where files go (default: the folder export in RUN)")
    parser.set_defaults(command=commands.export)


def _add_convert(added: "_Commands[_Parser]") -> None:
    parser = added.add_parser(
        "convert",
        help="original LLaVA and MGM checkpoints to folders of transformers",
        description="Make a folder that transformers loads from an original LLaVA or MGM checkpoint, or from parts.",
    )
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="the original checkpoint and the new folder; with --from-scratch the latter"
    )
    parser.add_argument("--clip", metavar="DIR", help="the vision tower, where the checkpoint does not hold its own (LLaVA-1.5)")
    parser.add_argument("--from-scratch", metavar="SYSTEM", help="an untrained llava-1.5, llava-next, mgm or mgm-hd, for pre-training")
    parser.add_argument("--language", metavar="DIR", help="with --from-scratch: Vicuna or Gemma")
    parser.add_argument("--convnext", metavar="DIR", help="with --from-scratch mgm and mgm-hd: the high-resolution tower")
    parser.add_argument(
        "--adapter", metavar="DIR", help="with --from-scratch: projector and mining of an earlier stage (MGM-HD takes MGM's)"
    )
    parser.set_defaults(command=commands.convert)


def _add_doctor(added: "_Commands[_Parser]") -> None:
    parser = added.add_parser(
        "doctor",
        help="is everything here that is needed?",
        description="Check this machine and say what to type where something is missing.",
    )
    parser.add_argument("--cal", metavar="MODEL", help="instead check what CAL does on a model: a folder, or a name on the hub")
    parser.add_argument("--batch-check", metavar="MODEL", help="instead count the answers of a model that depend on the batch size")
    parser.add_argument("--data", metavar="DIR", help="with --batch-check: ask from these benchmark files (default: drawn pictures)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="with --batch-check (default: that of eval)")
    parser.set_defaults(command=commands.doctor)


def _add_study_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or the name of a recipe (demo)")
    parser.add_argument("--out", metavar="DIR", help="folder of the study (default: results/<name in the config>)")
    parser.add_argument("--seed", type=int, help="wins over the config's")
    parser.add_argument(
        "--data-root", metavar="DIR", help="where relative paths of the config start (default: its own folder; for a recipe this one)"
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", default="hub", metavar="DIR", help="folder of parquet files, or one such file (default: the Hugging Face hub)"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return int(text)


def _points(text: str) -> float:
    try:
        points = float(text)
    except ValueError:
        points = math.nan
    if not 0 <= points < math.inf:
        raise argparse.ArgumentTypeError(f"expected points such as 0.5, got {text}. Type it behind the run folders")
    return points


if __name__ == "__main__":
    sys.exit(main())
