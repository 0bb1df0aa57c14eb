"""Where the paths of a study start: beside its config, in a data root, or in the folder that a config is written to."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cal_bench.miniworld import MINIATURES

if TYPE_CHECKING:
    from cal_bench.config import StudyConfig

HUB = "hub"


def located(study: StudyConfig, base: Path) -> StudyConfig:
    """The study with every relative path taken from `base`."""
    return _moved(study, lambda path: str(base / Path(path).expanduser()))


def _moved(study: StudyConfig, at: Callable[[str], str]) -> StudyConfig:
    """The study with the paths of its data changed by `at`."""
    stages = {
        name: dataclasses.replace(
            stage,
            data=tuple(at(path) for path in stage.data),
            images=at(stage.images) if isinstance(stage.images, str) else tuple(at(path) for path in stage.images),
        )
        for name, stage in study.stages.items()
    }
    data = study.evaluate.data
    evaluate = dataclasses.replace(study.evaluate, data=data if data == HUB else at(data))
    return dataclasses.replace(study, stages=stages, evaluate=evaluate)


def model_at(base: Path, study: StudyConfig) -> str:
    """A folder beside the config as its full path, also one that is still to be made; "miniworld" and names of the hub as they are."""
    folder = base / Path(study.model).expanduser()
    return str(folder) if study.model not in MINIATURES and (study.parts or folder.is_dir()) else study.model


def rebased(study: StudyConfig, folder: Path) -> StudyConfig:
    """The study with every path written as seen from `folder`: nothing in it names this machine's folders."""

    def seen(path: str) -> str:
        return os.path.relpath(path, folder) if os.path.isabs(path) else path

    return dataclasses.replace(_moved(study, seen), model=seen(study.model))
