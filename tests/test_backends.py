"""`eval --backend lmms:NAME`: lmms-eval's model backends through our loop, with two made-up ones; and `eval --dry-run`."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models import MODEL_REGISTRY_V2
from lmms_eval.models.registry_v2 import ModelManifest

import cal_bench.tasks as tasks
from cal_bench.backends import Backend, LmmsModel, read_backend
from cal_bench.cli import main
from cal_bench.runs import read_results, read_run
from tests import tasks_rows
from tests.hub import use
from tests.test_cli import told
from tests.tiny import save_tiny


class Simple(lmms):
    """Reads requests as lmms-eval's adapters do: the row of the data, its pictures, the settings."""

    is_simple = True
    started: ClassVar[list["Simple"]] = []

    def __init__(self, pretrained: str = "", word: str = "40", batch_size: int = 1, broken: bool = False, api_key: str = "") -> None:
        super().__init__()
        if broken:
            raise ImportError(f"No module named 'engine' {api_key}")
        self.word, self.batch_size, self.calls = word, batch_size, []
        self.seen: list[tuple[str, tuple[int, ...], int]] = []
        self.started.append(self)

    def generate_until(self, requests: list[Any]) -> list[Any]:
        self.calls.append(len(requests))
        return [self._one(*request.args) for request in requests]

    def _one(self, prompt: str, settings: dict[str, Any], pictures_of: Any, id: int, task: str, split: str) -> Any:
        pictures = pictures_of(self.task_dict[task][split][id])
        self.seen.append((prompt, pictures[0].size, settings["max_new_tokens"]))
        assert settings["do_sample"] is False
        return f" {self.word}{settings['until'][0]} and more"

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Any]) -> list[Any]:
        raise NotImplementedError


class Chat(Simple):
    """The other kind of backend, which is shown messages and tells how many tokens it wrote."""

    is_simple = False

    def _one(self, prompt: str, messages_of: Any, settings: dict[str, Any], id: int, task: str, split: str) -> Any:
        (message,) = messages_of(self.task_dict[task][split][id])
        kinds = [part["type"] for part in message["content"]]
        assert (message["role"], kinds) == ("user", ["image", "text"])
        self.seen.append((message["content"][1]["text"], message["content"][0]["url"].size, settings["max_new_tokens"]))
        return GenerationResult(str(self.word), TokenCounts(output_tokens=settings["max_new_tokens"] - (id == 0)))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both under names of their own, in lmms-eval's list of backends."""
    monkeypatch.setattr(Simple, "started", [])
    for name in ("_manifests", "_alias_to_model_id"):
        monkeypatch.setattr(MODEL_REGISTRY_V2, name, dict(getattr(MODEL_REGISTRY_V2, name)))
    MODEL_REGISTRY_V2.register_manifest(ModelManifest("dummy_simple", simple_class_path=f"{__name__}.Simple"))
    MODEL_REGISTRY_V2.register_manifest(ModelManifest("dummy_chat", chat_class_path=f"{__name__}.Chat"))


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    (tmp_path / "bench").mkdir()
    for name in ("chartqa", "pope"):
        tasks_rows.write(tmp_path / "bench", name)
    return tmp_path / "bench"


def evaluate(folder: Path, *arguments: str, names: tuple[str, ...] = ("chartqa",)) -> int:
    return main(["eval", *names, "--data", str(folder / "bench"), "--out", str(folder / "run"), *arguments])


@pytest.mark.parametrize("kind", ["simple", "chat"])
def test_a_backend_is_asked_what_a_checkpoint_is_asked(kind: str, tmp_path: Path, bench: Path) -> None:
    backend = ("--backend", f"lmms:dummy_{kind}", "--model-args", "word=40", "--batch-size", "5")
    assert evaluate(tmp_path, *backend, names=("chartqa", "pope")) == 0
    (started,) = Simple.started
    assert started.batch_size == 5
    assert started.calls == [5, 5, 2, 5, 5, 2]
    asked = [(s.prompt, s.load_images()[0].size, 16) for s in tasks.open_task(tasks.get("chartqa"), str(bench)).samples()]
    assert started.seen[:12] == asked
    results = read_results(tmp_path / "run")
    assert results["chartqa"].score == pytest.approx(100 / 12)  # 40 is right once
    assert results["pope"].unreadable == 12
    answers = [json.loads(line) for line in (tmp_path / "run" / "chartqa.jsonl").read_text().splitlines()]
    assert {answer["answer"] for answer in answers} == {"40"}
    assert results["chartqa"].truncated == (9 if kind == "chat" else 0)


def test_a_finished_run_starts_nothing_and_a_broken_one_goes_on(tmp_path: Path, bench: Path) -> None:
    backend = ("--backend", "lmms:dummy_simple")
    assert evaluate(tmp_path, *backend) == 0
    assert evaluate(tmp_path, *backend) == 0
    assert len(Simple.started) == 1
    path = tmp_path / "run" / "chartqa.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:9]))
    (tmp_path / "run" / "chartqa.json").unlink()
    assert evaluate(tmp_path, *backend) == 0
    assert Simple.started[1].calls == [3]


def test_a_picture_that_cannot_be_read_is_not_shown_to_a_backend(tmp_path: Path, bench: Path) -> None:
    rows = tasks_rows.rows("chartqa")
    rows[3]["image"]["bytes"] = rows[3]["image"]["bytes"][:40]
    tasks_rows.write(bench, "chartqa", rows)
    assert evaluate(tmp_path, "--backend", "lmms:dummy_simple") == 1
    assert Simple.started[0].calls == [11]
    assert list(read_run(tmp_path / "run").benchmarks["chartqa"].unanswered) == [3]


def test_a_failure_in_place_of_an_answer_is_none(tmp_path: Path, bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = "[LMMS_EVAL_REQUEST_FAILED after 5 retries] Connection error."
    said = [failed, GenerationResult(None), *["D"] * 10]  # type: ignore[arg-type]
    monkeypatch.setattr(Simple, "generate_until", lambda self, requests: said[: len(requests)])
    assert evaluate(tmp_path, "--backend", "lmms:dummy_simple") == 1
    unanswered = read_run(tmp_path / "run").benchmarks["chartqa"].unanswered
    assert unanswered == {0: failed, 1: "the backend gave None in place of an answer"}
    assert len((tmp_path / "run" / "chartqa.jsonl").read_text().splitlines()) == 10


def test_answers_belong_to_name_and_arguments(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tmp_path, "--backend", "lmms:dummy_simple", "--model-args", "pretrained=lab/a,word=7") == 0
    assert evaluate(tmp_path, "--backend", "lmms:dummy_simple", "--model-args", "word=7,pretrained=lab/a") == 0
    assert evaluate(tmp_path, "--backend", "lmms:dummy_simple", "--model-args", "pretrained=lab/b,word=7") == 2
    assert "holds answers of other weights" in capsys.readouterr().err


def test_a_local_checkpoint_is_known_by_its_weights_wherever_it_lies(tmp_path: Path) -> None:
    save_tiny(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    here = read_backend("lmms:dummy_simple", f"pretrained={tmp_path / 'b'},word=7").identity()
    save_tiny(tmp_path / "a")
    there = read_backend("lmms:dummy_simple", f"word=7,pretrained={tmp_path / 'a'}").identity()
    assert (here.weights, here.processor) == (there.weights, there.processor)
    assert here.model != there.model
    assert here.processor.startswith("lmms:dummy_simple word=7 ")


def test_secrets_are_neither_kept_nor_shown(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "api_key=sk-1234,word=http://me:sk-1234@host/v1"
    assert evaluate(tmp_path, "--backend", "lmms:dummy_simple", "--model-args", arguments) == 0
    assert evaluate(tmp_path, "--backend", "lmms:dummy_simple", "--model-args", f"{arguments},broken=True") == 2
    assert evaluate(tmp_path, "--backend", "lmms:dummy_simple", "--model-args", f"{arguments},nonsense") == 2
    kept = "".join(path.read_text() for path in (tmp_path / "run").glob("run.json"))
    assert "api_key=…" in kept
    captured = capsys.readouterr()
    assert "sk-1234" not in kept + captured.out + captured.err


def test_a_count_of_tokens_is_no_secret() -> None:
    kept = Backend("vllm", {"model": "llava-1.5", "max_new_tokens": 1, "hf_token": "t-9"}).shown()
    assert kept == "lmms:vllm hf_token=…,max_new_tokens=1,model=llava-1.5"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "vllm"], "There is no backend 'vllm'. Expected lmms:NAME"),
        (["--backend", "lmms:dumy_simple"], "no model backend 'dumy_simple'. Did you mean 'dummy_simple'?"),
        (
            ["--backend", "lmms:dummy_simple", "--model-args", "word"],
            "--model-args: expected name=value,name=value",
        ),
        (["--backend", "lmms:dummy_simple", "--model-args", "wrod=7"], "unexpected keyword argument 'wrod'"),
        (["--backend", "lmms:dummy_simple", "--model-args", "broken=True"], "ImportError: No module named 'engine'"),
        (["--backend", "lmms:dummy_simple", "--model", "x"], "Leave --model out"),
        (["--model", "x", "--model-args", "word=7"], "give --backend lmms:NAME too"),
        ([], "the following arguments are required: --model, or --backend"),
    ],
)
def test_a_wrong_backend_is_told(
    arguments: list[str], message: str, tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_backend_that_loses_answers_is_refused(tmp_path: Path, bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Simple, "generate_until", lambda self, requests: ["x"])
    model = LmmsModel(read_backend("lmms:dummy_simple", ""))
    with pytest.raises(Exception, match="gave 1 answers to 12 samples"):
        list(model.answer(tasks.open_task(tasks.get("chartqa"), str(bench)).samples()))


# --dry-run


def test_a_dry_run_says_what_would_be_asked_and_touches_nothing(tmp_path: Path, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save_tiny(tmp_path / "ckpt")
    arguments = ("--model", str(checkpoint), "--dry-run")
    assert evaluate(tmp_path, *arguments, names=("chartqa", "pope")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"Model    {checkpoint}", f"Answers  {tmp_path / 'run'} (new)"]
    assert lines[4].startswith("chartqa         12    12  at most 16 tokens, up to '\\n\\n'")
    assert f"{bench}, fingerprint " in lines[4]
    assert not (tmp_path / "run").exists()

    assert evaluate(tmp_path, "--model", str(checkpoint), "--limit", "4") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    capsys.readouterr()
    assert evaluate(tmp_path, *arguments, "--limit", "4", names=("chartqa", "pope")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("(goes on)")
    assert [line.split()[:3] for line in lines[4:]] == [["chartqa", "4", "0"], ["pope", "4", "4"]]
    assert evaluate(tmp_path, *arguments) == 2
    assert "were given with a limit of 4, this command has no limit" in capsys.readouterr().err
    assert evaluate(tmp_path, "--backend", "lmms:dummy_simple", "--dry-run", "--limit", "4") == 2
    assert "holds answers of other weights" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert Simple.started == []


def test_a_dry_run_names_what_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use("http://127.0.0.1:1", tmp_path / "cache", monkeypatch)
    monkeypatch.setenv("PATH", "")
    arguments = ["eval", "textcaps", "--out", str(tmp_path / "run"), "--dry-run"]
    assert main([*arguments, "--backend", "lmms:dummy_simple", "--limit", "50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("Java     not found: textcaps only approximately. To get it, type: ")
    assert lines[-1].split()[:3] == ["textcaps", "50", "?"]
    assert lines[-1].endswith("split val: not here yet, cal-bench fetch textcaps")
    assert "Type: cal-bench fetch --models lab/llava" in told(capsys, [*arguments, "--model", "lab/llava"])
    (tmp_path / "run").write_text("")
    assert "run is a file. Give a folder with --out" in told(capsys, [*arguments, "--backend", "lmms:dummy_simple"])
