"""For the same answers our numbers are those of lmms_eval.simple_evaluate on its own task definitions."""

import random
import re
from pathlib import Path
from typing import Any

import lmms_eval
import pytest
import yaml
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config

import cal_bench.tasks as tasks
from cal_bench.tasks.lmms import write_yaml
from tests import tasks_rows
from tests.shared import SHARED, needs_shared

# Of the seven caption metrics only the one that we report: each starts two Java machines.
CIDER = """
metric_list:
  - metric: {kind}_CIDEr
    aggregation: !function lmms_eval.tasks.{utils}.utils.{kind}_cider
    higher_is_better: true
"""


class Answering(lmms):
    """A model of lmms-eval that says what it is told to."""

    is_simple = True

    def __init__(self, answers: dict[str, dict[int, str]]) -> None:
        super().__init__()
        self.answers = answers
        self.prompts: dict[str, dict[int, str]] = {}

    def generate_until(self, requests: list[Instance]) -> list[str]:
        for request in requests:
            prompt, _, _, id, task, _ = request.args
            self.prompts.setdefault(task, {})[id] = prompt
        return [self.answers[request.args[4]][request.args[3]] for request in requests]

    def loglikelihood(self, requests: list[Instance]) -> list[Any]:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError


def lmms_evals_own(folder: Path, data: Path) -> TaskManager:
    """lmms-eval's YAMLs under our names, pointed at our data."""
    for benchmark in map(tasks.get, tasks.names()):
        path = write_yaml(benchmark.lmms_task, folder)
        ours = yaml.safe_load(path.read_text().replace("!function ", ""))
        split = load_yaml_config(yaml_path=ours["include"], mode="simple")["test_split"]
        files = {"data_files": {split: str(data / f"{benchmark.file}.parquet")}}
        text = {
            "include": ours["include"],
            "task": benchmark.lmms_task,
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": files,
        }
        if benchmark.name == "textvqa_ocr":
            text["lmms_eval_specific_kwargs"] = ours["lmms_eval_specific_kwargs"]
        cider = CIDER.format(kind=benchmark.metric.split("_")[0], utils=Path(ours["include"]).parent.name) if benchmark.needs_java else ""
        path.write_text(yaml.safe_dump(text) + cider)
    return TaskManager(include_defaults=False, include_path=str(folder))


def run_lmms_eval(manager: TaskManager, answers: dict[str, dict[int, str]]) -> tuple[dict[str, dict[str, float]], Answering]:
    model = Answering({tasks.get(name).lmms_task: given for name, given in answers.items()})
    results = simple_evaluate(
        model=model, tasks=list(model.answers), task_manager=manager, batch_size=1, bootstrap_iters=0, log_samples=False
    )
    assert results is not None
    return results["results"], model


def assert_equal(name: str, folder: Path, answers: dict[int, str], theirs: dict[str, Any]) -> None:
    benchmark = tasks.get(name)
    scores = tasks.open_task(benchmark, str(folder)).score(answers)
    numbers = {
        key.removesuffix(",none"): value
        for key, value in theirs.items()
        if key.endswith(",none") and "_stderr" not in key and isinstance(value, int | float) and "submission" not in key
    }
    assert numbers
    assert {key: scores.metrics[key] for key in numbers} == pytest.approx(numbers, abs=1e-12), name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run of lmms-eval over all 15 benchmarks on made-up data."""
    data, yamls = tasks_rows.write_all(tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("yamls")
    answers = {
        name: tasks_rows.mixed_answers(name, [sample.id for sample in tasks.open_task(tasks.get(name), str(data)).samples()])
        for name in tasks.names()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))  # lmms-eval writes submission files here
        patch.setattr(random, "choice", lambda options: options[0])  # MMT-Bench's guess
        results, model = run_lmms_eval(lmms_evals_own(yamls, data), answers)
    return data, answers, results, model


@pytest.mark.parametrize("name", tasks.names())
def test_metrics_equal_simple_evaluates(name: str, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data, answers, results, _ = made
    monkeypatch.setattr(random, "choice", lambda options: options[0])
    assert_equal(name, data, answers[name], results[tasks.get(name).lmms_task])


@pytest.mark.parametrize("name", tasks.names())
def test_prompts_equal_simple_evaluates(name: str, made: Any) -> None:
    data, _, _, model = made
    theirs = model.prompts[tasks.get(name).lmms_task]
    ours = {sample.id: sample.prompt for sample in tasks.open_task(tasks.get(name), str(data)).samples()}
    assert ours == {id: prompt.replace("<image>\n", "") for id, prompt in theirs.items()}


@needs_shared
def test_real_pictures_score_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = SHARED / "real" / "bench"
    say = ("yes", "A", "", "[0.2, 0.1, 0.7, 0.8]", "A dog on the street.", "no", "B", "12", "Nokia")
    answers = {
        name: {sample.id: say[sample.id % len(say)] for sample in tasks.open_task(tasks.get(name), str(data)).samples()}
        for name in tasks.names()
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(random, "choice", lambda options: options[0])
    (tmp_path / "yamls").mkdir()
    results, _ = run_lmms_eval(lmms_evals_own(tmp_path / "yamls", data), answers)
    for name in tasks.names():
        assert_equal(name, data, answers[name], results[tasks.get(name).lmms_task])


def test_our_yamls_are_lmms_evals(tmp_path: Path) -> None:
    """Written out, they serve as `lmms-eval --include_path`."""
    for name in tasks.names():
        write_yaml(tasks.get(name).lmms_task, tmp_path)
    manager = TaskManager(include_defaults=False, include_path=str(tmp_path))
    assert {tasks.get(name).lmms_task for name in tasks.names()} <= set(manager.all_tasks)


def test_our_names_are_not_lmms_evals() -> None:
    """lmms-eval prefers its own task of the same name without a word."""
    yamls = Path(lmms_eval.__file__).parent.glob("tasks/**/*.yaml")
    taken = re.findall(r"^(?:task|group|tag): *[\"']?(\w+)", "\n".join(path.read_text() for path in yamls), re.MULTILINE)
    assert "chartqa" in taken
    assert not {tasks.get(name).lmms_task for name in tasks.names()} & set(taken)
