"""Beginnings that prompts share are read once, and what is read after them is what it would have been."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cal_bench.inputs import Pictures, Reader
from cal_bench.models import HFModel
from cal_bench.prefixes import Prefixes
from cal_bench.tasks.base import Sample
from tests.test_batches import ALL, SHORT, picture, sample, systems, texts

__all__ = ["systems"]  # a fixture
ABOUT_TWO = [sample(number, shows=number % 2, words=2 + 3 * number) for number in range(6)]


def read(model: HFModel, samples: list[Sample], possible: bool = True) -> tuple[Any, Any, Pictures]:
    """The loaded model, its prompts as `generate` takes them, and the pictures."""
    loaded = model._model
    prefixes = Prefixes(loaded)
    prefixes.possible = prefixes.possible and possible
    inputs = Reader(model.processor, loaded.config.model_type).read(samples)
    assert inputs.pictures is not None
    return loaded, prefixes.read(dict(inputs.tensors), inputs.pictures), inputs.pictures


def next_logits(model: Any, given: dict[str, Any]) -> torch.Tensor:
    """[B, V]: of the first word of each answer."""
    positions = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
    begun = given["past_key_values"].get_seq_length() if "past_key_values" in given else 0
    rest = {"input_ids": given["input_ids"][:, begun:], "position_ids": positions[:, begun:]}
    return model(**given | rest, logits_to_keep=1).logits[:, -1]


@pytest.mark.parametrize("name", list(ALL))
def test_behind_a_shared_beginning_words_are_as_likely_as_behind_a_whole_prompt(name: str, systems: Callable[[str], Path]) -> None:
    model = HFModel(systems(name), device="cpu")
    texts(model, ABOUT_TWO[:1])
    with torch.inference_mode():
        loaded, shared, _ = read(model, ABOUT_TWO)
        _, whole, _ = read(model, ABOUT_TWO, possible=False)
        assert "past_key_values" in shared
        assert "past_key_values" not in whole
        torch.testing.assert_close(next_logits(loaded, shared), next_logits(loaded, whole), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(ALL))
def test_a_shared_beginning_is_read_once(name: str, systems: Callable[[str], Path]) -> None:
    model = HFModel(systems(name), device="cpu")
    texts(model, ABOUT_TWO[:1])
    rows: list[int] = []
    model._model.model.language_model.register_forward_pre_hook(
        lambda module, args, given: rows.append(len(given["inputs_embeds"])), with_kwargs=True
    )
    texts(model, ABOUT_TWO)
    assert rows[:2] == [2, 6]


def test_pictures_in_another_order_are_another_beginning(systems: Callable[[str], Path]) -> None:
    def pair(number: int, first: int) -> Sample:
        return Sample(number, "What is it ?", lambda: [picture(first), picture(5 - first)], SHORT, f"hash-{number}", None)

    asked = [
        pair(0, 0),
        pair(1, 5),
        pair(2, 0),
        Sample(3, "What ?", list, SHORT, "hash-3", None),
        Sample(4, "A sign", list, SHORT, "hash-4", None),
    ]
    model = HFModel(systems("llava-1.5"), device="cpu")
    single = texts(HFModel(systems("llava-1.5"), 1, "cpu"), asked)
    assert texts(model, asked) == single
    with torch.inference_mode():
        _, given, pictures = read(model, asked)
    assert pictures.shown == [(0, 1), (1, 0), (0, 1), (), ()]
    beginnings = given["past_key_values"].get_seq_length()
    assert given["input_ids"].shape[1] > beginnings
    # Two different pairs of pictures, and the first token of both texts.
    assert (given["attention_mask"][:, :beginnings].sum(1) == torch.tensor([beginnings, beginnings, beginnings, 1, 1])).all()


def test_no_beginning_is_kept_where_none_is_shared_or_a_window_counts_places(systems: Callable[[str], Path]) -> None:
    model = HFModel(systems("llava-1.5"), device="cpu")
    texts(model, ABOUT_TWO[:1])
    _, alone, _ = read(model, ABOUT_TWO[:2])
    assert "past_key_values" not in alone
    model._model.config.text_config.sliding_window = 64
    model._model.config.text_config.layer_types = ["sliding_attention"] * model._model.config.text_config.num_hidden_layers
    _, windowed, _ = read(model, ABOUT_TWO)
    assert "past_key_values" not in windowed


def test_a_prompt_that_ends_with_its_picture_keeps_a_token_to_go_on_from(systems: Callable[[str], Path]) -> None:
    model = HFModel(systems("llava-1.5"), device="cpu")
    texts(model, ABOUT_TWO[:1])
    image = model._model.config.image_token_id
    cut = Prefixes(model._model)._after_pictures
    assert [cut([1, image, image]), cut([1, image, 5]), cut([1, 5, 6])] == [2, 2, 1]
