import subprocess
import sys
from dataclasses import dataclass, replace

import pytest

from cal_bench.errors import UserError
from cal_bench.models import EchoModel
from cal_bench.records import Answer, Identity, Unanswered
from cal_bench.runner import evaluate
from cal_bench.runs import Run, read_run
from cal_bench.tasks.base import Generation, Sample, Scores

IDENTITY = Identity("models/a", "weights-of-a")


@dataclass(frozen=True)
class ToyBenchmark:
    name: str = "toy"
    column: str = "TOY"
    unit: str = "%"
    decimals: int = 1


@dataclass(frozen=True)
class ToyTask:
    """Ten questions; an answer is right when it holds the number of its question."""

    data_fingerprint: str = "d1"
    suffix: str = ""
    max_new_tokens: int = 8
    split: str = "test"
    benchmark: ToyBenchmark = ToyBenchmark()

    def samples(self, limit=None):
        made = [
            Sample(number, f"Say {number}{self.suffix}", list, Generation(self.max_new_tokens, ()), f"hash-{number}{self.suffix}", None)
            for number in range(10)
        ]
        return made if limit is None else made[::-1][:limit]

    def score(self, answers):
        scores = {number: float(str(number) in text) for number, text in sorted(answers.items())}
        mean = sum(scores.values()) / len(scores)
        empty = sum(not text for text in answers.values())
        return Scores(100 * mean, {"accuracy": mean, "undefined": float("nan")}, scores, unreadable=0, empty=empty)


class Interrupted(Exception):
    pass


class ToyModel:
    """Answers evens rightly, from the last sample to the first; stops after `budget` answers, as if it were killed."""

    def __init__(self, budget=None, torn=()):
        self.budget = budget
        self.torn = torn
        self.asked = []

    def answer(self, samples):
        for sample in samples[::-1]:
            if len(self.asked) == self.budget:
                raise Interrupted
            self.asked.append(sample.id)
            if sample.id in self.torn:
                yield Unanswered(sample.id, f"picture {sample.id} cannot be decoded")
            else:
                yield Answer(sample.id, sample.prompt_hash, str(sample.id) if sample.id % 2 == 0 else "", seconds=len(self.asked) / 7)


def run_in(folder):
    return Run.open(folder, IDENTITY)


def test_a_whole_run(tmp_path):
    done = evaluate(ToyModel(), ToyTask(), run_in(tmp_path))
    assert done.complete
    result = done.result
    assert (result.score, result.n, result.limit, result.empty) == (50.0, 10, None, 5)
    assert result.metrics == {"accuracy": 0.5, "undefined": None}
    assert result.samples == tuple((number, float(number % 2 == 0)) for number in range(10))
    assert (result.benchmark, result.column, result.unit, result.decimals, result.data_fingerprint) == ("toy", "TOY", "%", 1, "d1")
    assert run_in(tmp_path).result("toy") == result


@pytest.mark.parametrize("budget", [0, 1, 6, 9])
def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(tmp_path, budget):
    evaluate(ToyModel(), ToyTask(), run_in(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        evaluate(ToyModel(budget), ToyTask(), run_in(tmp_path / "cut"))
    assert not (tmp_path / "cut" / "toy.json").exists()
    answers = tmp_path / "cut" / "toy.jsonl"
    answers.write_bytes(answers.read_bytes()[:-3])
    rest = ToyModel()
    evaluate(rest, ToyTask(), run_in(tmp_path / "cut"))
    assert len(rest.asked) == 10 - max(budget - 1, 0)
    for name in ("toy.json", "run.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_killed_between_the_last_answer_and_the_summary(tmp_path, monkeypatch):
    evaluate(ToyModel(), ToyTask(), run_in(tmp_path / "whole"))
    with monkeypatch.context() as patched:
        patched.setattr(ToyTask, "score", lambda self, answers: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            evaluate(ToyModel(), ToyTask(), run_in(tmp_path / "cut"))
    again = ToyModel()
    evaluate(again, ToyTask(), run_in(tmp_path / "cut"))
    assert again.asked == []
    assert (tmp_path / "cut" / "toy.json").read_bytes() == (tmp_path / "whole" / "toy.json").read_bytes()


def test_killed_between_the_summary_and_the_record(tmp_path, monkeypatch):
    evaluate(ToyModel(), ToyTask(), run_in(tmp_path / "whole"))
    with monkeypatch.context() as patched:
        patched.setattr(Run, "close", lambda self, benchmark: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            evaluate(ToyModel(), ToyTask(), run_in(tmp_path / "cut"))
    evaluate(ToyModel(), ToyTask(), run_in(tmp_path / "cut"))
    for name in ("toy.json", "run.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_killed_for_real_it_goes_on(tmp_path):
    evaluate(ToyModel(), ToyTask(), run_in(tmp_path / "whole"))
    code = (
        "import os, sys\n"
        "from tests.test_runner import ToyModel, ToyTask, evaluate, run_in\n"
        "class Killed(ToyModel):\n"
        "    def answer(self, samples):\n"
        "        for count, reply in enumerate(super().answer(samples)):\n"
        "            if count == 4: os.kill(os.getpid(), 9)\n"
        "            yield reply\n"
        "evaluate(Killed(), ToyTask(), run_in(sys.argv[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "cut")], check=False).returncode == -9
    rest = ToyModel()
    evaluate(rest, ToyTask(), run_in(tmp_path / "cut"))
    assert len(rest.asked) == 6
    assert (tmp_path / "cut" / "toy.json").read_bytes() == (tmp_path / "whole" / "toy.json").read_bytes()


def test_a_complete_benchmark_is_not_run_again(tmp_path):
    first = evaluate(ToyModel(), ToyTask(), run_in(tmp_path))
    before = (tmp_path / "toy.json").stat().st_mtime_ns
    again = ToyModel()
    assert evaluate(again, ToyTask(), run_in(tmp_path)) == first
    assert again.asked == []
    assert (tmp_path / "toy.json").stat().st_mtime_ns == before


def test_one_bad_sample_is_named_the_others_go_on_and_there_is_no_summary(tmp_path):
    done = evaluate(ToyModel(torn=(3, 4)), ToyTask(), run_in(tmp_path))
    assert not done.complete
    assert done.result is None
    assert done.unanswered == {3: "picture 3 cannot be decoded", 4: "picture 4 cannot be decoded"}
    assert not (tmp_path / "toy.json").exists()
    assert len(run_in(tmp_path).answered("toy")) == 8
    assert list(read_run(tmp_path).benchmarks["toy"].unanswered) == [3, 4]


def test_once_the_bad_sample_can_be_read_only_it_is_asked(tmp_path):
    evaluate(ToyModel(torn=(3,)), ToyTask(), run_in(tmp_path))
    rest = ToyModel()
    assert evaluate(rest, ToyTask(), run_in(tmp_path)).complete
    assert rest.asked == [3]
    assert read_run(tmp_path).benchmarks["toy"].unanswered == {}


def test_a_limited_run_scores_the_samples_it_asked(tmp_path):
    result = evaluate(ToyModel(), ToyTask(), run_in(tmp_path), limit=3).result
    assert (result.n, result.limit) == (3, 3)
    assert [number for number, _ in result.samples] == [7, 8, 9]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data_fingerprint": "d2"}, "other data"),
        ({"suffix": " please"}, "other prompts"),
        ({"max_new_tokens": 9}, r"other generation settings \(8 tokens, until \[\], now 9 tokens"),
    ],
)
def test_a_changed_benchmark_is_refused_before_anything_is_asked(tmp_path, change, words):
    evaluate(ToyModel(), ToyTask(), run_in(tmp_path))
    model = ToyModel()
    with pytest.raises(UserError, match=words):
        evaluate(model, replace(ToyTask(), **change), run_in(tmp_path))
    assert model.asked == []


def test_another_limit_is_refused(tmp_path):
    evaluate(ToyModel(), ToyTask(), run_in(tmp_path), limit=3)
    with pytest.raises(UserError, match="were given with a limit of 3, this command has no limit"):
        evaluate(ToyModel(), ToyTask(), run_in(tmp_path))


def test_the_echo_model_runs(tmp_path):
    assert evaluate(EchoModel(), ToyTask(), run_in(tmp_path)).result.score == 100.0


def test_records_runs_and_tables_import_nothing_heavy():
    heavy = ("torch", "transformers", "lmms_eval", "datasets", "numpy")
    modules = "cal_bench.records, cal_bench.runs, cal_bench.tables, cal_bench.published"
    code = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
