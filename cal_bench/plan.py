"""What a study is going to do, before it does anything: stages, steps, sizes, and what is missing (plan_text.py says it)."""

import math
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cal_bench.config import StudyConfig, in_world
from cal_bench.errors import UserError, as_typed
from cal_bench.memory import Sizes
from cal_bench.miniworld import MINIATURES, assemble
from cal_bench.outlook import Work
from cal_bench.parts import Counts, prepare_parts
from cal_bench.preflight import disk_bytes, missing_files, outline, outlined
from cal_bench.several import Studies
from cal_bench.stage_arguments import accumulation_steps
from cal_bench.study import check_trained, stage_folder, works
from cal_bench.train import StageConfig
from cal_bench.training_data import count_records

# Records of the files that the recipes name, as their authors count them, rounded; for plans made before the files are there.
# LLaVA-1.5 (arXiv 2310.03744), Mini-Gemini (2403.18814), ShareGPT4V (2311.12793); DocVQA and ChartQA: pictures of their train splits.
KNOWN_COUNTS = {
    "blip_laion_cc_sbu_558k.json": 558_000,
    "llava_v1_5_mix665k.json": 665_000,
    "sharegpt4v_instruct_gpt4-vision_cap100k.json": 100_000,
    "docvqa_train.json": 10_200,
    "chartqa_train.json": 18_300,
    "mgm_pretrain.json": 1_250_000,
    "mgm_instruction.json": 1_500_000,
}
# Words of a caption, generously; conversations are planned for at the greatest length, because batches are of like length.
CAPTION_TOKENS = 100
SYSTEM_TYPES = ("llava", "llava_next", "cal_mgm")


@dataclass(frozen=True)
class StagePlan:
    """One stage on so many GPUs; `samples` is None where nobody knows, and `exact` unless it is a rounded number of others."""

    stage: StageConfig
    samples: int | None
    exact: bool
    accumulation: int
    steps: int | None
    counts: Counts
    sizes: Sizes


@dataclass(frozen=True)
class Plan:
    """What `study` would do; `base` says where the sizes come from."""

    study: StudyConfig
    gpus: int
    base: str
    stages: dict[str, StagePlan]
    trainings: int
    works: list[Work]
    disk: int
    missing: list[str]


def make_plans(asked: Studies, out: Path, gpus: int | None = None) -> list[Plan]:
    """The plans of studies that one launcher would run: on one number of GPUs, the smallest of the configs' own if not given."""
    gpus = gpus or min(study.gpus for study in asked.studies)
    plans = []
    for study, folder in zip(asked.studies, asked.folders(out), strict=True):
        try:
            plans.append(make_plan(study, folder, gpus))
        except UserError as error:
            raise UserError(f"{study.name}: {error}" if asked.listed else str(error)) from error
    return plans


def make_plan(study: StudyConfig, out: Path, gpus: int | None = None) -> Plan:
    """The plan of a study that would be written to `out`; `gpus` are the config's own number if not given. Changes nothing.

    A UserError where the study itself would be refused for what lies in `out`.
    """
    gpus = gpus or study.gpus
    check_trained(study, out)
    located = in_world(study, out / "data")
    config, model, base = _model(study)
    stages = {name: _stage_plan(study, located.stages[name], gpus, (config, model)) for name in study.stages}
    waiting = {stage_folder(study, out, arm, name): study.stages[name] for arm in study.arms for name in study.stages}
    missing = [] if study.world else missing_files(located)
    if study.parts and not Path(study.model).is_dir():
        missing.insert(0, f"model: {study.model}")
    needed = disk_bytes(model, list(waiting.values()))
    return Plan(study, gpus, base, stages, len(waiting), works(study, out), needed, missing)


def _model(study: StudyConfig) -> tuple[Any, Any, str]:
    """Config, outline without weights, and where they come from."""
    if study.model in MINIATURES:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder) / "base"
            assemble(base, MINIATURES[study.model])
            model = outline(base)
        return model.config, model, f"{study.model}, which comes with the package"
    if found := Path(study.model) if Path(study.model).is_dir() else _cached(study.model):
        model = outline(found)
        return model.config, model, study.model
    if study.parts is None:
        raise UserError(
            f"There is no model folder '{study.model}', and the config names no parts to make it from. "
            f"If it is on the hub, type: hf download {study.model}"
        )
    from cal_bench.systems.known import known_config
    from cal_bench.systems.register import register

    register()
    config = known_config(study.parts.system, study.parts.language)
    return config, outlined(config), f"{study.model} is not there; sizes are those of {study.parts.system} with {study.parts.language}"


def _stage_plan(study: StudyConfig, stage: StageConfig, gpus: int, model: tuple[Any, Any]) -> StagePlan:
    config, outlined_model = model
    counts = prepare_parts(outlined_model, stage.train, stage.learning_rate_factors)
    samples, exact = _samples(study, stage)
    accumulation = accumulation_steps(stage, gpus)
    steps = stage.max_steps if stage.max_steps > 0 else None
    if samples is not None and steps is None:
        batches = math.ceil(math.ceil(samples / stage.per_device_batch_size) / gpus)
        steps = math.ceil(stage.epochs * math.ceil(batches / accumulation))
    return StagePlan(stage, samples, exact, accumulation, steps, counts, step_sizes(config, outlined_model, stage, counts))


def _samples(study: StudyConfig, stage: StageConfig) -> tuple[int | None, bool]:
    """How many records the stage's files hold or will hold, and whether that is exact: counted, or as many as will be drawn."""
    drawn = {"pretrain.json": study.world.pretrain, "train.json": study.world.train} if study.world else {}
    files = [Path(file) for file in stage.data]
    # A world that is drawn takes the place of files that are there.
    exact = [drawn.get(file.name) or count_records(file) for file in files]
    each = [KNOWN_COUNTS.get(file.name) if count is None else count for file, count in zip(files, exact, strict=True)]
    return (None if None in each else sum(count for count in each if count is not None)), None not in exact


def step_sizes(config: Any, model: Any, stage: StageConfig, counts: Counts) -> Sizes:
    """What decides the memory of a micro-batch of the stage."""
    text = config.get_text_config()
    trained, frozen = (sum(counts[kind].values()) for kind in ("trainable", "frozen"))
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    layer = sum(parameter.numel() for parameter in model.get_decoder().layers[0].parameters())
    return Sizes(
        parameters=trained + frozen,
        trained=trained,
        largest=max(layer, text.vocab_size * text.hidden_size),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        queries=heads * width,
        keys=text.num_key_value_heads * width,
        vocabulary=text.vocab_size,
        tokens=stage.per_device_batch_size * _sample_tokens(config, stage),
        checkpointing=stage.gradient_checkpointing,
        towers=stage.per_device_batch_size * _tower_bytes(config, stage),
    )


def _sample_tokens(config: Any, stage: StageConfig) -> int:
    """Tokens of the longest sample to reckon with."""
    pictured = image_tokens(config, stage)
    if stage.template != "plain" or pictured is None:
        return stage.max_length
    return min(stage.max_length, pictured + CAPTION_TOKENS)


def image_tokens(config: Any, stage: StageConfig) -> int | None:
    """Tokens of a picture, at most; None for a model that is none of the paper's systems."""
    if config.model_type not in SYSTEM_TYPES:
        return None
    side, patches = config.vision_config.image_size, config.vision_config.image_size // config.vision_config.patch_size
    # A line of LLaVA-NeXT's features ends with the token between rows.
    lines = [(height // side * patches, width // side * patches + 1) for height, width in _pinpoints(config)]
    whole: int = patches**2
    return whole * _tiles(config, stage) if not lines else whole + max(rows * columns for rows, columns in lines)


def _pinpoints(config: Any) -> Sequence[tuple[int, int]]:
    """Heights and widths that LLaVA-NeXT cuts into tiles; none for other systems."""
    return [(height, width) for height, width in config.image_grid_pinpoints] if config.model_type == "llava_next" else []


def _tiles(config: Any, stage: StageConfig) -> int:
    """Pictures that the low-resolution tower reads for one image, at most."""
    if config.model_type == "llava_next":
        side: int = config.vision_config.image_size
        return 1 + max(height * width for height, width in _pinpoints(config)) // side**2
    grid: int = stage.image_grid or (config.image_grid if config.model_type == "cal_mgm" else 1)
    return grid**2 + 1 if grid > 1 else 1


def _tower_bytes(config: Any, stage: StageConfig) -> int:
    """What the towers hold for one image: the inputs of trained layers, and MGM's high-resolution features of all stages."""
    if config.model_type not in SYSTEM_TYPES:
        return 0
    vision, found = config.vision_config, 0
    if any(part.startswith("model.vision_tower") for part in stage.train):
        positions = (vision.image_size // vision.patch_size) ** 2 + 1
        found += _tiles(config, stage) * positions * vision.num_hidden_layers * vision.hidden_size * 4
    if config.model_type == "cal_mgm":
        # 8 x 8 features to a patch, in bfloat16, and in single precision while they are brought to one size.
        side = (stage.image_grid or config.image_grid) * config.patches_per_side * 8
        found += config.high_res_channels * side**2 * (2 + 4)
    return found


def base_commands(study: StudyConfig) -> list[str]:
    """How the untrained base is made from its parts: of the hub's cache where `cal-bench fetch` put them, else fetched beside it."""
    from cal_bench.systems.known import CLIP, CONVNEXT

    assert study.parts is not None
    model = Path(study.model)
    lines: list[str] = []
    flags: list[object] = []
    second = {"convnext": CONVNEXT} if study.parts.system.startswith("mgm") else {}
    for flag, name in {"language": study.parts.language, "clip": CLIP, **second}.items():
        folder = model.parent / name.rpartition("/")[2]
        if not folder.is_dir() and (cached := _cached(name)):
            folder = cached
        if not folder.is_dir():
            lines.append(shlex.join(["hf", "download", name, "--local-dir", str(folder)]))
        flags += [f"--{flag}", folder]
    return [*lines, as_typed("convert", "--from-scratch", study.parts.system, *flags, model)]


def _cached(name: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None
