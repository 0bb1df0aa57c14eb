"""Several texts in one row: the same numbers as each in its own, and fewer slots."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import cal_bench.trainer_plugin as cal
from cal_bench.trainer_plugin import CALConfig, CALError
from cal_bench.trainer_plugin.loss import measure
from cal_bench.trainer_plugin.packing import lay_out
from tests.vlm_zoo import BY_NAME, PAD

ATTENTION_ONLY = ("llava", "llava_next", "qwen2_5_vl", "internvl", "gemma3", "mistral3", "paligemma", "smolvlm", "glm4v", "gemma4")
GAPS = (0, 6, 9)
PADDED, PACKED = CALConfig(beta=None, window=1), CALConfig(beta=None, window=1, pack=True)
families = pytest.mark.parametrize("name", ATTENTION_ONLY)
attentions = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def ragged(name: str, left: bool) -> dict[str, Tensor]:
    """Two rows with an image and one without, the second and third cut short and padded."""
    batch = BY_NAME[name].batch()
    shape = batch["input_ids"].shape
    fills = {"input_ids": PAD, "labels": -100}
    for key, values in batch.items():
        for row, gap in enumerate(GAPS if values.shape == shape else ()):
            values[row, shape[1] - gap :] = fills.get(key, 0)
            values[row] = values[row].roll(gap if left else 0)
    return batch


def slots(decoder: nn.Module) -> tuple[list[tuple[int, ...]], RemovableHandle]:
    """Rows and slots that the decoder's first layer reads, call by call."""
    found: list[tuple[int, ...]] = []
    layers: Any = next(module for module in decoder.modules() if isinstance(module, nn.ModuleList))
    return found, layers[0].register_forward_pre_hook(lambda module, args: found.append(tuple(args[0].shape[:2])))


@families
@attentions
@pytest.mark.parametrize("left", [False, True])
def test_packing_changes_neither_deltas_nor_loss_nor_gradients(name: str, attention: str, left: bool) -> None:
    batch = ragged(name, left)
    found = []
    for config in (PADDED, PACKED):
        model = BY_NAME[name].model(attention)
        reads, hook = slots(model.get_decoder())
        measured = measure(model, batch, config)
        measured.loss.backward()
        hook.remove()
        found.append((measured, dict(model.named_parameters()), reads))
    (padded, stock, wide), (packed, parameters, narrow) = found
    assert wide[0] == tuple(batch["input_ids"].shape)
    assert narrow[0][0] < 3
    assert wide[1] == narrow[1]
    torch.testing.assert_close(packed.delta, padded.delta, rtol=0, atol=1e-5)
    torch.testing.assert_close(packed.loss, padded.loss, rtol=1e-5, atol=1e-6)
    for key, wanted in stock.items():
        assert (wanted.grad is None) == (parameters[key].grad is None), key
        if wanted.grad is not None:
            torch.testing.assert_close(parameters[key].grad, wanted.grad, rtol=1e-3, atol=1e-5, msg=lambda text, at=key: f"{at}: {text}")


def test_windows_end_where_a_text_ends() -> None:
    batch = ragged("mistral3", left=False)
    deltas = [measure(BY_NAME["mistral3"].model(sliding_window=6), batch, config).delta for config in (PADDED, PACKED)]
    torch.testing.assert_close(*deltas, rtol=0, atol=1e-5)


def reader(hidden: int, attention: str = "sdpa", kinds: tuple[str, ...] = ("full_attention",)) -> Any:
    """As much of a decoder as a layout asks for."""
    return SimpleNamespace(config=SimpleNamespace(hidden_size=hidden, _attn_implementation=attention, layer_types=kinds))


def lengths(*texts: int) -> Tensor:
    return torch.arange(max(texts)) < torch.tensor(texts)[:, None]


def test_every_token_that_is_kept_has_one_slot_and_comes_back() -> None:
    keep = torch.rand(6, 40, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.9, 0.1, 0.5, 0.0, 0.3, 0.2])[:, None]
    layout = lay_out(keep, reader(64))
    assert layout.shared
    assert layout.filled.sum() == keep.sum()
    values = torch.arange(keep.numel(), dtype=torch.float32).view(*keep.shape, 1) + 1
    torch.testing.assert_close(layout.back(layout.tokens(values), keep), values * keep[..., None])
    # The slot of a token that is left out is that of the last kept before it.
    before = keep.long().cumsum(1)
    assert (layout.place >= 0).equal(before > 0)
    columns = layout.columns.flatten()[layout.place.clamp(min=0)]
    last = torch.where(keep, torch.arange(40), -1).cummax(dim=1).values
    assert columns[before > 0].equal(last[before > 0])


def test_rows_are_shared_only_where_that_saves_time() -> None:
    assert lay_out(lengths(10, 10, 10, 10), reader(64)).rows.shape == (4, 10)
    assert lay_out(lengths(100, 50, 30, 20), reader(64)).rows.shape == (2, 100)
    # With short texts the matrices cost all, so that no slot is wasted; with long ones attention does.
    assert lay_out(lengths(100, 60), reader(4096)).rows.shape == (1, 160)
    assert lay_out(lengths(100, 60), reader(16)).rows.shape == (2, 100)


@pytest.mark.parametrize("other", [reader(64, "flash_attention_2"), reader(64, kinds=("full_attention", "linear_attention"))])
def test_rows_are_not_shared_where_texts_could_not_be_kept_apart(other: Any) -> None:
    assert lay_out(lengths(100, 50, 30, 20), other).rows.shape == (4, 100)


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(CALError, match="windows of pooling='published' count; set pooling='within_row'"):
        CALConfig(pack=True, pooling="published")
    with pytest.raises(CALError, match="pack=True is not defined for this model: its language model also gets visual_pos_masks"):
        measure(BY_NAME["qwen3_vl"].model(), ragged("qwen3_vl", left=False), PACKED)


def test_a_packed_step_is_the_stock_step_where_all_weights_are_equal() -> None:
    model, twin, batch = BY_NAME["llava"].model(), BY_NAME["llava"].model(), ragged("llava", left=False)
    cal.apply(model, CALConfig(alpha=1, beta=1, pack=True))
    found, wanted = model(**batch).loss, twin(**batch).loss
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    # Hooks are gone: evaluation gives logits of the batch's own shape.
    assert model.eval()(**batch).logits.shape[:2] == batch["input_ids"].shape
