"""The plan of a study, or of a list of them, for people: what all of them share is said once."""

import math
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path

from cal_bench.errors import as_typed
from cal_bench.memory import KINDS, per_gpu
from cal_bench.outlook import done_line, left_line, merged
from cal_bench.plan import Plan, StagePlan, base_commands, make_plans
from cal_bench.seeds import check_seeds
from cal_bench.several import load_studies

GB = 1024**3
A100 = 80
GPUS_OF_A_NODE = 8
# Lines that belong together, and are said together.
Block = tuple[str, ...]


def study_lines(arguments: Namespace) -> list[str]:
    """What `cal-bench study` with these arguments would do, and what to type for it."""
    asked = load_studies(arguments.config, arguments.seed, arguments.data_root)
    plans = make_plans(asked, Path(arguments.out or Path("results", asked.name)), arguments.gpus)
    lines = plan_lines(asked.name, plans, next_lines(plans, _typed(arguments)))
    if not arguments.seeds:
        return lines
    check_seeds(arguments.seeds)
    return [f"Once for each of the seeds {_listed(arguments.seeds)}:", *lines]


def _typed(arguments: Namespace) -> str:
    """The command without --dry-run, and without what only the plan is asked."""
    one = {"--data-root": arguments.data_root, "--out": arguments.out, "--seed": arguments.seed}
    given = {flag: [value] for flag, value in one.items() if value is not None} | ({"--seeds": arguments.seeds} if arguments.seeds else {})
    return as_typed("study", arguments.config, *(word for flag, values in given.items() for word in (flag, *values)))


def plan_lines(name: str, plans: Sequence[Plan], type_next: list[str]) -> list[str]:
    """The plan of one study or of several; `type_next` are the commands that come next."""
    gpus, several = plans[0].gpus, len(plans) > 1
    count = f", {len(plans)} studies one after the other" if several else ""
    lines = [f"Plan of {name} on {gpus} GPU{'' if gpus == 1 else 's'}{count}. Nothing is trained and nothing fetched."]
    blocks = [_blocks(plan) for plan in plans]
    shared = [block for block in blocks[0] if all(block in others for others in blocks)]
    lines += _flat(shared)
    for plan, own in zip(plans, blocks, strict=True) if several else ():
        lines += ["", f"Study {plan.study.name}", *_flat(block for block in own if block not in shared)]
    disk, trainings = sum(plan.disk for plan in plans) / 1e9, sum(plan.trainings for plan in plans)
    kept = "the checkpoints of one" + (" in each study" if several else "")
    lines += ["", f"disk        {disk:,.{0 if disk >= 10 else 1}f} GB at most, for {trainings} trainings and {kept}"]
    if done := done_line(together := merged(work for plan in plans for work in plan.works)):
        lines.append(f"done        {done}. {left_line(together)}".rstrip(" ."))
    if missing := dict.fromkeys(line for plan in plans for line in plan.missing):
        lines += ["", "missing", *(f"  {line}" for line in missing)]
    return [*lines, "", "type next", *(f"  {line}" for line in type_next)]


def _flat(blocks: Iterable[Block]) -> list[str]:
    return [line for block in blocks for line in block]


def _blocks(plan: Plan) -> list[Block]:
    study = plan.study
    arms = [f"{name} ({', '.join(f'CAL in {stage}' for stage in cal) or 'without CAL'})" for name, cal in study.arms.items()]
    blocks: list[Block] = [(f"base        {plan.base}",)]
    if world := study.world:
        drawn = f"{world.pretrain:,} and {world.train:,} records to train on, {world.test:,} rows for each benchmark file"
        blocks.append((f"world       drawn, {drawn}; seed {world.seed}",))
    blocks += [(f"arms        {'; '.join(arms)}",), (f"benchmarks  {len(study.evaluate.benchmarks)}, data from {study.evaluate.data}",)]
    if swapped := [f"{stage.swap:.0%} in {name}" for name, stage in study.stages.items() if stage.swap]:
        blocks.append((f"swapped     images of {', '.join(swapped)}",))
    return blocks + [("", *_stage_lines(name, stage, plan.gpus)) for name, stage in plan.stages.items()]


def _stage_lines(name: str, plan: StagePlan, gpus: int) -> list[str]:
    stage = plan.stage
    about = "" if plan.exact else "about "
    samples = "an unknown number of samples" if plan.samples is None else f"{about}{plan.samples:,} samples"
    reckoned = about if stage.max_steps <= 0 else ""
    steps = "an unknown number of steps" if plan.steps is None else f"{reckoned}{plan.steps:,} steps"
    source = "" if plan.exact or plan.samples is None else " (the files are not there yet)"
    batch = f"{stage.batch_size} = {stage.per_device_batch_size} x {gpus} x {plan.accumulation} accumulated"
    factors = "".join(f", {part} x {factor:g}" for part, factor in stage.learning_rate_factors.items())
    lines = [f"stage {name:<6}{samples}, {steps}{source}"]
    lines += [f"  batch     {batch}; learning rate {stage.learning_rate:g}{factors}; up to {stage.max_length} tokens"]
    for kind, parts in plan.counts.items():
        listed = ", ".join(f"{part} {number:,}" for part, number in parts.items())
        lines.append(f"  {kind:<10}{sum(parts.values()):,}: {listed or 'nothing'}")
    needs = {kind: per_gpu(plan.sizes, kind, gpus) / GB for kind in KINDS}
    told = ", ".join(f"{kind} {need:,.{0 if need >= 10 else 1}f}" for kind, need in needs.items())
    fitting = [kind for kind, need in needs.items() if need <= A100]
    return [*lines, f"  memory    GiB per GPU, estimated: {told}; {', '.join(fitting) or 'none'} would fit {A100}"]


def next_lines(plans: Sequence[Plan], typed: str) -> list[str]:
    """What to type, in order; `typed` is the command of these studies without --dry-run."""
    gpus = plans[0].gpus
    untrained = [plan.study for plan in plans if plan.study.parts and not Path(plan.study.model).is_dir()]
    lines = list(dict.fromkeys(line for study in untrained for line in base_commands(study)))
    if gpus > GPUS_OF_A_NODE:
        nodes = math.ceil(gpus / GPUS_OF_A_NODE)
        return [*lines, f"sbatch --nodes={nodes} examples/slurm/nodes.sbatch {typed.removeprefix('cal-bench ')}"]
    stages = [stage for plan in plans for stage in plan.stages.values()]
    fitting = [kind for kind in KINDS if all(per_gpu(stage.sizes, kind, gpus) / GB <= A100 for stage in stages)]
    launched = f" --launcher {(fitting or ['zero3'])[0]} --gpus {gpus}" if gpus > 1 else ""
    return [*lines, typed + launched]


def _listed(seeds: Iterable[int]) -> str:
    return " ".join(map(str, seeds))
