"""What is peculiar to the pathwise estimator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributions as td

import sampleprop as sp
from kinds import ONE_BIT

BATCH = 5


def test_pathwise_refuses_discrete_variables_and_those_without_rsample() -> None:
    with pytest.raises(TypeError, match="Pathwise needs a continuous distribution; got Bernoulli"):
        sp.expect(lambda x: x, ONE_BIT.dist(ONE_BIT.phi(BATCH)), sp.Pathwise())
    with pytest.raises(TypeError, match="Pathwise needs a distribution with rsample; got VonMises, which has none"):
        sp.expect(lambda x: x, td.VonMises(torch.zeros(()), torch.ones(())), sp.Pathwise())


@pytest.mark.parametrize("kind", [sp.Pathwise, sp.StickingTheLanding])
@pytest.mark.parametrize("row", [0, 1])
def test_to_leave_a_sample_out_is_to_draw_one_less(kind: Any, row: int) -> None:
    noise = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.4, 1.0]], dtype=torch.float64)
    keep = torch.tensor([[True, False], [True, True], [False, True]])
    mean = torch.tensor([0.2, -0.3], dtype=torch.float64, requires_grad=True)
    draw = kind(3).propose(td.Normal(mean, 1.0))._replace(points=mean + noise)
    costs = torch.where(keep, draw.points.square(), 0.0)
    together = kind(3).combine(td.Normal(mean, 1.0), draw, costs, keep=keep)[row]
    kept = draw._replace(points=draw.points[keep[:, row], row])
    alone = kind(2).combine(td.Normal(mean[row], 1.0), kept, kept.points.square())
    torch.testing.assert_close(together, alone)
    gradients = [torch.autograd.grad(value, mean, retain_graph=True)[0] for value in (together, alone)]
    torch.testing.assert_close(*gradients)
