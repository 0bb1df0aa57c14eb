"""Contrasts that take part of the picture away: against the model's own forward on a changed picture, and in their limits."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import cal_bench.trainer_plugin as cal
from cal_bench.trainer_plugin import CALConfig, CALError
from cal_bench.trainer_plugin.loss import measure
from cal_bench.trainer_plugin.pictures import GRID, blurred, random_pieces, with_less
from tests.test_cal_model import batch
from tests.tiny import assert_same_gradients, tiny_model
from tests.tiny_mgm import tiny_batch, tiny_mgm
from tests.vlm_zoo import BY_NAME

MASKED, BLURRED = CALConfig(contrast="patch_mask"), CALConfig(contrast="blur", sigma=2.0)
CONTRASTS = pytest.mark.parametrize("config", [MASKED, BLURRED], ids=["patch_mask", "blur"])


def llava() -> tuple[Any, dict[str, Tensor]]:
    return tiny_model(), batch(2, 1)


def mgm(hd: bool) -> tuple[Any, dict[str, Tensor]]:
    inputs = tiny_batch(hd)
    return tiny_mgm(hd), inputs | {"labels": inputs["input_ids"].clone()}


def llava_next() -> tuple[Any, dict[str, Tensor]]:
    return BY_NAME["llava_next"].model(), BY_NAME["llava_next"].batch()


SYSTEMS = {"llava": llava, "llava-next": llava_next, "mgm": lambda: mgm(False), "mgm-hd": lambda: mgm(True)}


@CONTRASTS
@pytest.mark.parametrize("system", SYSTEMS)
def test_deltas_are_those_of_the_models_own_forward_on_the_changed_picture(system: str, config: CALConfig) -> None:
    model, inputs = SYSTEMS[system]()
    model.eval()
    found = measure(model, inputs, config)
    changed = with_less(inputs, config)
    assert not changed["pixel_values"].equal(inputs["pixel_values"])
    labels = inputs["labels"].masked_fill(inputs["input_ids"] == model.config.image_token_id, -100)[:, 1:]
    targets = labels.clamp(min=0)[..., None]
    with torch.no_grad():
        seeing, less = (model(**given | {"labels": None}).logits[:, :-1].gather(2, targets)[..., 0] for given in (inputs, changed))
    expected = (seeing - less)[labels != -100]
    expected[~found.tokens.seeing] = 0  # a row without a picture has no contrast
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found.delta, expected, rtol=1e-4, atol=1e-4)


@CONTRASTS
@pytest.mark.parametrize("pack", [False, True])
def test_equal_bounds_and_packing_change_nothing(config: CALConfig, pack: bool) -> None:
    inputs, losses, gradients = batch(2, 1), [], []
    for chosen in (replace(config, alpha=1.0, beta=1.0, pack=pack), None):
        model = tiny_model().train()
        if chosen:
            cal.apply(model, chosen)
        loss = model(**inputs).loss
        loss.backward()
        losses.append(loss)
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None})
    torch.testing.assert_close(losses[0], losses[1])
    assert_same_gradients(*gradients, relative=1e-5)


def test_dropout_takes_the_same_from_both_readings() -> None:
    model, inputs = tiny_model(dropout=0.5).train(), batch(2)
    as_sharp = replace(BLURRED, sigma=0.05)  # less than a pixel: the same picture
    assert measure(model, inputs, as_sharp).delta.abs().max() < 1e-4
    assert measure(model, inputs, BLURRED).delta.abs().max() > 0.01


@CONTRASTS
def test_the_random_stream_is_left_as_it_was(config: CALConfig) -> None:
    model, inputs = tiny_model().train(), batch(2)
    cal.apply(model, config)
    torch.manual_seed(5)
    first, after = model(**inputs).loss, torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1).equal(after)
    torch.manual_seed(5)
    assert model(**inputs).loss.equal(first)


def test_a_picture_that_loses_nothing_has_no_debt() -> None:
    model, inputs = tiny_model().eval(), batch(2)
    assert measure(model, inputs, CALConfig(contrast="blur", sigma=0.05)).delta.abs().max() < 1e-5


def test_just_the_share_that_was_asked_for_is_masked_of_every_view() -> None:
    pieces = random_pieces(3, 0.3, torch.Generator())
    assert pieces.shape == (3, *GRID)
    assert pieces.sum(dim=(1, 2)).tolist() == [60, 60, 60]
    assert not pieces[0].equal(pieces[1])
    pixels = {"input_ids": torch.ones(2, 5), "pixel_values": torch.ones(2, 4, 3, 40, 20), "high_res_pixel_values": torch.ones(2, 3, 80, 40)}
    changed = with_less(pixels, MASKED)
    low, high = changed["pixel_values"], changed["high_res_pixel_values"]
    assert low.mean().item() == pytest.approx(0.3)
    assert low[:, :1].expand_as(low).equal(low)
    assert high[..., ::2, ::2].equal(low[:, 0])


def test_another_batch_or_seed_masks_other_pieces_and_the_same_the_same() -> None:
    def seen(tokens: int, seed: int) -> Tensor:
        torch.manual_seed(seed)
        inputs = {"input_ids": torch.full((1, 4), tokens), "pixel_values": torch.ones(1, 3, 40, 20)}
        return with_less(inputs, MASKED)["pixel_values"]

    first = seen(7, 1)
    assert seen(7, 1).equal(first)
    assert not seen(8, 1).equal(first)
    assert not seen(7, 2).equal(first)


def test_a_blur_keeps_a_plain_picture_and_spreads_a_point_as_a_gaussian() -> None:
    torch.testing.assert_close(blurred(torch.full((1, 3, 9, 9), 0.7), 3.0), torch.full((1, 3, 9, 9), 0.7))
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    spread = blurred(point, 2.0)[0, 0]
    assert spread[20, 22] / spread[20, 20] == pytest.approx(torch.tensor(-0.5).exp().item())
    assert spread[18, 22] / spread[20, 20] == pytest.approx(torch.tensor(-1.0).exp().item())
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)


@CONTRASTS
def test_a_model_whose_processor_cuts_pictures_up_is_refused(config: CALConfig) -> None:
    model = BY_NAME["qwen2_vl"].model()
    cal.apply(model, config)
    with pytest.raises(CALError, match="use contrast='drop'"):
        model(**BY_NAME["qwen2_vl"].batch())


@pytest.mark.parametrize(
    ("wrong", "named"), [({"mask_ratio": 0.0}, "mask_ratio"), ({"mask_ratio": 1.1}, "mask_ratio"), ({"sigma": 0.0}, "sigma")]
)
def test_a_wrong_setting_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(CALError, match=named):
        CALConfig(**wrong)
