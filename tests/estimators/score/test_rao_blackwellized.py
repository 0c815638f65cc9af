"""RaoBlackwellized, with every draw from the rest; test_joint_states.py has what it shares with UnorderedSet.

Where a test draws at random it says how often it raises a false alarm; all others cannot.
"""

import itertools

import pytest
import torch

import sampleprop as sp
from estimators.score.moments import CLASSES, PROBLEMS, combined, exact, moments, onehot, states_of, wave
from sampleprop.estimators.score import rao_blackwellized


def every_rest(estimator, make, logits):
    """The summed outcomes with all draws from the rest, as rows."""
    states, p = states_of(make, logits)
    order = p.argsort(descending=True)
    states, p = states[order], p[order]
    summed = estimator.samples - estimator.drawn
    rest = list(itertools.product(range(summed, len(p)), repeat=estimator.drawn))
    index = torch.tensor([(*range(summed), *drawn) for drawn in rest]).T  # [k, rows]
    share = p[summed:].sum()
    weights = torch.cat((p[index[:summed]], (share / estimator.drawn).expand(estimator.drawn, len(rest))))
    return rao_blackwellized.Draw(states[index], weights), (p[index[summed:]] / share).prod(0)


RAO_BLACKWELLIZED = [
    sp.RaoBlackwellized(2),
    sp.RaoBlackwellized(4),
    sp.RaoBlackwellized(3, baseline=False),
    sp.RaoBlackwellized(4, drawn=2),
    sp.RaoBlackwellized(4, drawn=2, baseline=False),
]


@pytest.mark.parametrize("estimator", RAO_BLACKWELLIZED, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_mean_over_all_draws_from_the_rest_is_exact(estimator, problem):
    make, logits = PROBLEMS[problem]
    rows, probability = every_rest(estimator, make, logits)
    values, gradients = combined(estimator, make, logits, rows)
    value, gradient = exact(make, logits)
    torch.testing.assert_close(probability @ values, value)
    torch.testing.assert_close(moments(gradients, probability)[0], gradient)


@pytest.mark.parametrize("drawn", [1, 2])
@pytest.mark.parametrize("problem", ["bits", "one-hot", "one-hots"])
def test_the_baseline_lowers_the_variance_of_a_cost_with_an_offset(drawn, problem):
    make, logits = PROBLEMS[problem]
    variance = {}
    for baseline in (True, False):
        estimator = sp.RaoBlackwellized(2 + drawn, drawn=drawn, baseline=baseline)
        rows, probability = every_rest(estimator, make, logits)
        variance[baseline] = moments(combined(estimator, make, logits, rows)[1], probability)[1]
    assert variance[True] < 0.5 * variance[False]


@pytest.mark.parametrize("drawn", [1, 2])
def test_a_baseline_on_the_drawn_part_alone_would_be_biased(drawn, monkeypatch):
    estimator = sp.RaoBlackwellized(2 + drawn, drawn=drawn)
    rows, probability = every_rest(estimator, onehot, CLASSES)
    right = sp.RaoBlackwellized._baseline

    def remainder_only(self, draw, costs):
        part = torch.tensor([0.0, 0.0, *[1.0] * drawn], dtype=torch.float64)
        return right(self, draw, costs) * part.unsqueeze(1)

    monkeypatch.setattr(sp.RaoBlackwellized, "_baseline", remainder_only)
    mean, _ = moments(combined(estimator, onehot, CLASSES, rows)[1], probability)
    gradient = exact(onehot, CLASSES)[1]
    assert (mean - gradient).norm() > 0.5 * gradient.norm()


@pytest.mark.parametrize("samples", [6, 9])
def test_summing_every_outcome_is_exact(samples):
    phi = CLASSES.clone().requires_grad_()
    value = sp.expect(lambda x: wave(x.unsqueeze(1)).squeeze(1), onehot(phi), sp.RaoBlackwellized(samples))
    value.backward()
    expected, gradient = exact(onehot, CLASSES)
    torch.testing.assert_close(value, expected, check_dtype=False)
    torch.testing.assert_close(phi.grad, gradient)


def test_the_rest_is_drawn_by_its_probabilities():
    # χ² with 2 degrees of freedom above 25 once in 270 000 runs.
    count = 50_000
    draw = sp.RaoBlackwellized(3).propose(onehot(CLASSES.expand(count, 5)), generator=torch.Generator().manual_seed(0))
    p = CLASSES.softmax(0)
    top = p.argsort(descending=True)[:2]
    expected = count * p / (1 - p[top].sum())
    expected[top] = 0
    seen = draw.points[2].sum(0)
    assert torch.equal(draw.points[:2, 0].argmax(-1), top)
    assert (seen[top] == 0).all()
    others = [c for c in range(5) if c not in top]
    assert ((seen - expected)[others].square() / expected[others]).sum() < 25


def test_the_rest_keeps_its_mass_where_the_summed_outcomes_hold_nearly_all():
    logits = torch.tensor([0.0, -30.0, -31.0])  # float32: 1 - p(T) would be 0
    draw = sp.RaoBlackwellized(2).propose(onehot(logits))
    torch.testing.assert_close(
        draw.weights[1], torch.tensor(-30.0).exp() + torch.tensor(-31.0).exp(), rtol=1e-6, atol=0.0
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sp.RaoBlackwellized(2, drawn=2), "a whole number of samples, at least 3"),
        (lambda: sp.RaoBlackwellized(2, drawn=0), "a whole number of drawn states, at least 1; got drawn states=0"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_budget_is_spent_on_samples():
    dist = onehot(CLASSES)
    assert sp.RaoBlackwellized(drawn=2).for_budget(dist, 4).evaluations(dist)[0] == 4
