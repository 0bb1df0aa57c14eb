"""What lmms-eval wrote (results JSON and samples JSONL) as a run: its answers, scored as all others are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cal_bench.backends import failure
from cal_bench.errors import UserError
from cal_bench.records import Identity, TaskResult
from cal_bench.runs import Run
from cal_bench.scoring import keep, seen_from
from cal_bench.tasks import BENCHMARKS, Benchmark, Sample, Task, open_task

RESULTS = "_results.json"
# Of the settings in lmms-eval's record those that decide an answer.
SETTINGS = ("max_new_tokens", "until", "do_sample", "temperature", "num_beams")
_SAME = 1e-6


@dataclass(frozen=True)
class Output:
    """One run of lmms-eval: its results file and what is in it, and the samples file of each benchmark that is one of ours."""

    results: Path
    raw: Mapping[str, Any]
    samples: Mapping[str, Path]  # by lmms-eval's name of the task
    benchmarks: Mapping[str, Benchmark]
    unknown: tuple[str, ...]  # tasks that are none of ours

    @property
    def model(self) -> str:
        """What lmms-eval calls the model."""
        return str(self.raw.get("model_name") or self.raw.get("model_source") or "unnamed")


@dataclass(frozen=True)
class Imported:
    """One benchmark, and where lmms-eval reports another number: `metric`, what it says, what it is here."""

    result: TaskResult
    differences: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class _Line:
    """One line of a samples file."""

    answer: str
    prompt: str | None


def find_output(source: Path) -> Output:
    """The one run of lmms-eval in a folder or the folders in it; or that of a results file."""
    results = _results_file(source)
    raw = _read_json(results)
    if not isinstance(raw.get("results"), dict) or not isinstance(raw.get("configs"), dict):
        raise UserError(f"{results} is no record of lmms-eval: it lacks 'results' and 'configs'. Give the folder that lmms-eval wrote.")
    stem = results.name.removesuffix(RESULTS)
    samples = {task: results.with_name(f"{stem}_samples_{task}.jsonl") for task in raw["results"]}
    benchmarks = {task: benchmark for task in samples if (benchmark := _benchmark_of(task))}
    if not benchmarks:
        known = ", ".join(benchmark.name for benchmark in BENCHMARKS)
        raise UserError(f"{results} holds {', '.join(samples)}, none of which is a benchmark here. They are {known}.")
    for task in benchmarks:
        if not samples[task].is_file():
            raise UserError(f"{results} has no answers beside it: {samples[task].name} is missing. Run lmms-eval with --log_samples.")
    return Output(results, raw, samples, benchmarks, tuple(task for task in samples if task not in benchmarks))


def import_output(output: Output, data: str, folder: Path) -> list[Imported]:
    """Make a run of it."""
    answers = {task: _read_samples(output.samples[task]) for task in output.benchmarks}
    opened = {task: open_task(benchmark, data) for task, benchmark in output.benchmarks.items()}
    asked = {task: _asked(output, task, opened[task], answers[task]) for task in opened}
    # lmms-eval does not look at weights; that the runs of two checkpoints stay apart is for the run folders to see to.
    identity = Identity(output.model, f"not known: {output.raw.get('model_source')} {output.model}")
    origin = {"data": seen_from(folder, data), "lmms_eval": str(output.raw.get("lmms_eval_version", "")), "results": output.results.name}
    run = Run.open(folder, identity, origin)
    done = []
    for task, samples in asked.items():
        texts = {id: line.answer for id, line in answers[task].items()}
        limit = None if len(samples) == len(opened[task].samples()) else len(samples)
        result = keep(opened[task], samples, texts, run, limit)
        done.append(Imported(result, _differences(output.raw["results"][task], result)))
    return done


def _asked(output: Output, task: str, opened: Task, answers: Mapping[int, _Line]) -> list[Sample]:
    """The samples that were answered; it is an error if they were asked in another way, or are not those of the data."""
    _check_settings(output, task, opened)
    every = opened.samples()
    surplus = sorted(set(answers) - {sample.id for sample in every})
    if surplus and opened.benchmark.only is None:
        raise UserError(
            f"{output.samples[task]} has an answer to sample {surplus[0]}, which the data does not hold. Give the data with --data."
        )
    samples = [sample for sample in every if sample.id in answers]
    for sample in samples:
        prompt = answers[sample.id].prompt
        if prompt is not None and prompt.replace("<image>\n", "").replace("<image>", "").strip() != sample.prompt.strip():
            raise UserError(
                f"{output.samples[task]}: sample {sample.id} was asked\n  {prompt!r}\nand here it is\n  {sample.prompt!r}\n"
                "Give the data that lmms-eval had with --data; answers to other prompts cannot be compared with ours."
            )
    return samples


def _check_settings(output: Output, task: str, opened: Task) -> None:
    theirs = output.raw["configs"].get(task, {}).get("generation_kwargs") or {}
    ours = opened.generation_settings
    for name in SETTINGS:
        if theirs.get(name) != ours.get(name):
            raise UserError(
                f"{output.results}: {task} was answered with {name} {theirs.get(name)!r}, the benchmark has {ours.get(name)!r}. "
                "Such answers cannot be compared with ours. Run lmms-eval without --gen_kwargs."
            )


def _differences(reported: Mapping[str, Any], result: TaskResult) -> tuple[tuple[str, float, float], ...]:
    pairs = [(metric, reported.get(f"{metric},none"), ours) for metric, ours in result.metrics.items() if ours is not None]
    return tuple(
        (metric, float(theirs), ours)
        for metric, theirs, ours in pairs
        if isinstance(theirs, int | float) and abs(theirs - ours) > _SAME * max(1.0, abs(ours))
    )


def _benchmark_of(task: str) -> Benchmark | None:
    from cal_bench.tasks.lmms import included_task

    names = {name: benchmark for benchmark in reversed(BENCHMARKS) for name in (benchmark.lmms_task, included_task(benchmark))}
    return names.get(task)


def _results_file(source: Path) -> Path:
    if source.is_file() and source.name.endswith(RESULTS):
        return source
    found = sorted(source.rglob(f"*{RESULTS}")) if source.is_dir() else []
    if not found:
        raise UserError(f"There is no output of lmms-eval at {source}. Expected a folder with a *{RESULTS}, as --output_path makes it.")
    if len(found) > 1:
        listed = "\n".join(f"  {path}" for path in found)
        raise UserError(f"{source} holds {len(found)} runs of lmms-eval. Give the results file of one:\n{listed}")
    return found[0]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not whole JSON ({error}). Run lmms-eval again.") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} is no record of lmms-eval. Give the folder that lmms-eval wrote.")
    return raw


def _read_samples(path: Path) -> dict[int, _Line]:
    lines: dict[int, _Line] = {}
    for number, text in enumerate(path.read_bytes().decode("utf-8", "replace").split("\n"), start=1):
        if not text.strip():
            continue
        try:
            raw = json.loads(text)
            prompt = raw.get("input")
            line = _Line(_answer(raw["filtered_resps"]), prompt if isinstance(prompt, str) else None)
            id = int(raw["doc_id"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}, line {number} is not a sample of lmms-eval ({error!r}). Run lmms-eval again.") from error
        if lines.get(id, line) != line:
            raise UserError(
                f"{path}, line {number}: sample {id} has another answer already. lmms-eval adds to old files: give it a new folder."
            )
        lines[id] = line
    return lines


def _answer(responses: Any) -> str:
    """lmms-eval writes a list of one answer as the answer."""
    first = responses[0] if isinstance(responses, list) else responses
    if not isinstance(first, str):
        raise TypeError(f"expected an answer in filtered_resps, found {first!r}")
    if reason := failure(first):
        raise ValueError(reason)
    return first
