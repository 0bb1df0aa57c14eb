"""The seam to lmms-eval: our YAMLs with their includes resolved, and the functions that they name."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .base import Benchmark, Generation

# lmms-eval loads a task's functions from files, under the file's bare name.
NOISY_LOGGERS = ("lmms_eval", "utils", "utils_rec")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps lmms-eval's log lines and prints, and the progress bars of datasets, off the terminal."""
    import datasets
    from loguru import logger

    bars = datasets.are_progress_bars_disabled()
    for name in NOISY_LOGGERS:
        logger.disable(name)
    datasets.disable_progress_bars()
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        for name in NOISY_LOGGERS:
            logger.enable(name)
        if not bars:
            datasets.enable_progress_bars()


def refuse_truncated_pictures() -> None:
    """Puts Pillow's own rule back: lmms-eval, once imported, has it fill what is missing with grey, in the whole process."""
    from PIL import ImageFile

    ImageFile.LOAD_TRUNCATED_IMAGES = False


def write_yaml(lmms_task: str, folder: Path) -> Path:
    """A copy of our YAML in `folder` whose include is an absolute path, as `lmms-eval --include_path` wants it."""
    import lmms_eval

    installed = Path(lmms_eval.__file__).parent
    text = (resources.files(__package__) / f"{lmms_task}.yaml").read_text()
    head, include, rest = text.partition("include: lmms_eval/")
    target, _, rest = rest.partition("\n")
    path = folder / f"{lmms_task}.yaml"
    path.write_text(f"{head}include: {json.dumps(str(installed / target))}\n{rest}" if include else text)
    return path


def included_task(benchmark: Benchmark) -> str:
    """What lmms-eval itself calls the task that ours includes."""
    import lmms_eval

    text = (resources.files(__package__) / f"{benchmark.lmms_task}.yaml").read_text()
    target = text.partition("include: lmms_eval/")[2].partition("\n")[0]
    own = (Path(lmms_eval.__file__).parent / target).read_text()
    return next(line.partition(":")[2].strip().strip("\"'") for line in own.splitlines() if line.startswith("task:"))


@dataclass(frozen=True)
class Definition:
    """What lmms-eval's YAML and its functions say about a task."""

    dataset_path: str
    dataset_name: str | None
    split: str
    config: Any  # lmms-eval's TaskConfig

    def prompt(self, row: dict[str, Any]) -> str:
        """The user's text. MMT-Bench writes a placeholder for the picture into it; our pictures go first, without one."""
        kwargs = self._prompt_kwargs()
        text: str = self.config.doc_to_text(row) if kwargs is None else self.config.doc_to_text(row, kwargs)
        return text.replace("<image>\n", "").replace("<image>", "")

    def pictures(self, row: dict[str, Any]) -> list[Any]:
        """The pictures of a row, as RGB."""
        pictures: list[Any] = self.config.doc_to_visual(row)
        return pictures

    def generation(self, benchmark: Benchmark) -> Generation:
        """lmms-eval's limits; the bound of the benchmark where lmms-eval has none."""
        kwargs = self.config.generation_kwargs
        return Generation(kwargs.get("max_new_tokens", benchmark.max_new_tokens), tuple(kwargs["until"]))

    def mark(self, row: dict[str, Any], answer: str, seed: str) -> tuple[dict[str, Any], bool]:
        """What lmms-eval makes of one answer, and whether it had to guess; a guess depends on `seed` alone."""
        state = random.getstate()
        random.seed(seed)
        before = random.getstate()
        try:
            result = self._process(row, answer)
            return result, random.getstate() != before
        finally:
            random.setstate(state)

    def aggregate(self, metric: str, values: Sequence[Any], folder: str) -> float:
        """lmms-eval's aggregate; what it insists on writing goes into `folder`."""
        function = self.aggregations()[metric]
        # lmms-eval hands its command line to the aggregates that have a parameter of this name.
        wants_args = "args" in inspect.signature(function).parameters
        return float(function(list(values), args=SimpleNamespace(output_path=folder)) if wants_args else function(list(values)))

    def aggregations(self) -> dict[str, Callable[..., Any]]:
        """The aggregate of each metric that the task declares."""
        import lmms_eval.api.metrics  # noqa: F401  registers "mean" and its like
        from lmms_eval.api.registry import get_aggregation

        named = {metric["metric"]: metric["aggregation"] for metric in self.config.metric_list}
        return {metric: get_aggregation(function) if isinstance(function, str) else function for metric, function in named.items()}

    def _prompt_kwargs(self) -> Mapping[str, Any] | None:
        kwargs = self.config.lmms_eval_specific_kwargs
        return None if kwargs is None else {**kwargs, **kwargs.get("default", {})}

    def _process(self, row: dict[str, Any], answer: str) -> dict[str, Any]:
        if self.config.process_results is not None:
            result: dict[str, Any] = self.config.process_results(row, [answer])
            return result
        from lmms_eval.api.registry import METRIC_REGISTRY

        names = [metric["metric"] for metric in self.config.metric_list]
        target = row[self.config.doc_to_target]
        return {name: METRIC_REGISTRY[name](references=target, predictions=[answer])[name] for name in names}


def read_definition(benchmark: Benchmark) -> Definition:
    """Reads the YAML and runs the files of functions that it names, anew: some keep totals in module globals (OCRBench)."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        from lmms_eval.api.task import TaskConfig
        from lmms_eval.utils import load_yaml_config

        config = TaskConfig(**load_yaml_config(yaml_path=str(write_yaml(benchmark.lmms_task, Path(folder)))))
    return Definition(config.dataset_path, config.dataset_name, config.test_split, config)
