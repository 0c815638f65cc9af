"""What is peculiar to the pathwise estimator."""

from __future__ import annotations

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
