"""The miniature's optimizer, against torch's own, which rounds to bfloat16."""

import torch

from cal_bench.miniworld.muon import Muon, orthogonal


def test_steps_are_those_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = (
        [torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1))) for shape in ((40, 20), (20, 50))] for _ in "ab"
    )
    steps = Muon(ours, 0.01), torch.optim.Muon(theirs, lr=0.01, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    begun = [matrix.detach().clone() for matrix in ours]
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for step in steps:
            step.step()
    for one, other, before in zip(ours, theirs, begun, strict=True):
        moved = (other - before).norm()
        assert (one - other).norm() < 0.02 * moved  # what bfloat16 leaves out


def test_singular_values_become_alike() -> None:
    matrix = torch.randn(30, 12, generator=torch.Generator().manual_seed(2)) @ torch.diag(torch.logspace(0, -2, 12))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.3
