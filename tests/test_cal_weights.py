"""CAL's arithmetic: the golden numbers, and the limits where the answer is known without computing it."""

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from cal_bench.trainer_plugin import CALConfig, CALError
from cal_bench.trainer_plugin.weights import LabelTokens, loss_shares, needed_positions, token_weights, window_mean
from tests.shared import SHARED, needs_shared

FOLDER = SHARED / "fixtures" / "cal_loss"
READINGS = {"published": ("published", "micro"), "paper": ("within_row", "sample")}


def cases() -> dict[str, Any]:
    return json.loads((FOLDER / "expected.json").read_text(encoding="utf-8")) if FOLDER.is_dir() else {"cases": {}, "settings": {}}


@dataclass(frozen=True)
class Lost:
    """Label tokens and what was lost on each."""

    nll: torch.Tensor
    tokens: LabelTokens


def weighted_loss(lost: Lost, normalize: str, items: torch.Tensor | int | None = None) -> torch.Tensor:
    return (loss_shares(lost.tokens, normalize, items) * lost.nll).sum()


def tokens_of(seeing: torch.Tensor, blind: torch.Tensor, labels: torch.Tensor, config: CALConfig) -> Lost:
    """Label tokens from the full logits of both passes."""
    labelled = labels[:, 1:] != -100
    targets = labels[:, 1:].where(labelled, 0)[..., None]
    delta = (seeing - blind)[:, :-1].gather(2, targets)[..., 0].detach()
    nll = F.cross_entropy(seeing[:, :-1][labelled], targets[..., 0][labelled], reduction="none")
    rows = labelled.nonzero()[:, 0]
    return Lost(nll, LabelTokens(token_weights(delta, labelled, config), rows, torch.ones_like(rows, dtype=torch.bool)))


@needs_shared
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("case", cases()["cases"])
@pytest.mark.parametrize("setting", cases()["settings"])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_golden(case: str, setting: str, reading: str, precision: torch.dtype) -> None:
    golden = cases()
    expected = golden["cases"][case]["results"][setting][reading]
    data = load_file(FOLDER / f"{case}.safetensors")
    pooling, normalize = READINGS[reading]
    config = CALConfig(**golden["settings"][setting], pooling=pooling, normalize=normalize)
    seeing = data["logits_seeing"].to(precision).requires_grad_()
    lost = tokens_of(seeing, data["logits_blind"].to(precision), data["labels"], config)
    relative = 1e-5 if precision == torch.float32 else 1e-9
    torch.testing.assert_close(lost.tokens.weights, torch.tensor(expected["weights"], dtype=precision), rtol=relative, atol=1e-9)
    if expected["loss"] is None:
        return
    loss = weighted_loss(lost, normalize)
    assert loss.item() == pytest.approx(expected["loss"], rel=relative, abs=1e-9)
    if expected.get("grad_norm_logits_seeing") is not None:
        loss.backward()
        assert seeing.grad.norm().item() == pytest.approx(expected["grad_norm_logits_seeing"], rel=1e-4, abs=1e-9)


def batch(rows: int = 3, length: int = 9, words: int = 11, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    seeing, blind = (4 * torch.randn(rows, length, words, generator=generator) for _ in range(2))
    labels = torch.randint(words, (rows, length), generator=generator)
    labels[torch.rand(rows, length, generator=generator) < 0.4] = -100
    return seeing, blind, labels


@pytest.mark.parametrize("pooling", ["within_row", "published"])
@pytest.mark.parametrize("normalize", ["tokens", "global", "micro"])
@pytest.mark.parametrize("level", [1.0, 3.0])
def test_one_weight_for_all_is_cross_entropy(pooling: str, normalize: str, level: float) -> None:
    seeing, blind, labels = batch()
    config = CALConfig(alpha=level, beta=level, pooling=pooling, normalize=normalize)
    expected = F.cross_entropy(seeing[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(weighted_loss(tokens_of(seeing, blind, labels, config), normalize), expected, rtol=1e-6, atol=1e-6)


def test_one_weight_for_all_is_the_mean_of_row_means_with_sample() -> None:
    seeing, blind, labels = batch()
    config = CALConfig(alpha=2, beta=2, normalize="sample")
    rows = [F.cross_entropy(logits[:-1], row[1:]) for logits, row in zip(seeing, labels, strict=True)]
    torch.testing.assert_close(weighted_loss(tokens_of(seeing, blind, labels, config), "sample"), torch.stack(rows).mean())


def test_cal_is_cross_entropy_when_the_image_changes_nothing() -> None:
    seeing, _, labels = batch()
    tokens = tokens_of(seeing, seeing, labels, CALConfig()).tokens
    assert tokens.weights.eq(1).all()


@pytest.mark.parametrize("normalize", ["tokens", "global", "micro", "sample"])
def test_the_scale_of_all_weights_does_not_matter(normalize: str) -> None:
    lost = tokens_of(*batch(), CALConfig())
    fivefold = replace(lost, tokens=replace(lost.tokens, weights=5 * lost.tokens.weights))
    torch.testing.assert_close(weighted_loss(fivefold, normalize), weighted_loss(lost, normalize), rtol=1e-6, atol=0)


def test_a_token_of_all_the_weight_decides_alone() -> None:
    tokens = LabelTokens(weights=torch.tensor([0.0, 3.0, 0.0]), rows=torch.zeros(3).long(), seeing=torch.ones(3).bool())
    lost = Lost(torch.tensor([2.0, 7.0, 1.0]), tokens)
    for normalize in ("tokens", "global", "micro", "sample"):
        assert weighted_loss(lost, normalize).item() == pytest.approx(7, rel=1e-6)


@pytest.mark.parametrize("normalize", ["tokens", "global"])
def test_tokens_of_text_only_samples_keep_weight_one(normalize: str) -> None:
    tokens = LabelTokens(weights=torch.tensor([5.0, 3.0, 1.0]), rows=torch.tensor([0, 0, 1]), seeing=torch.tensor([True, True, False]))
    lost = Lost(torch.tensor([2.0, 4.0, 10.0]), tokens)
    # The two image-bearing tokens share two tokens' worth of weight, 5 to 3.
    assert weighted_loss(lost, normalize).item() == pytest.approx((2 * (5 * 2 + 3 * 4) / 8 + 10) / 3)


def test_text_alone_counts_in_a_mean_over_samples_where_alpha_is_nought() -> None:
    tokens = LabelTokens(torch.tensor([5.0, 3.0, 0.0, 0.0]), torch.tensor([0, 0, 1, 1]), torch.tensor([True, True, False, False]))
    lost = Lost(torch.tensor([2.0, 4.0, 10.0, 20.0]), tokens)
    assert weighted_loss(lost, "sample").item() == pytest.approx(((5 * 2 + 3 * 4) / 8 + 15) / 2)


def test_micro_batches_add_up_to_the_accumulated_batch() -> None:
    first, second = (tokens_of(*batch(seed=seed), CALConfig(alpha=2, beta=2)) for seed in (1, 2))
    items = len(first.nll) + len(second.nll)
    together = weighted_loss(first, "tokens", items) + weighted_loss(second, "tokens", torch.tensor(items))
    torch.testing.assert_close(together, torch.cat([first.nll, second.nll]).mean())


@pytest.mark.parametrize("normalize", ["tokens", "global", "micro", "sample"])
def test_nothing_labelled_gives_zero_and_a_gradient(normalize: str) -> None:
    logits = torch.randn(0, 5, requires_grad=True)
    nll = F.cross_entropy(logits, torch.zeros(0).long(), reduction="none")
    empty = Lost(nll, LabelTokens(torch.zeros(0), torch.zeros(0).long(), torch.zeros(0).bool()))
    loss = weighted_loss(empty, normalize)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None


@pytest.mark.parametrize("normalize", ["tokens", "global", "sample", "micro"])
def test_no_weight_anywhere_gives_zero(normalize: str) -> None:
    tokens = LabelTokens(torch.zeros(2), torch.zeros(2).long(), torch.ones(2).bool())
    assert weighted_loss(Lost(torch.tensor([2.0, 3.0]), tokens), normalize).item() == 0


def test_window_mean_stays_in_its_group() -> None:
    values, groups = torch.tensor([1.0, 5.0, 3.0, 100.0]), torch.tensor([0, 0, 0, 1])
    torch.testing.assert_close(window_mean(values, groups, 3), torch.tensor([3.0, 3.0, 4.0, 100.0]))
    torch.testing.assert_close(window_mean(values, groups, 1), values)
    torch.testing.assert_close(window_mean(values, groups, 99), torch.tensor([3.0, 3.0, 3.0, 100.0]))
    assert window_mean(torch.zeros(0), torch.zeros(0).long(), 3).shape == (0,)


def test_published_pooling_crosses_rows_and_within_row_does_not() -> None:
    labelled = torch.tensor([[False, True], [True, False]])
    delta = torch.tensor([[1.0, 2.0], [5.0, 3.0]])
    crossing = token_weights(delta, labelled, CALConfig(pooling="published"))
    torch.testing.assert_close(crossing, torch.tensor([(1 + 2 + 5) / 3, (2 + 5 + 3) / 3]))
    torch.testing.assert_close(token_weights(delta, labelled, CALConfig()), torch.tensor([2.0, 5.0]))


@pytest.mark.parametrize("window", [1, 3, 5])
def test_positions_outside_the_needed_ones_do_not_matter(window: int) -> None:
    config = CALConfig(pooling="published", window=window)
    labelled = torch.tensor([[False, False, False, True, False], [False, False, False, False, True]])
    needed = needed_positions(labelled, config)
    delta = torch.arange(10.0).view(2, 5)
    torch.testing.assert_close(token_weights(delta.where(needed, 1e9), labelled, config), token_weights(delta, labelled, config))
    assert needed.sum() == {1: 2, 3: 5, 5: 8}[window]
    assert needed_positions(labelled, CALConfig(window=window)).equal(labelled)


def test_no_upper_bound() -> None:
    delta, labelled = torch.tensor([[1e6, -1e6]]), torch.ones(1, 2).bool()
    torch.testing.assert_close(token_weights(delta, labelled, CALConfig(beta=None, window=1)), torch.tensor([1e6, 1.0]))
    torch.testing.assert_close(token_weights(delta, labelled, CALConfig(window=1)), torch.tensor([5.0, 1.0]))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"alpha": 6}, "beta"),
        ({"alpha": -1}, "alpha"),
        ({"alpha": float("nan"), "beta": None}, "alpha"),
        ({"window": 2}, "window"),
        ({"window": 0}, "window"),
        ({"pooling": "flat"}, "within_row"),
        ({"normalize": "mean"}, "tokens"),
        ({"contrast": "noise"}, "drop"),
        ({"signal": "prob"}, "logp"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(CALError, match=named):
        CALConfig(**wrong)


def test_all_wrong_settings_are_told_at_once() -> None:
    with pytest.raises(CALError, match=r"pooling.*window"):
        CALConfig(pooling="flat", window=4)


def test_the_published_preset() -> None:
    assert CALConfig.published() == CALConfig(pooling="published", normalize="micro", contrast="mask")
