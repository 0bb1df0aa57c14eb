"""What lmms-eval wrote becomes a run: on output that lmms-eval itself made, and on what can be wrong with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.loggers import EvaluationTracker

import cal_bench.tasks as tasks
from cal_bench.cli import main
from cal_bench.errors import UserError
from cal_bench.lmms_import import find_output, import_output
from cal_bench.runs import Run, read_results, read_run
from cal_bench.tasks.lmms import included_task
from tests import tasks_rows
from tests.test_cli import told
from tests.test_tasks_contract import Answering, lmms_evals_own

NAMES = ("chartqa", "mmt", "refcocog_val", "seed_img", "textvqa")
UNREAD = 3  # answers of MMT-Bench that lmms-eval draws at random


def run_lmms_eval(data: Path, out: Path, answers: dict[str, dict[int, str]], limit: int | None = None) -> Path:
    """Run lmms-eval and have it write what `lmms-eval --log_samples --output_path` writes; the folder of the files."""
    model = Answering({tasks.get(name).lmms_task: given for name, given in answers.items()})
    yamls = out.parent / f"{out.name}_yamls"
    yamls.mkdir()
    tracker = EvaluationTracker(output_path=str(out))
    tracker.general_config_tracker.log_experiment_args("sayer", "pretrained=/models/my/ckpt,api_key=sk-1", "", "", False)
    results = simple_evaluate(
        model=model,
        tasks=list(model.answers),
        task_manager=lmms_evals_own(yamls, data),
        batch_size=1,
        bootstrap_iters=0,
        log_samples=True,
        limit=limit,
    )
    assert results is not None
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples, datetime_str="20261121_120000")
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    return out / "my__ckpt"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The data, the answers, and lmms-eval's output for them."""
    folder = tmp_path_factory.mktemp("lmms")
    data = tasks_rows.write_all(folder)
    rows = tasks_rows.rows("seed")
    rows[4]["data_type"] = "video"
    tasks_rows.write(data, "seed", rows)
    answers = {name: tasks_rows.mixed_answers(name, list(range(18))) for name in NAMES}
    answers["mmt"] = {id: "maybe" if id < UNREAD else "A" for id in range(12)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return data, answers, run_lmms_eval(data, folder / "out", answers)


@pytest.fixture
def copied(made: Any, tmp_path: Path) -> Path:
    """A copy of the output, to be spoilt."""
    return Path(shutil.copytree(made[2], tmp_path / "out"))


def samples_file(output: Path, name: str) -> Path:
    return next(output.glob(f"*_samples_{tasks.get(name).lmms_task}.jsonl"))


def rewrite(path: Path, change: Any) -> None:
    """Every line of a samples file as `change` has it; None leaves it out."""
    lines = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line is not None))


def test_the_answers_come_as_they_were_given_and_are_scored(made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, answers, output = made
    assert main(["import", str(output.parent), "--data", str(data), "--out", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert {line.split()[0] for line in captured.out.splitlines()} == set(NAMES)
    reported = json.loads(next(output.glob("*_results.json")).read_text())["results"]
    results = read_results(tmp_path / "run")
    for name in ("chartqa", "refcocog_val", "seed_img", "textvqa"):
        benchmark = tasks.get(name)
        theirs = reported[benchmark.lmms_task][f"{benchmark.metric},none"]
        if name != "seed_img":
            assert results[name].score == pytest.approx(theirs * benchmark.scale)
        kept = Run.open(tmp_path / "run", read_run(tmp_path / "run").identity).answered(name)
        assert {id: answer.text for id, answer in kept.items()} == {id: answers[name][id] for id in kept}
    assert results["seed_img"].n == 11
    assert "sk-1" not in (tmp_path / "run" / "run.json").read_text()


def test_a_number_that_lmms_eval_reports_otherwise_is_told(made: Any, tmp_path: Path) -> None:
    """It draws an answer that it cannot read; our draw is another."""
    data, _, output = made
    found = {imported.result.benchmark: imported for imported in import_output(find_output(output), str(data), tmp_path / "run")}
    theirs = json.loads(next(output.glob("*_results.json")).read_text())["results"]["cal_mmt"]["accuracy,none"]
    ours = found["mmt"].result
    assert ours.unreadable == UNREAD
    assert found["mmt"].differences == ((("accuracy", theirs, ours.score),) if theirs != ours.score else ())
    assert not found["chartqa"].differences
    assert not found["textvqa"].differences


def test_the_imported_run_feeds_table(made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, _, output = made
    import_output(find_output(output), str(data), tmp_path / "run")
    assert main(["table", str(tmp_path / "run")]) == 0
    assert "VQA-Chart" in capsys.readouterr().out


def test_the_first_rows_alone_are_a_limited_run(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = run_lmms_eval(made[0], tmp_path / "few", {"chartqa": made[1]["chartqa"]}, limit=5)
    [imported] = import_output(find_output(output), str(made[0]), tmp_path / "run")
    assert [id for id, _ in imported.result.samples] == [0, 1, 2, 3, 4]
    assert imported.result.limit == 5
    assert main(["rescore", str(tmp_path / "run")]) == 0


def test_lmms_evals_own_names_are_known() -> None:
    names = {benchmark.name: included_task(benchmark) for benchmark in tasks.BENCHMARKS}
    assert names["docvqa"] == "docvqa_val"
    assert names["seed_img"] == "seedbench"
    assert names["textvqa_ocr"] == names["textvqa"] == "textvqa_val"
    assert len(set(names.values())) == len(names) - 1


def test_a_task_under_lmms_evals_own_name_is_the_benchmark(made: Any, copied: Path, tmp_path: Path) -> None:
    results = next(copied.glob("*_results.json"))
    results.write_text(results.read_text().replace("cal_textvqa", "textvqa_val").replace("cal_mmt", "mathvista"))
    path = samples_file(copied, "textvqa")
    path.rename(path.with_name(path.name.replace("cal_textvqa", "textvqa_val")))
    output = find_output(results)
    assert output.benchmarks["textvqa_val"].name == "textvqa"
    assert output.unknown == ("mathvista",)
    assert "textvqa" in {imported.result.benchmark for imported in import_output(output, str(made[0]), tmp_path / "run")}


# What can be wrong.


def refusal(made: Any, output: Path, folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        import_output(find_output(output), str(made[0]), folder / "run")
    assert not (folder / "run").exists()
    return str(refused.value)


def test_answers_to_another_prompt_are_refused(made: Any, copied: Path, tmp_path: Path) -> None:
    rewrite(samples_file(copied, "chartqa"), lambda line: {**line, "input": line["input"].replace("single word", "number")})
    message = refusal(made, copied, tmp_path)
    assert "sample 0 was asked\n  'How many in 0?\\nAnswer the question with a number.'\nand here it is\n  'How many in 0?" in message


def test_answers_with_other_settings_are_refused(made: Any, copied: Path, tmp_path: Path) -> None:
    results = next(copied.glob("*_results.json"))
    raw = json.loads(results.read_text())
    raw["configs"]["cal_chartqa"]["generation_kwargs"]["max_new_tokens"] = 512
    results.write_text(json.dumps(raw))
    assert "was answered with max_new_tokens 512, the benchmark has 16" in refusal(made, copied, tmp_path)


def test_answers_to_rows_that_are_not_there_are_refused(made: Any, copied: Path, tmp_path: Path) -> None:
    rewrite(samples_file(copied, "chartqa"), lambda line: {**line, "doc_id": line["doc_id"] + 1})
    assert "has an answer to sample 12, which the data does not hold" in refusal(made, copied, tmp_path)


def test_two_answers_to_a_sample_are_refused(made: Any, copied: Path, tmp_path: Path) -> None:
    path = samples_file(copied, "chartqa")
    path.write_text(path.read_text() + path.read_text().replace('"filtered_resps": "', '"filtered_resps": "x'))
    assert "line 13: sample 0 has another answer already" in refusal(made, copied, tmp_path)


def test_a_torn_line_is_named(made: Any, copied: Path, tmp_path: Path) -> None:
    path = samples_file(copied, "chartqa")
    path.write_text(path.read_text()[:-30])
    assert "line 12 is not a sample of lmms-eval" in refusal(made, copied, tmp_path)


def test_a_request_that_failed_is_no_answer(made: Any, copied: Path, tmp_path: Path) -> None:
    path = samples_file(copied, "chartqa")
    path.write_text(path.read_text().replace('"filtered_resps": "', '"filtered_resps": "[LMMS_EVAL_BUDGET_EXCEEDED] '))
    assert "line 1 is not a sample of lmms-eval (ValueError('[LMMS_EVAL_BUDGET_EXCEEDED]" in refusal(made, copied, tmp_path)


def test_without_samples_it_says_how_to_get_them(copied: Path) -> None:
    samples_file(copied, "chartqa").unlink()
    with pytest.raises(UserError, match="Run lmms-eval with --log_samples"):
        find_output(copied)


def test_two_runs_in_a_folder_are_listed(copied: Path) -> None:
    shutil.copy(next(copied.glob("*_results.json")), copied / "20261122_120000_results.json")
    with pytest.raises(UserError, match=r"holds 2 runs of lmms-eval\. Give the results file of one:\n  .*20261121.*\n  .*20261122"):
        find_output(copied)


@pytest.mark.parametrize(("text", "message"), [('{"results', "is not whole JSON"), ("[]", "is no record"), ("{}", "lacks 'results'")])
def test_a_results_file_that_is_none_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "1_results.json").write_text(text)
    with pytest.raises(UserError, match=message):
        find_output(tmp_path)


def test_only_unknown_tasks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "1_results.json").write_text('{"results": {"gqa": {}}, "configs": {"gqa": {}}}')
    with pytest.raises(UserError, match=r"holds gqa, none of which is a benchmark here\. They are ocrbench, docvqa"):
        find_output(tmp_path)


def test_a_wrong_folder_is_a_wrong_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no output of lmms-eval at" in told(capsys, ["import", str(tmp_path)])
