"""UnorderedSet and RaoBlackwellized, which enumerate the probabilities of all joint states."""

import math

import pytest
import torch
from torch.distributions import Categorical

import sampleprop as sp
from estimators.score.moments import CLASSES, bits, onehot


@pytest.mark.parametrize("make", [onehot, lambda logits: Categorical(logits=logits)], ids=["one-hot", "integer"])
@pytest.mark.parametrize("masked", [0, 2])
def test_sets_and_sums_that_cover_every_possible_outcome_are_exact(make, masked):
    logits = CLASSES.clone()
    logits[:masked] = -math.inf
    table = torch.tensor([5.0, -1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    table[:masked] = math.inf  # f must not see these

    def f(x):
        return table[x.argmax(-1) if x.dtype == torch.float64 else x]

    results = []
    covering = (sp.UnorderedSet(5), sp.UnorderedSet(8), sp.RaoBlackwellized(6), sp.RaoBlackwellized(8, drawn=2))
    for estimator in (*covering, sp.Enumerate()):
        phi = logits.clone().requires_grad_()
        value = sp.expect(f, make(phi), estimator)
        value.backward()
        results.append((value.detach(), phi.grad))
    for value, gradient in results[:-1]:
        torch.testing.assert_close(value, results[-1][0])
        torch.testing.assert_close(gradient, results[-1][1])


@pytest.mark.parametrize("estimator", [sp.UnorderedSet(), sp.RaoBlackwellized()], ids=str)
def test_too_many_joint_states_are_refused(estimator):
    with pytest.raises(TypeError, match=r"at most limit=4096 joint states; got 1048576. Raise the limit"):
        sp.expect(lambda x: x.sum(-1), bits(torch.zeros(20)), estimator)
