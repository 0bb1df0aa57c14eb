"""Everything that an evaluation or a study reads from the Hugging Face hub, fetched beforehand; what it weighs is said first."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from cal_bench.checkpoints import READ
from cal_bench.config import ALL, HUB, StudyConfig, load_several, load_study, recipes
from cal_bench.doctor import nearest
from cal_bench.errors import UserError, suggest
from cal_bench.miniworld import MINIATURES
from cal_bench.progress import say
from cal_bench.tasks import get, names
from cal_bench.tasks.hub import MODEL, Listing, fetch, list_files, list_split
from cal_bench.tasks.lmms import read_definition

# datasets makes a copy of the data in its own format when they are first read.
_COPIES = {MODEL: 1, "dataset": 2}
_PICKLED = "*.bin"


@dataclass(frozen=True)
class Wanted:
    """Benchmarks and names of models."""

    benchmarks: tuple[str, ...]
    models: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """One thing to fetch: whose it is, where it comes from, and its files."""

    label: str
    source: str
    files: Listing

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(self.files.sizes.values())

    @property
    def missing(self) -> int:
        """Bytes that are not here."""
        return sum(self.files.sizes[name] for name in self.files.missing)


def wanted(words: Sequence[str], models: Sequence[str]) -> Wanted:
    """What is meant by benchmarks, `all`, configs and names of models; UserError for any other word, and for none."""
    if not words and not models:
        raise UserError("There is nothing to fetch. Name benchmarks (or all), a config, or a model: cal-bench fetch pope --models NAME.")
    return _together([*(_meant(word) for word in words), Wanted((), tuple(models))])


def plan(what: Wanted) -> list[Item]:
    """The files and sizes of all of it, as the hub gives them; UserError if it cannot be asked."""
    splits: dict[tuple[str, str | None, str], list[str]] = {}
    for name in what.benchmarks:
        definition = read_definition(get(name))
        splits.setdefault((definition.dataset_path, definition.dataset_name, definition.split), []).append(name)
    items = [
        Item(", ".join(labels), f"{split[0]}, split {split[2]}", _asked(split[0], partial(list_split, *split)))
        for split, labels in splits.items()
    ]
    return items + [Item(name, "model", _asked(name, partial(_model_files, name))) for name in what.models]


def plan_lines(items: Sequence[Item]) -> list[str]:
    """The plan for people: sizes, and what of it is here."""
    from huggingface_hub.constants import HF_HUB_CACHE

    labels, sources = (max(len(getattr(item, part)) for item in items) for part in ("label", "source"))
    lines = [f"{item.label:<{labels}}  {item.source:<{sources}}  {_bytes(item.size):>8}  {_state(item)}" for item in items]
    total, missing = sum(item.size for item in items), sum(item.missing for item in items)
    return [*lines, f"Together {_bytes(total)}, of which {_bytes(missing)} are to be fetched into {HF_HUB_CACHE}"]


def fetch_all(items: Sequence[Item]) -> None:
    """Fetch what is missing, one after the other; UserError if there is no room, or the hub fails. What was fetched before is kept."""
    waiting = [item for item in items if item.missing]
    _check_room(waiting)
    for item in waiting:
        say(f"Fetching {item.label}: {_bytes(item.missing)}")
        _asked(item.label, partial(fetch, item.files))
    for item in items:
        if item.files.kind == MODEL:
            say(f"{item.label}: {item.files.folder}")


def offline_command(what: Wanted) -> str:
    """What can be typed on a machine without a connection."""
    model = what.models[0] if what.models else "PATH"
    return f"HF_HUB_OFFLINE=1 cal-bench eval {' '.join(what.benchmarks) or 'BENCHMARK'} --model {model}"


def _meant(word: str) -> Wanted:
    if word == ALL:
        return Wanted(names(), ())
    if word in names():
        return Wanted((word,), ())
    if not Path(word).expanduser().is_file() and word not in recipes():
        guess = suggest(word, (*names(), *recipes()))
        raise UserError(f"There is no benchmark and no config '{word}'.{guess} Give names as in cal-bench tasks, all, or a YAML file.")
    if several := load_several(word):
        return _together([_meant(one) for one in several.studies])
    study = load_study(word)
    return Wanted(study.evaluate.benchmarks if study.evaluate.data == HUB else (), _models_of(study))


def _together(parts: Sequence[Wanted]) -> Wanted:
    """Each benchmark and model once."""
    benchmarks, models = ([name for part in parts for name in getattr(part, kind)] for kind in ("benchmarks", "models"))
    return Wanted(tuple(dict.fromkeys(benchmarks)), tuple(dict.fromkeys(models)))


def _models_of(study: StudyConfig) -> tuple[str, ...]:
    """The base that every arm starts from, or what it is to be made from."""
    if study.model in MINIATURES or Path(study.model).is_dir():
        return ()
    if study.parts is None:
        return (study.model,)
    from cal_bench.systems.anatomy import SYSTEMS
    from cal_bench.systems.known import CLIP, CONVNEXT

    two_towers = SYSTEMS[study.parts.system].high_res_size is not None
    return (study.parts.language, CLIP, *([CONVNEXT] if two_towers else []))


def _model_files(name: str) -> Listing:
    """What a checkpoint is read from, here and by `convert`: pickled weights only where there are no others."""
    every = list_files(name, MODEL)
    safe = any(file.endswith(".safetensors") for file in every.sizes)
    patterns = [*READ, *([] if safe else [_PICKLED])]
    files = {file: size for file, size in every.sizes.items() if any(fnmatchcase(file, pattern) for pattern in patterns)}
    return Listing(name, MODEL, every.folder, files)


def _asked(name: str, ask: Callable[[], Listing]) -> Listing:
    from huggingface_hub.errors import HFValidationError

    try:
        return ask()
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"{name} cannot be had from the Hugging Face hub: {reason}. Look at the name and the connection (HF_HUB_OFFLINE must not be "
            "set); for a model that asks for consent, give it on its page and type: hf auth login. The same command goes on from here."
        ) from error


def _check_room(items: Sequence[Item]) -> None:
    if not items:
        return
    folder = nearest(items[0].files.folder)
    needed = sum(item.missing * _COPIES[item.files.kind] for item in items)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"The disk of {folder} has {_bytes(free)} free, and this needs {_bytes(needed)} (benchmark data twice: they are copied when "
            "first read). Free some space, or set HF_HOME to a folder on another disk."
        )


def _state(item: Item) -> str:
    missing = len(item.files.missing)
    return "here" if not missing else f"{missing} of {len(item.files.sizes)} files to fetch"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
