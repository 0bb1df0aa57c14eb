"""Answers that were cut off at the longest length allowed are known as such, counted, and told of."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cal_bench import models
from cal_bench.models import HFModel
from cal_bench.records import Answer, Identity, answer_from_json, answer_to_json
from cal_bench.runner import Evaluation, evaluate
from cal_bench.runs import Run
from cal_bench.scoring import result_line
from cal_bench.tasks.base import Generation
from tests.test_models import sample, save_llava
from tests.test_runner import ToyModel, ToyTask


class Writes:
    """In place of a model's weights: generates what it was told to, padded to one length."""

    def __init__(self, tokenizer: Any, texts: list[str]) -> None:
        self.tokenizer, self.texts = tokenizer, texts
        self.generation_config = SimpleNamespace(eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id)
        self.config, self.device, self.dtype = SimpleNamespace(model_type="of no family"), torch.device("cpu"), torch.float32

    def generate(self, input_ids: torch.Tensor, max_new_tokens: int, **unused: Any) -> torch.Tensor:
        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"][:max_new_tokens] for text in self.texts]
        longest = max(map(len, rows))
        padded = [row + [self.tokenizer.pad_token_id] * (longest - len(row)) for row in rows]
        return torch.cat([input_ids, torch.tensor(padded)], dim=1)


def cut_off(folder: Path, texts: list[str], until: tuple[str, ...] = ()) -> list[bool]:
    model = HFModel(folder, batch_size=len(texts))
    samples = [sample(number, generation=Generation(6, until)) for number in range(len(texts))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_weights", lambda *_: Writes(model.processor.tokenizer, texts))
        answers = {answer.id: answer for answer in model.answer(samples)}
    assert all(isinstance(answer, Answer) for answer in answers.values())
    return [answers[number].truncated for number in range(len(texts))]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_llava(folder)
    return folder


def test_what_fills_the_length_without_an_end_was_cut_off(llava: Path) -> None:
    assert cut_off(llava, ["abcdef", "abc</s>", "abcde</s>", "abcdefgh"]) == [True, False, False, True]


def test_what_ends_before_the_length_was_not(llava: Path) -> None:
    assert cut_off(llava, ["abc</s>", "a</s>"]) == [False, False]


def test_what_ends_with_a_stop_string_was_not(llava: Path) -> None:
    assert cut_off(llava, ["ab\n\ncd", "abcdef"], ("\n\n",)) == [False, True]


def test_it_is_on_disk_only_where_it_is_so() -> None:
    for truncated in (False, True):
        line = answer_to_json(Answer(1, "p", "a", 0.5, truncated))
        assert ("truncated" in line) == truncated
        assert answer_from_json(line).truncated == truncated


def test_it_is_counted_and_told_of(tmp_path: Path) -> None:
    class Hurried(ToyModel):
        def answer(self, samples: Any) -> Any:
            for reply in super().answer(samples):
                yield Answer(reply.id, reply.prompt, reply.text, reply.seconds, truncated=reply.id < 3)

    result = evaluate(Hurried(), ToyTask(), Run.open(tmp_path, Identity("m", "w"))).result
    assert result is not None
    assert result.truncated == 3
    assert "3 cut off" in result_line(Evaluation("toy", result))
