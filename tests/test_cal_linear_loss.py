"""The fused cross-entropy against the plain one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cal_bench.trainer_plugin import linear_loss
from cal_bench.trainer_plugin.linear_loss import linear_cross_entropy

ROWS, WIDTH, WORDS = 23, 16, 37


def operands(dtype: torch.dtype, bias: bool = True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(ROWS, WIDTH), (WORDS, WIDTH), (WORDS,)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes[: 2 + bias]]


def rest() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(WORDS, (ROWS,), generator=generator), torch.rand(ROWS, generator=generator)


def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    targets, shares = rest()
    return (shares * F.cross_entropy(F.linear(hidden, weight, bias).float(), targets, reduction="none")).sum()


@pytest.mark.parametrize("chunk", [1, 5 * WORDS, 2**26])
@pytest.mark.parametrize("bias", [True, False])
def test_loss_and_gradients_equal_the_plain_ones(chunk: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_loss, "CHUNK", chunk)
    ours, theirs = operands(torch.float32, bias), operands(torch.float32, bias)
    loss, nll = linear_cross_entropy(*ours, *([] if bias else [None]), *rest())
    expected = plain(*theirs)
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close((nll * rest()[1]).sum(), expected)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5)


def test_gradients_agree_with_finite_differences() -> None:
    targets, shares = rest()
    assert torch.autograd.gradcheck(lambda *args: linear_cross_entropy(*args, targets, shares.double())[0], operands(torch.float64))


def test_half_precision_is_as_near_to_the_truth_as_the_plain_loss() -> None:
    truth, ours, theirs = operands(torch.float32), operands(torch.bfloat16), operands(torch.bfloat16)
    for values, lost in ((truth, plain), (theirs, plain), (ours, lambda *args: linear_cross_entropy(*args, *rest())[0])):
        lost(*values).backward()
    for exact, one, other in zip(truth, ours, theirs, strict=True):
        assert one.grad.dtype == torch.bfloat16
        assert (one.grad - exact.grad).norm() <= 1.1 * (other.grad - exact.grad).norm()


def test_small_shares_survive_half_precision_until_they_are_scaled() -> None:
    """As under float16 with a gradient scaler: a batch of thousands of label tokens, and the scale comes in backward."""
    targets, shares, scale = rest()[0], rest()[1] / 25_600, 65_536
    exact, ours = operands(torch.float32), operands(torch.float16)
    for values in (exact, ours):
        (scale * linear_cross_entropy(*values, targets, shares)[0]).backward()
    for one, other in zip(ours, exact, strict=True):
        assert (one.grad.float() - other.grad).norm() <= 0.005 * other.grad.norm()


def test_autocast_keeps_the_types_of_weights_and_gradients() -> None:
    ours = operands(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = linear_cross_entropy(*ours, *rest())
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain(*operands(torch.float32)), rtol=2e-2, atol=0)
    assert all(one.grad.dtype == torch.float32 for one in ours)


def test_a_frozen_head_gets_no_gradient_and_no_rows_give_zero() -> None:
    hidden, weight, bias = operands(torch.float32)
    frozen = weight.detach()
    linear_cross_entropy(hidden, frozen, bias, *rest())[0].backward()
    assert frozen.grad is None
    assert hidden.grad.abs().sum() > 0
    loss, nll = linear_cross_entropy(hidden[:0], weight, bias, torch.zeros(0).long(), torch.zeros(0))
    loss.backward()
    assert (loss.item(), len(nll)) == (0, 0)
    assert weight.grad.abs().sum() == 0


def test_logits_of_any_size_do_not_overflow() -> None:
    hidden, weight, bias = (100 * values.detach() for values in operands(torch.float32))
    loss, _ = linear_cross_entropy(hidden, weight, bias, *rest())
    torch.testing.assert_close(loss, plain(hidden, weight, bias))
