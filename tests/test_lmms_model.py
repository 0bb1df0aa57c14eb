"""`lmms-eval --model cal_hf`: lmms-eval finds our model, and its answers and scores are those of `cal-bench eval`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.api.instance import Instance
from lmms_eval.models import get_model

import cal_bench.tasks as tasks
from cal_bench.cli import main
from cal_bench.errors import UserError
from cal_bench.lmms_model import LONGEST, CalHF
from cal_bench.miniworld import assemble
from cal_bench.miniworld.bench import bench_rows
from cal_bench.models import HFModel
from cal_bench.runs import Run, read_results, read_run
from tests import tasks_rows
from tests.test_tasks_contract import lmms_evals_own
from tests.tiny import save_tiny

NAMES = ("chartqa", "textvqa", "mmt")
ROWS = 6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("ckpt"))


def requests_for(samples: list[tasks.Sample], task: str, settings: dict[str, Any]) -> list[Instance]:
    """As lmms-eval's evaluator makes them."""

    def request(sample: tasks.Sample) -> Instance:
        arguments = (sample.prompt, dict(settings), lambda row: row["pictures"](), sample.id, task, "test")
        return Instance("generate_until", arguments, 0, {"task": task, "doc_id": sample.id, "repeats": 1})

    return [request(sample) for sample in samples]


def test_lmms_eval_finds_the_model_by_its_entry_point() -> None:
    assert get_model("cal_hf") is CalHF


@pytest.mark.parametrize("name", ["chartqa", "textvqa"])
def test_it_answers_as_eval_does(name: str, checkpoint: Path, tmp_path: Path) -> None:
    """Also where lmms-eval sets no bound on the answer (TextVQA)."""
    tasks_rows.write(tmp_path, name)
    task = tasks.open_task(tasks.get(name), str(tmp_path))
    samples = task.samples()[:5]
    ours = {reply.id: reply.text for reply in HFModel(checkpoint).answer(samples)}  # type: ignore[union-attr]
    model = CalHF(pretrained=str(checkpoint), batch_size="auto")
    model.task_dict = {f"cal_{name}": {"test": {sample.id: {"pictures": sample.load_images} for sample in samples}}}
    said = model.generate_until(requests_for(samples, f"cal_{name}", dict(task.generation_settings)))
    assert [result.text for result in said] == [ours[sample.id] for sample in samples]


def test_tasks_that_are_none_of_ours_get_the_usual_bound(checkpoint: Path) -> None:
    model = CalHF(pretrained=str(checkpoint), batch_size=3)
    assert model.answering.batch_size == 3
    asked = ("Look: <image>\nWhat?", {"until": "stop"}, None, 7, "vstar", "test")
    sample = model._sample(0, Instance("generate_until", asked, 0, {"task": "vstar", "doc_id": 7, "repeats": 1}))
    assert (sample.prompt, sample.generation.max_new_tokens, sample.generation.until) == ("Look: What?", LONGEST, ("stop",))


def test_what_cannot_be_answered_is_an_error_and_no_empty_answer(checkpoint: Path, tmp_path: Path) -> None:
    rows = tasks_rows.rows("chartqa")
    rows[1]["image"]["bytes"] = rows[1]["image"]["bytes"][:40]
    tasks_rows.write(tmp_path, "chartqa", rows)
    samples = tasks.open_task(tasks.get("chartqa"), str(tmp_path)).samples()[:3]
    model = CalHF(pretrained=str(checkpoint))
    model.task_dict = {"cal_chartqa": {"test": {sample.id: {"pictures": sample.load_images} for sample in samples}}}
    with pytest.raises(UserError, match="cal_chartqa, sample 1: The picture"):
        model.generate_until(requests_for(samples, "cal_chartqa", {"max_new_tokens": 4, "until": ["\n"]}))
    with pytest.raises(UserError, match="expected original or checkpoint"):
        CalHF(pretrained=str(checkpoint), processing="other")  # type: ignore[arg-type]


def rewarded(folder: Path, checkpoint: Path) -> None:
    """Benchmark files of the miniature world; every other answer expected by two of them is the one that the model gives."""
    for name in NAMES:
        rows = bench_rows(name, 970_000_000, ROWS)
        tasks_rows.write(folder, name, rows)
        if name == "mmt":
            continue
        said = {reply.id: reply.text for reply in HFModel(checkpoint).answer(tasks.open_task(tasks.get(name), str(folder)).samples())}
        for number in range(0, ROWS, 2):
            rows[number] |= {"answer": said[number]} if name == "chartqa" else {"answers": [said[number]] * 10}
        tasks_rows.write(folder, name, rows)


@pytest.mark.slow
def test_lmms_eval_itself_gives_the_scores_of_eval(tmp_path: Path) -> None:
    """On a miniature checkpoint, from parquet files, without a connection; what it wrote is then imported."""
    checkpoint, data, yamls, out = (tmp_path / name for name in ("mini", "bench", "yamls", "lmms"))
    assemble(checkpoint)
    data.mkdir()
    yamls.mkdir()
    rewarded(data, checkpoint)
    lmms_evals_own(yamls, data)
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
    command = [sys.executable, "-m", "lmms_eval", "--model", "cal_hf", "--model_args", f"pretrained={checkpoint}"]
    command += ["--tasks", ",".join(tasks.get(name).lmms_task for name in NAMES), "--include_path", str(yamls)]
    command += ["--batch_size", "4", "--limit", str(ROWS), "--log_samples", "--output_path", str(out)]
    subprocess.run(command, check=True, cwd=tmp_path, env=os.environ | offline, capture_output=True)

    assert main(["eval", *NAMES, "--model", str(checkpoint), "--data", str(data), "--out", str(tmp_path / "run")]) == 0
    ours = read_results(tmp_path / "run")
    reported = json.loads(next(out.rglob("*_results.json")).read_text())["results"]
    for name in ("chartqa", "textvqa"):  # MMT-Bench's random guesses are lmms-eval's own
        metric = tasks.get(name).metric
        assert reported[tasks.get(name).lmms_task][f"{metric},none"] == pytest.approx(ours[name].metrics[metric])
        assert ours[name].score > 0
    assert main(["import", str(out), "--data", str(data), "--out", str(tmp_path / "imported")]) == 0
    for name in NAMES:
        answers = [
            {id: answer.text for id, answer in Run(folder, read_run(folder)).answered(name).items()}
            for folder in (tmp_path / "run", tmp_path / "imported")
        ]
        assert answers[0] == answers[1]
        assert len(set(answers[0].values())) > 1
