"""BitFlip and UGC, which flip one bit of a sample.

Where a test draws at random it says how often it raises a false alarm; all others cannot.
"""

import itertools
import math

import pytest
import torch
from torch.nn.functional import one_hot

import sampleprop as sp
from estimators.score.moments import BITS, EDGE, bits, combined, every_tuple, exact, moments, states_of, wave
from sampleprop.estimators.score import bitflip, score_function, ugc


def every_flip(make, logits, antithetic):
    """All pivots (with their partners, if antithetic) and bits to flip, as rows."""
    count = len(logits)
    points, probability = [], []
    if antithetic:
        # b = 1[u > 1 - p] and b̃ = 1[u < p] for u in the three parts that 1 - p and p cut: for each bit one of these.
        p = logits.sigmoid()
        pairs = [
            [((1, 0), q), ((0, 1), q), ((int(p_v > 0.5),) * 2, 1 - 2 * q)]
            for p_v, q in zip(p, torch.minimum(p, 1 - p), strict=True)
        ]
        for choice in itertools.product(*pairs):
            points.append([[pair[0] for pair, _ in choice], [pair[1] for pair, _ in choice]])
            probability.append(math.prod(float(weight) for _, weight in choice))
        points = torch.tensor(points, dtype=torch.float64).movedim(1, 0)  # [2, rows, bits]
        probability = torch.tensor(probability, dtype=torch.float64)
    else:
        states, probability = states_of(make, logits)
        points = states.unsqueeze(0)
    rows = probability.shape[0]
    flipped = torch.eye(count, dtype=torch.bool).repeat(rows, 1).unsqueeze(0)  # [1, rows * bits, bits]
    points = points.repeat_interleave(count, 1)
    probes = torch.where(flipped, 1 - points[:1], points[:1])
    return draw_of(points, probes, flipped.to(torch.uint8).argmax(-1)), probability.repeat_interleave(count) / count


def draw_of(points, probes, flipped):
    """What UGC draws if the points are a pair, else what BitFlip draws; the logits have the points' dtype."""
    bit = points[:1].gather(-1, flipped.unsqueeze(-1)).squeeze(-1)
    if len(points) == 1:
        return bitflip.Draw(points, probes, flipped, bit)
    return ugc.Draw(points, probes, flipped, bit, points[:1] - points[1:])


@pytest.mark.parametrize("logits", [BITS, EDGE])
def test_the_mean_over_all_flips_is_exact(logits):
    value, gradient = exact(bits, logits)
    for estimator in (sp.BitFlip(), sp.UGC()):
        rows, probability = every_flip(bits, logits, isinstance(estimator, sp.UGC))
        values, gradients = combined(estimator, bits, logits, rows)
        torch.testing.assert_close(probability @ values, value)
        torch.testing.assert_close(moments(gradients, probability)[0], gradient)


def variances(logits):
    """The exact variances of BitFlip and leave-one-out (two evaluations each), UGC and DisARM (from one pair)."""
    rows, probability = every_flip(bits, logits, False)
    flip = moments(combined(sp.BitFlip(), bits, logits, rows)[1], probability)[1]
    pairs, pair_probability = every_tuple(score_function.Draw, bits, logits, 2)
    score = moments(combined(sp.ScoreFunction(2), bits, logits, pairs)[1], pair_probability)[1]
    rows, probability = every_flip(bits, logits, True)
    clipped = moments(combined(sp.UGC(), bits, logits, rows)[1], probability)[1]
    first, second = rows.points
    difference = wave(rows.points)[0] - wave(rows.points)[1]
    disarm = difference[:, None] / 2 * (first - second) * logits.abs().sigmoid()
    return flip, score, clipped, moments(disarm, probability)[1]


def test_a_flip_has_low_variance_at_the_edges():
    flip, score, _, _ = variances(torch.tensor([6.0, -6.0, 5.0], dtype=torch.float64))
    assert flip < 0.1 * score


@pytest.mark.parametrize(
    ("logits", "most"), [(EDGE, 0.7), (torch.tensor([6.0, -6.0, 5.0], dtype=torch.float64), 0.1), (BITS, 1.0 + 1e-9)]
)
def test_ugc_clips_the_variance_of_disarm(logits, most):
    _, _, clipped, disarm = variances(logits)
    assert clipped <= most * disarm


@pytest.mark.parametrize("estimator", [sp.BitFlip(8), sp.UGC(8)], ids=str)
def test_an_impossible_flip_is_not_shown_to_f(estimator):
    logits = torch.tensor([math.inf, -math.inf, 1e4, -1e4, 0.3], requires_grad=True)
    expected = torch.tensor([1.0, 0.0, 1.0, 0.0])

    def f(x):
        return torch.where((x[..., :4] == expected).all(-1), x[..., 4], math.inf)

    sp.expect(f, bits(logits), estimator, generator=torch.Generator().manual_seed(0)).backward()
    assert (logits.grad[:4] == 0).all()
    assert logits.grad.isfinite().all()


def test_every_bit_is_flipped_equally_often():
    # χ² with 6 degrees of freedom above 35.3 once in 250 000 runs.
    count, bits_ = 70_000, 7
    draw = sp.BitFlip().propose(bits(torch.zeros(count, bits_)), generator=torch.Generator().manual_seed(0))
    seen = draw.flipped.flatten().bincount(minlength=bits_).double()
    assert torch.equal(one_hot(draw.flipped, bits_).bool(), draw.points != draw.probes)
    assert ((seen - count / bits_).square() / (count / bits_)).sum() < 35.3


@pytest.mark.parametrize(
    ("build", "message"), [(lambda: sp.BitFlip(0), "at least 1"), (lambda: sp.UGC(3), "an even number of samples")]
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("estimator", [sp.BitFlip(), sp.UGC()], ids=str)
def test_the_costs_of_the_flipped_points_are_asked_for(estimator):
    draw = estimator.propose(bits(torch.zeros(3)))
    with pytest.raises(ValueError, match=r"Pass probe_costs=f\(draw.probes\)"):
        estimator.combine(bits(torch.zeros(3)), draw, draw.points.sum(-1))


@pytest.mark.parametrize(("estimator", "budget", "forward"), [(sp.BitFlip(), 7, 6), (sp.UGC(), 8, 6)], ids=str)
def test_a_budget_is_spent_on_flips(estimator, budget, forward):
    assert estimator.for_budget(bits(BITS), budget).evaluations(bits(BITS))[0] == forward
    assert sp.BitFlip().for_budget(bits(BITS), 1) is None


@pytest.mark.parametrize("estimator", [sp.BitFlip(), sp.UGC()], ids=str)
def test_more_bits_than_the_dtype_of_the_points_can_count(estimator: sp.Estimator) -> None:
    count = 70_000  # the largest number of float16 is 65,504
    logits = torch.full((count,), -12.0, dtype=torch.float16, requires_grad=True)
    points = torch.zeros(estimator.draws, count, dtype=torch.float16)
    probes = points[:1].clone()
    probes[0, 7] = 1
    draw = draw_of(points, probes, torch.tensor([7]))._replace(bit=torch.zeros(1))
    value = estimator.combine(bits(logits), draw, torch.zeros(len(points)), probe_costs=torch.ones(1))
    value.backward()
    variance = logits.detach()[7].double().sigmoid() * (-logits.detach()[7].double()).sigmoid()
    torch.testing.assert_close(logits.grad[7].double(), count * variance, rtol=1e-3, atol=0)


@pytest.mark.parametrize("estimator", [sp.BitFlip(200_000), sp.UGC(200_000)])
def test_many_pivots_lose_no_digits(estimator) -> None:
    logit = torch.logit(torch.tensor([0.3])).requires_grad_()
    q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logit), 1)
    sp.expect(lambda x: x.sum(-1), q, estimator).backward()
    torch.testing.assert_close(logit.grad, torch.tensor([0.21]), rtol=1e-6, atol=0)  # its variance is zero
