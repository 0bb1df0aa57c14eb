"""A study's config: what it says, and reading it from YAML with all its problems told at once."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from cal_bench.config_paths import HUB as HUB
from cal_bench.config_paths import located, model_at, rebased
from cal_bench.config_values import Problems, read_mapping, read_value, unknown_keys
from cal_bench.errors import UserError, suggest
from cal_bench.miniworld import MINIATURES, WorldSizes
from cal_bench.tasks import names as benchmark_names
from cal_bench.train import Processing, StageConfig
from cal_bench.trainer_plugin import CALConfig
from cal_bench.trainer_plugin.templates import TEMPLATES

ALL = "all"
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class EvaluateConfig:
    """Which benchmarks, and where their data is: "hub", a folder of parquet files, or one such file."""

    benchmarks: tuple[str, ...]
    data: str = HUB
    batch_size: int = 32
    limit: int | None = None


@dataclass(frozen=True)
class PartsConfig:
    """What an untrained base is put together from: a system, and a language model by its name on the hub."""

    system: str
    language: str


@dataclass(frozen=True)
class StudyConfig:
    """Arms that differ in nothing but CAL: the same base, stages, data order and seed, then the same benchmarks.

    `processing` matters for LLaVA checkpoints of the hub: the original code's pictures and prompts, or transformers' defaults.
    `parts` says what `model` is made of, for the time before it is there; `gpus` is the number that the sizes are meant for. Both
    are for the plan alone: trainings are the same on any number.
    """

    name: str
    model: str
    stages: dict[str, StageConfig]
    arms: dict[str, dict[str, CALConfig]]
    evaluate: EvaluateConfig
    seed: int = 0
    world: WorldSizes | None = None
    processing: Processing = "original"
    gpus: int = 1
    parts: PartsConfig | None = None


@dataclass(frozen=True)
class SeveralConfig:
    """Studies, by their recipes or files, that are run one after the other and put into one table."""

    name: str
    studies: tuple[str, ...]


def load_study(source: str, seed: int | None = None, data_root: str | None = None) -> StudyConfig:
    """The study in a YAML file or of a recipe's name; `seed` wins over the file's.

    Relative paths start at `data_root`, or else at the file's own folder; those of a recipe at the current one. A file with `base`
    says only what differs from that recipe or file.
    """
    path = _find(source)
    raw = _read_with_base(path)
    if isinstance(raw.get("studies"), list):
        raise UserError(f"The config {path} lists several studies. Give one of them: {', '.join(map(str, raw['studies']))}.")
    if seed is not None:
        raw["seed"] = seed
    problems = Problems()
    study = _read_study(raw, problems)
    if problems.found or study is None:
        listed = "\n".join(f"  {problem}" for problem in problems.found)
        raise UserError(f"The config {path} has {_count(len(problems.found), 'problem')}:\n{listed}")
    beside = Path(data_root or ("." if path in recipes().values() else path.parent)).expanduser().resolve()
    study = dataclasses.replace(study, model=model_at(beside, study))
    return study if study.world else located(study, beside)


def load_several(source: str) -> SeveralConfig | None:
    """The list of studies in a YAML file or of a recipe's name; None if it is one study."""
    path = _find(source)
    raw = _read_yaml(path)
    if "studies" not in raw:
        return None
    name, listed = str(raw.get("name", "")), raw["studies"]
    whole = isinstance(listed, list) and listed and all(isinstance(one, str) for one in listed)
    if not whole or len(raw) > 2 or not _FOLDER_NAME.fullmatch(name):
        raise UserError(f"The config {path} lists studies, so it has two keys: a name, and studies, a list of recipes or YAML files.")
    beside = path.resolve().parent
    return SeveralConfig(name, tuple(str(beside / one) if (beside / one).is_file() else one for one in listed))


def in_world(study: StudyConfig, folder: Path) -> StudyConfig:
    """The study with the paths of its drawn world, which lies in `folder`; any other study as it is."""
    return located(study, folder) if study.world else study


def recipes() -> dict[str, Path]:
    """The configs that come with the package, by name."""
    folder = Path(str(resources.files("cal_bench.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def dump_study(study: StudyConfig, folder: Path) -> str:
    """The study as YAML for a file in `folder`: reading that file gives the same study again."""
    raw = dataclasses.asdict(rebased(study, folder.resolve()))
    for name in ("world", "parts"):
        if raw[name] is None:
            del raw[name]
    for stage in raw["stages"].values():
        del stage["seed"], stage["processing"]
    text: str = yaml.safe_dump(_plain(raw), sort_keys=False, allow_unicode=True, width=120)
    return text


def _find(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    known = recipes()
    if source in known:
        return known[source]
    listed = ", ".join(known)
    raise UserError(
        f"There is no config file and no recipe '{source}'.{suggest(source, known)} Give the path of a YAML file or a recipe: {listed}."
    )


class _Loader(yaml.SafeLoader):
    """YAML as it should be: a key that is given twice is an error, not the last of the two."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for twice in {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{twice}' is given twice", node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a YAML file: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no study: expected the keys name, model, stages, arms, evaluate.")
    return raw


def _read_with_base(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The YAML, with what it leaves out taken from its base. A name is never taken: it is that of the study's folder."""
    raw = _read_yaml(path)
    if "base" not in raw:
        return raw
    base = _find_base(raw.pop("base"), path)
    if base in (*above, path):
        raise UserError(f"The config {path} is its own base. Take the base out of one of {', '.join(map(str, (*above, path)))}.")
    inherited = _read_with_base(base, (*above, path))
    if "studies" in inherited:
        raise UserError(f"The base of {path}, {base.name}, lists several studies. Give one of them: {', '.join(inherited['studies'])}.")
    return _merged({key: value for key, value in inherited.items() if key != "name"}, raw)


def _find_base(name: Any, path: Path) -> Path:
    if not isinstance(name, str):
        raise UserError(f"The config {path} has the base {name!r}. Expected the name of a recipe, or of one YAML file beside it.")
    beside, known = path.resolve().parent / name, recipes()
    if beside.is_file():
        return beside
    if name not in known:
        listed = ", ".join(known)
        raise UserError(
            f"The config {path} has the base '{name}', which is neither a file beside it nor a recipe.{suggest(name, known)} "
            f"The recipes are {listed}."
        )
    return known[name]


def _merged(inherited: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings key by key, all else as in `own`; so are the arms, of which a study wants to name all."""

    def both(key: str) -> bool:
        return key != "arms" and isinstance(own[key], dict) and isinstance(inherited.get(key), dict)

    return {**inherited, **{key: _merged(inherited[key], own[key]) if both(key) else own[key] for key in own}}


def _read_study(raw: dict[str, Any], problems: Problems) -> StudyConfig | None:
    unknown_keys(raw, [*(known.name for known in dataclasses.fields(StudyConfig)), "base"], "", problems)
    seed = read_value(int, raw.get("seed", 0), "seed", problems)
    if seed is not None and not 0 <= seed < 2**32:
        problems.add("seed", f"expected a number from 0 to 2**32 - 1, got {seed}")
    processing = read_value(Processing, raw.get("processing", "original"), "processing", problems)
    world = read_mapping(WorldSizes, raw["world"], "world", problems) if raw.get("world") is not None else None
    parts = read_mapping(PartsConfig, raw["parts"], "parts", problems) if raw.get("parts") is not None else None
    gpus = read_value(int, raw.get("gpus", 1), "gpus", problems)
    if gpus is not None and gpus < 1:
        problems.add("gpus", f"expected at least 1, got {gpus}")
    stages = {
        name: read_mapping(StageConfig, content, f"stages.{name}", problems, {"seed": seed, "processing": processing})
        for name, content in _mapping(raw, "stages", problems)
    }
    for name, stage in stages.items():
        if stage is not None:
            _check_stage(stage, f"stages.{name}", problems)
    arms = {name: _read_arm(content, f"arms.{name}", list(stages), problems) for name, content in _mapping(raw, "arms", problems)}
    evaluate = read_mapping(EvaluateConfig, _all_benchmarks(raw.get("evaluate")), "evaluate", problems)
    if evaluate is not None:
        _check_evaluate(evaluate, problems)
    name, model = (read_value(str, raw.get(key), key, problems) for key in ("name", "model"))
    if isinstance(model, str) and model.startswith("miniworld") and model not in MINIATURES:
        problems.add("model", f"there is no miniature '{model}'.{suggest(model, MINIATURES)} The miniatures are {', '.join(MINIATURES)}.")
    for key in (name, *stages, *arms):
        if isinstance(key, str) and not _FOLDER_NAME.fullmatch(key):
            problems.add("", f"'{key}' becomes the name of a folder: use letters, digits, '-', '_' and '.'")
    if problems.found:
        return None
    read_stages = {name: stage for name, stage in stages.items() if stage is not None}
    read_arms = {name: arm for name, arm in arms.items() if arm is not None}
    assert evaluate is not None
    return StudyConfig(name, model, read_stages, read_arms, evaluate, seed, world, processing, gpus, parts)


def _read_arm(raw: Any, where: str, stages: list[str], problems: Problems) -> dict[str, CALConfig] | None:
    """Stage by stage the CAL settings; a stage that is not named trains as the stock trainer does."""
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        problems.add(where, f"expected a mapping of stages to CAL settings, got {raw!r}")
        return None
    unknown_keys(raw, stages, where, problems)
    read = {
        stage: read_mapping(CALConfig, content or {}, f"{where}.{stage}", problems) for stage, content in raw.items() if stage in stages
    }
    return {stage: settings for stage, settings in read.items() if settings is not None}


def _mapping(raw: dict[str, Any], key: str, problems: Problems) -> list[tuple[str, Any]]:
    content = raw.get(key)
    if not isinstance(content, dict) or not content:
        problems.add(key, "expected a mapping with at least one entry" + ("" if key in raw else "; it is missing"))
        return []
    return [(str(name), value) for name, value in content.items()]


def _all_benchmarks(raw: Any) -> Any:
    """`benchmarks: all`, which is also the default, written out."""
    if raw is None or (isinstance(raw, dict) and raw.get("benchmarks", ALL) == ALL):
        return {**(raw or {}), "benchmarks": list(benchmark_names())}
    return raw


def _check_stage(stage: StageConfig, where: str, problems: Problems) -> None:
    for key in ("batch_size", "per_device_batch_size", "max_length", "save_steps", "label_check"):
        number = getattr(stage, key)
        if number is not None and number < 1:
            problems.add(f"{where}.{key}", f"expected at least 1, got {number}")
    if stage.template not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        problems.add(
            f"{where}.template", f"there is no template '{stage.template}'.{suggest(stage.template, TEMPLATES)} There are {known}."
        )
    for key in ("learning_rate", "epochs"):
        if (number := getattr(stage, key)) <= 0:
            problems.add(f"{where}.{key}", f"expected more than 0, got {number}")
    if not 0 <= stage.swap <= 1:
        problems.add(f"{where}.swap", f"expected a share between 0 and 1, got {stage.swap}")
    if stage.warmup < 0:
        problems.add(f"{where}.warmup", f"expected a share, or a number of steps, got {stage.warmup}")


def _check_evaluate(evaluate: EvaluateConfig, problems: Problems) -> None:
    for key in ("batch_size", "limit"):
        number = getattr(evaluate, key)
        if number is not None and number < 1:
            problems.add(f"evaluate.{key}", f"expected at least 1, got {number}")
    if not evaluate.benchmarks:
        problems.add("evaluate.benchmarks", "expected at least one benchmark, or all")
    for name, times in Counter(evaluate.benchmarks).items():
        if times > 1:
            problems.add("evaluate.benchmarks", f"{name} is there {times} times")
        if name not in benchmark_names():
            problems.add("evaluate.benchmarks", f"there is no benchmark '{name}'.{suggest(name, benchmark_names())}")


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down: what YAML and JSON know."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
