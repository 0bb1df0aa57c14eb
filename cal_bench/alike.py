"""Which results of several runs may be held against each other: those to the same questions, scored by the same rules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cal_bench.errors import UserError
from cal_bench.records import Makeup, TaskResult
from cal_bench.runs import Run

_SAMPLES_REMEDY = "Evaluate all in the same way, or compare only the samples that all have with the same prompt: --shared"
_RULES_REMEDY = "Evaluate all on the same data. Where only the scoring differs, type cal-bench rescore RUN for each: the answers are kept."


@dataclass(frozen=True)
class Source:
    """One run: its name, its summaries by benchmark, and the run folder unless only a study's record is there."""

    name: str
    results: Mapping[str, TaskResult]
    run: Run | None = None


@dataclass(frozen=True)
class Matched:
    """For each benchmark one summary per source, over the same samples in the same order; and what had to be left out."""

    results: Mapping[str, tuple[TaskResult, ...]]
    notes: tuple[str, ...]
    shared: bool


def match(sources: Sequence[Source], shared: bool) -> Matched:
    """The benchmarks that all sources have. Unlike ones are refused by name, or with `shared` cut down to their common samples."""
    every = dict.fromkeys(name for source in sources for name in source.results)
    lacking = {name: [source.name for source in sources if name not in source.results] for name in every}
    common = {name: tuple(source.results[name] for source in sources) for name in every if not lacking[name]}
    if not common:
        raise UserError(f"No benchmark is complete in all of {_listed(sources)}. Run the same benchmarks on each with cal-bench eval.")
    _refuse(sources, common, shared)
    notes = [f"{name} is left out: {', '.join(missing)} lacks it." for name, missing in lacking.items() if missing]
    if not shared:
        return Matched(common, tuple(notes), shared)
    cut = {name: _cut(sources, results) for name, results in common.items()}
    kept = {name: results for name, (results, _) in cut.items() if results}
    if not kept:
        raise UserError(f"{_listed(sources)} share no sample of any benchmark that could be compared.")
    return Matched(kept, (*notes, *(note for _, note in cut.values() if note)), shared)


def _refuse(sources: Sequence[Source], common: Mapping[str, Sequence[TaskResult]], shared: bool) -> None:
    """Name every difference at once, with what to do about it."""
    by_rules = _named(sources, common, _rules)
    by_samples = {} if shared else _named(sources, common, _asked_alike)
    if not by_rules and not by_samples:
        return
    listed = [f"  {', '.join(names)}: {difference}" for difference, names in {**by_rules, **by_samples}.items()]
    remedy = _RULES_REMEDY if by_rules else _SAMPLES_REMEDY
    raise UserError("\n".join([f"{_listed(sources)} cannot be compared:", *listed, remedy]))


def _named(sources: Sequence[Source], common: Mapping[str, Sequence[TaskResult]], unlike: "_Check") -> dict[str, list[str]]:
    """The benchmarks by the difference that they have, be it between the first source and any other."""
    named: dict[str, dict[str, None]] = {}
    for name, results in common.items():
        found = list(zip(sources, results, strict=True))
        for difference in [difference for other in found[1:] for difference in unlike(found[0], other)]:
            named.setdefault(difference, {})[name] = None
    return {difference: list(names) for difference, names in named.items()}


_Found = tuple[Source, TaskResult]
_Check = Callable[[_Found, _Found], list[str]]


def _rules(before: _Found, after: _Found) -> list[str]:
    """Differences that no choice of samples mends."""
    old, new = before[1], after[1]
    found = [
        f"{source.name} was scored by an earlier version, which did not keep what a score is made of"
        for source, result in (before, after)
        if result.makeup is None
    ]
    if old.data_fingerprint != new.data_fingerprint:
        found.append(f"other data ({old.data_fingerprint[:12]} and {new.data_fingerprint[:12]})")
    if old.scorer != new.scorer:
        found.append(f"scored by other rules ({old.scorer or 'not recorded'}; {new.scorer or 'not recorded'})")
    return found


def _asked_alike(before: _Found, after: _Found) -> list[str]:
    """Differences in what was asked."""
    old, new = before[1], after[1]
    if old.limit != new.limit:
        return [f"other limits ({_limit(old)} and {_limit(new)})"]
    if _ids(old) != _ids(new):
        return [f"other samples ({old.n:,} and {new.n:,})"]
    return [_prompts(before, after)] if old.prompts != new.prompts else []


def _prompts(before: _Found, after: _Found) -> str:
    settings = [_generation(source, result.benchmark) for source, result in (before, after)]
    if settings[0] != settings[1]:
        return f"other generation settings ({'; '.join(settings[0])} and {'; '.join(settings[1])})"
    return "other prompts"


def _generation(source: Source, benchmark: str) -> tuple[str, ...]:
    return source.run.record.benchmarks[benchmark].questions.generation if source.run else ()


def _cut(sources: Sequence[Source], results: Sequence[TaskResult]) -> tuple[tuple[TaskResult, ...], str]:
    """The summaries over their common samples and a note of what that leaves out; no summaries where that makes no sense."""
    name, makeup = results[0].benchmark, results[0].makeup
    prompts = [_asked(source, name) for source in sources]
    common = set.intersection(*map(_ids, results))
    common = {number for number in common if len({asked.get(number) for asked in prompts}) == 1}
    if all(len(common) == result.n for result in results):
        return tuple(results), ""
    counts = " and ".join(f"{result.n:,}" for result in results)
    if not common:
        return (), f"{name} is left out: no sample is in all runs with the same prompt ({counts} samples)."
    if makeup is not None and makeup.of_the_set:
        return (), f"{name} is left out: what a caption is worth depends on all that were scored, and the runs scored others."
    note = f"{name}: {len(common):,} shared samples of {counts}; the scores are those of the shared ones."
    return tuple(_taken(result, common) for result in results), note


def _asked(source: Source, benchmark: str) -> dict[int, str]:
    """The hash of each sample's prompt."""
    if source.run is None:
        raise UserError(f"--shared looks at every prompt, and the record of {source.name} does not hold them. Give the run folders.")
    return {number: answer.prompt for number, answer in source.run.answered(benchmark).items()}


def _taken(result: TaskResult, common: set[int]) -> TaskResult:
    places = [place for place, (number, _) in enumerate(result.samples) if number in common]
    assert result.makeup is not None
    samples = tuple(result.samples[place] for place in places)
    return replace(result, n=len(samples), samples=samples, makeup=_part_of(result.makeup, places))


def _part_of(makeup: Makeup, places: Sequence[int]) -> Makeup:
    # Numbered anew, as runs of other samples count other pictures: the same picture has the same number in all of them.
    numbers: dict[int, int] = {}
    return replace(
        makeup,
        pictures=tuple(numbers.setdefault(makeup.pictures[place], len(numbers)) for place in places),
        categories=tuple(makeup.categories[place] for place in places if makeup.categories),
        numerators=tuple(makeup.numerators[place] for place in places if makeup.numerators),
        denominators=tuple(makeup.denominators[place] for place in places if makeup.denominators),
    )


def _ids(result: TaskResult) -> set[int]:
    return {number for number, _ in result.samples}


def _limit(result: TaskResult) -> str:
    return "none" if result.limit is None else str(result.limit)


def _listed(sources: Sequence[Source]) -> str:
    return " and ".join(source.name for source in sources)
