"""A study's config: what it says, and reading it from YAML with all its problems told at once."""

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from cal_bench.errors import UserError, suggest
from cal_bench.miniworld import WorldSizes
from cal_bench.tasks import names as benchmark_names
from cal_bench.train import Processing, StageConfig
from cal_bench.trainer_plugin import CALConfig

MINIWORLD = "miniworld"
ALL = "all"
HUB = "hub"
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

T = TypeVar("T")


@dataclass(frozen=True)
class EvaluateConfig:
    """Which benchmarks, and where their data is: "hub", a folder of parquet files, or one such file."""

    benchmarks: tuple[str, ...]
    data: str = HUB
    batch_size: int = 32
    limit: int | None = None


@dataclass(frozen=True)
class StudyConfig:
    """Arms that differ in nothing but CAL: the same base, stages, data order and seed, then the same benchmarks.

    `processing` matters for LLaVA checkpoints of the hub: the original code's pictures and prompts, or transformers' defaults.
    """

    name: str
    model: str
    stages: dict[str, StageConfig]
    arms: dict[str, dict[str, CALConfig]]
    evaluate: EvaluateConfig
    seed: int = 0
    world: WorldSizes | None = None
    processing: Processing = "original"


@dataclass
class _Problems:
    """Everything that is wrong with one config, gathered while it is read."""

    found: list[str] = field(default_factory=list)

    def add(self, where: str, what: str) -> None:
        self.found.append(f"{where}: {what}" if where else what)


def load_study(source: str, seed: int | None = None) -> StudyConfig:
    """The study in a YAML file or of a recipe's name; `seed` wins over the file's."""
    path = _find(source)
    raw = _read_yaml(path)
    if seed is not None:
        raw["seed"] = seed
    problems = _Problems()
    study = _read_study(raw, problems)
    if problems.found or study is None:
        listed = "\n".join(f"  {problem}" for problem in problems.found)
        raise UserError(f"The config {path} has {_count(len(problems.found), 'problem')}:\n{listed}")
    beside = path.resolve().parent
    study = dataclasses.replace(study, model=_model_at(beside, study.model))
    return study if study.world else _located(study, beside)


def in_world(study: StudyConfig, folder: Path) -> StudyConfig:
    """The study with the paths of its drawn world, which lies in `folder`; any other study as it is."""
    return _located(study, folder) if study.world else study


def recipes() -> dict[str, Path]:
    """The configs that come with the package, by name."""
    folder = Path(str(resources.files("cal_bench.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def dump_study(study: StudyConfig, folder: Path) -> str:
    """The study as YAML for a file in `folder`: reading that file gives the same study again."""
    raw = dataclasses.asdict(_rebased(study, folder.resolve()))
    if study.world is None:
        del raw["world"]
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


def _read_study(raw: dict[str, Any], problems: _Problems) -> StudyConfig | None:
    _unknown_keys(raw, [known.name for known in dataclasses.fields(StudyConfig)], "", problems)
    seed = _value(int, raw.get("seed", 0), "seed", problems)
    processing = _value(Processing, raw.get("processing", "original"), "processing", problems)
    world = _read(WorldSizes, raw["world"], "world", problems) if raw.get("world") is not None else None
    stages = {
        name: _read(StageConfig, content, f"stages.{name}", problems, {"seed": seed, "processing": processing})
        for name, content in _mapping(raw, "stages", problems)
    }
    arms = {name: _read_arm(content, f"arms.{name}", list(stages), problems) for name, content in _mapping(raw, "arms", problems)}
    evaluate = _read(EvaluateConfig, _all_benchmarks(raw.get("evaluate")), "evaluate", problems)
    if evaluate is not None:
        _check_evaluate(evaluate, problems)
    name, model = (_value(str, raw.get(key), key, problems) for key in ("name", "model"))
    for key in (name, *stages, *arms):
        if isinstance(key, str) and not _FOLDER_NAME.fullmatch(key):
            problems.add("", f"'{key}' becomes the name of a folder: use letters, digits, '-', '_' and '.'")
    if problems.found:
        return None
    read_stages = {name: stage for name, stage in stages.items() if stage is not None}
    read_arms = {name: arm for name, arm in arms.items() if arm is not None}
    assert evaluate is not None
    return StudyConfig(name, model, read_stages, read_arms, evaluate, seed, world, processing)


def _read_arm(raw: Any, where: str, stages: list[str], problems: _Problems) -> dict[str, CALConfig] | None:
    """Stage by stage the CAL settings; a stage that is not named trains as the stock trainer does."""
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        problems.add(where, f"expected a mapping of stages to CAL settings, got {raw!r}")
        return None
    _unknown_keys(raw, stages, where, problems)
    read = {stage: _read(CALConfig, content or {}, f"{where}.{stage}", problems) for stage, content in raw.items() if stage in stages}
    return {stage: settings for stage, settings in read.items() if settings is not None}


def _mapping(raw: dict[str, Any], key: str, problems: _Problems) -> list[tuple[str, Any]]:
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


def _check_evaluate(evaluate: EvaluateConfig, problems: _Problems) -> None:
    for key in ("batch_size", "limit"):
        number = getattr(evaluate, key)
        if number is not None and number < 1:
            problems.add(f"evaluate.{key}", f"expected at least 1, got {number}")
    if not evaluate.benchmarks:
        problems.add("evaluate.benchmarks", "expected at least one benchmark, or all")
    for name in evaluate.benchmarks:
        if name not in benchmark_names():
            problems.add("evaluate.benchmarks", f"there is no benchmark '{name}'.{suggest(name, benchmark_names())}")


def _unknown_keys(raw: Mapping[str, Any], known: list[str], where: str, problems: _Problems) -> None:
    for key in raw:
        if key not in known:
            problems.add(where, f"there is no key '{key}'.{suggest(str(key), known)} The keys are {', '.join(known)}.")


def _read(kind: type[T], raw: Any, where: str, problems: _Problems, given: Mapping[str, Any] | None = None) -> T | None:
    """A dataclass from a mapping, or None and one problem per thing that is wrong with it; `given` fields are not read."""
    fields = {known.name: known for known in dataclasses.fields(kind) if known.name not in (given or {})}  # type: ignore[arg-type]
    if not isinstance(raw, dict):
        problems.add(where, f"expected a mapping with the keys {', '.join(fields)}, got {raw!r}")
        return None
    before = len(problems.found)
    _unknown_keys(raw, list(fields), where, problems)
    types = get_type_hints(kind)
    values = {key: _value(types[key], value, f"{where}.{key}", problems) for key, value in raw.items() if key in fields}
    for name, known in fields.items():
        needed = known.default is dataclasses.MISSING and known.default_factory is dataclasses.MISSING
        if needed and name not in raw:
            problems.add(f"{where}.{name}", "is missing")
    if len(problems.found) > before:
        return None
    try:
        return kind(**values, **(given or {}))
    except (ValueError, UserError) as error:
        problems.add(where, str(error))
        return None


def _value(kind: Any, raw: Any, where: str, problems: _Problems) -> Any:
    """`raw` as the type that the field declares: str, int, float, bool, a choice, a tuple of one of them, or None where allowed."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal and raw in inner:
        return raw
    if origin is tuple and isinstance(raw, list):
        return tuple(_value(inner[0], entry, where, problems) for entry in raw)
    if origin is dict and isinstance(raw, dict):
        return {str(key): _value(inner[1], entry, f"{where}.{key}", problems) for key, entry in raw.items()}
    if NoneType in inner:
        rest = [option for option in inner if option is not NoneType]
        return None if raw is None else _value(Union[tuple(rest)], raw, where, problems)  # noqa: UP007
    # YAML 1.1 reads 1e-3, which has no dot, as text.
    if kind is float and not isinstance(raw, bool):
        try:
            return float(raw)
        except (TypeError, ValueError):
            pass
    elif isinstance(kind, type) and isinstance(raw, kind) and (kind is bool or not isinstance(raw, bool)):
        return raw
    problems.add(where, f"expected {_describe(kind)}, got {raw!r}")
    return None


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(kind))
    if get_origin(kind) is dict:
        return f"a mapping of names to {_describe(get_args(kind)[1])}"
    if get_origin(kind) is tuple:
        return f"a list of {_describe(get_args(kind)[0])}"
    named: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return named[kind]


def _located(study: StudyConfig, base: Path) -> StudyConfig:
    """The study with every relative path taken from `base`."""

    def at(path: str) -> str:
        return str(base / Path(path).expanduser())

    stages = {
        name: dataclasses.replace(stage, data=tuple(at(path) for path in stage.data), images=at(stage.images))
        for name, stage in study.stages.items()
    }
    data = study.evaluate.data
    evaluate = dataclasses.replace(study.evaluate, data=data if data == HUB else at(data))
    return dataclasses.replace(study, stages=stages, evaluate=evaluate)


def _model_at(base: Path, model: str) -> str:
    """A folder beside the config as its full path; "miniworld" and names of the hub as they are."""
    folder = base / Path(model).expanduser()
    return str(folder) if model != MINIWORLD and folder.is_dir() else model


def _rebased(study: StudyConfig, folder: Path) -> StudyConfig:
    """The study with every path written as seen from `folder`: nothing in it names this machine's folders."""

    def seen(path: str) -> str:
        return os.path.relpath(path, folder) if os.path.isabs(path) else path

    stages = {
        name: dataclasses.replace(stage, data=tuple(seen(path) for path in stage.data), images=seen(stage.images))
        for name, stage in study.stages.items()
    }
    evaluate = dataclasses.replace(study.evaluate, data=seen(study.evaluate.data))
    return dataclasses.replace(study, stages=stages, evaluate=evaluate, model=seen(study.model))


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down: what YAML and JSON know."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
