"""What is peculiar to the score function."""

from __future__ import annotations

import pytest
import torch
import torch.distributions as td

import sampleprop as sp


@pytest.mark.parametrize("dist", [td.Uniform(0.0, torch.ones((), requires_grad=True)), td.Pareto(1.0, 2.0)], ids=repr)
def test_score_function_refuses_a_moving_support(dist: td.Distribution) -> None:
    with pytest.raises(TypeError, match=r"ScoreFunction needs a support that does not move .* Use Pathwise"):
        sp.expect(lambda x: x, dist, sp.ScoreFunction())
