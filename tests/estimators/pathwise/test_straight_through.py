"""The straight-through family: exact samples, and the functions for which the gradient is exact."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Bernoulli, Independent, OneHotCategorical

from sampleprop import Enumerate, expect, families
from sampleprop.estimators.pathwise.reinmax import ReinMax
from sampleprop.estimators.pathwise.straight_through import StraightThrough
from sampleprop.estimators.relaxed.decoupled_gumbel_softmax import DecoupledGumbelSoftmax
from sampleprop.estimators.relaxed.gapped_straight_through import GappedStraightThrough
from sampleprop.estimators.relaxed.straight_through_gumbel import StraightThroughGumbel

# A random test here fails by chance once in a million runs of it.
FALSE_ALARM = 1e-6

ESTIMATORS = [
    StraightThrough(),
    ReinMax(),
    ReinMax(temperature=2.0),
    StraightThroughGumbel(),
    DecoupledGumbelSoftmax(),
    GappedStraightThrough(),
    GappedStraightThrough(gap="expected"),
]
FROM_SAMPLES = [StraightThrough(), ReinMax(), GappedStraightThrough(), GappedStraightThrough(gap="expected")]

LOGITS = torch.tensor([[0.4, -0.9, 1.3, 0.0], [1.1, 0.2, -0.5, -2.0], [0.0, 0.3, -1.0, 0.6]], dtype=torch.float64)
WEIGHTS = torch.linspace(-1.7, 2.1, 12, dtype=torch.float64).sin().reshape(3, 4)


def bits(logits: Tensor) -> Independent:
    return Independent(Bernoulli(logits=logits), 1)


def one_hots(logits: Tensor) -> Independent:
    return Independent(OneHotCategorical(logits=logits), logits.dim() - 1)


def multilinear(x: Tensor) -> Tensor:
    """Linear in each variable: [..., variables, classes] -> [...]."""
    a, b, c = (x * WEIGHTS).sum(-1).unbind(-1)
    return 2 + a - 3 * b + a * b * c - 2 * c * a


def quadratic(x: Tensor) -> Tensor:
    """Quadratic in each variable while the others are fixed."""
    a, b, c = (x * WEIGHTS).sum(-1).unbind(-1)
    return 2 + a.square() * b - 3 * b.square() + c.square() * a.square() + x[..., 0, 1] * x[..., 0, 2]


def cubic(x: Tensor) -> Tensor:
    a, b, c = (x * WEIGHTS).sum(-1).unbind(-1)
    return a**3 + 2 * b**3 - c**3


def two_class(x: Tensor) -> Tensor:
    """Bits as the first of two classes: [..., variables] -> [..., variables, 2], then padded to the weights."""
    return torch.stack((x, 1 - x, torch.zeros_like(x), torch.zeros_like(x)), -1)


def exact(f, dist, logits):
    return torch.autograd.grad(expect(f, dist(logits), Enumerate()), logits)[0]


def mean_gradient(monkeypatch, estimator, f, dist, logits):
    """The expectation of an estimator that needs no noise beyond the sample: the sum over all samples."""
    q = dist(logits)
    variables = families.recognize(q)
    support = variables.support()
    with monkeypatch.context() as patch:
        patch.setattr(type(variables), "sample", lambda self, k, generator=None: support)
        points = estimator.propose(q).points
    return torch.autograd.grad((variables.log_prob(support).exp().detach() * f(points)).sum(), logits)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_points_are_exactly_one_hot(estimator, dtype):
    torch.manual_seed(0)
    logits = (3 * torch.randn(2000, 7)).to(dtype).requires_grad_()
    points = estimator.propose(OneHotCategorical(logits=logits, validate_args=False)).points
    assert points.dtype == dtype
    assert set(points.unique().tolist()) == {0.0, 1.0}
    assert bool((points.sum(-1) == 1).all())
    assert set(estimator.propose(bits(logits)).points.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("dist", [bits, one_hots])
def test_samples_follow_p(estimator, dist):
    torch.manual_seed(1)
    count = 10_000
    q = dist(LOGITS[0])
    support = families.recognize(q).support()
    points = estimator.propose(q.expand((count,))).points.squeeze(0)
    observed = (points.unsqueeze(1) == support).all(-1).sum(0)
    expected = q.log_prob(support).exp() * count
    assert observed.sum() == count
    assert stats.chisquare(observed.numpy(), expected.numpy()).pvalue > FALSE_ALARM


def test_a_forward_temperature_sharpens_the_samples():
    torch.manual_seed(2)
    count = 10_000
    estimator = DecoupledGumbelSoftmax(forward_temperature=0.5)
    observed = estimator.propose(OneHotCategorical(logits=LOGITS[0]).expand((count,))).points.sum((0, 1))
    expected = (LOGITS[0] / 0.5).softmax(-1) * count
    assert stats.chisquare(observed.numpy(), expected.numpy()).pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    ("estimator", "f"),
    [(StraightThrough(), multilinear), (ReinMax(), multilinear), (ReinMax(), quadratic)],
    ids=["ST multilinear", "ReinMax multilinear", "ReinMax quadratic"],
)
def test_unbiased_where_claimed(monkeypatch, estimator, f):
    logits = LOGITS.clone().requires_grad_()
    torch.testing.assert_close(
        mean_gradient(monkeypatch, estimator, f, one_hots, logits), exact(f, one_hots, logits), rtol=1e-12, atol=1e-12
    )
    few = LOGITS[0, :3].clone().requires_grad_()

    def of_bits(x):
        return f(two_class(x))

    torch.testing.assert_close(
        mean_gradient(monkeypatch, estimator, of_bits, bits, few), exact(of_bits, bits, few), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    ("estimator", "f"),
    [
        (StraightThrough(), quadratic),
        (ReinMax(), cubic),
        (ReinMax(temperature=2.0), quadratic),
        (GappedStraightThrough(), multilinear),
        (GappedStraightThrough(gap="expected"), multilinear),
    ],
    ids=["ST", "ReinMax", "ReinMax at 2", "gapped", "expected gap"],
)
def test_biased_beyond(monkeypatch, estimator, f):
    logits = LOGITS.clone().requires_grad_()
    truth = exact(f, one_hots, logits)
    bias = mean_gradient(monkeypatch, estimator, f, one_hots, logits) - truth
    assert bias.norm() > 0.02 * truth.norm()


def test_reinmax_is_the_trapezoid_rule(monkeypatch):
    # For one variable: Σ_ij p_i p_j (∇f(e_i) + ∇f(e_j))ᵀ (e_i - e_j) / 2 · e_i, the limit of straight-through Gumbel.
    logits = LOGITS[0].clone().requires_grad_()

    def f(x):
        return (x * WEIGHTS[0]).sum(-1).mul(3).cos() + (x * x.roll(1, -1) * WEIGHTS[1]).sum(-1)

    vertices = torch.eye(4, dtype=torch.float64, requires_grad=True)
    slopes = torch.autograd.grad(f(vertices).sum(), vertices)[0]  # [i, class]
    p = logits.softmax(-1).detach()
    differences = vertices.unsqueeze(1) - vertices.unsqueeze(0)  # [i, j, class]
    means = (slopes.unsqueeze(1) + slopes.unsqueeze(0)) / 2
    trapezoid = (p.unsqueeze(1) * p * (means * differences).sum(-1)).sum(1)
    torch.testing.assert_close(mean_gradient(monkeypatch, ReinMax(), f, one_hots, logits), trapezoid.detach())


def test_straight_through_gumbel_stays_biased_as_the_temperature_falls():
    # One bit, by quadrature: the mean of σ'(z/τ)/τ f'(1[z > 0]) over logistic noise tends to p(1-p) (f'(0) + f'(1)) /
    # 2.
    logits = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    count = 100_001
    grid = ((torch.arange(count, dtype=torch.float64) + 0.5) / count).logit()
    estimator = StraightThroughGumbel(count, temperature=0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sampleprop.noise.logistic", lambda shape, like, generator=None: grid)
        loss = expect(torch.exp, Bernoulli(logits=logits), estimator)
    gradient = torch.autograd.grad(loss, logits)[0]
    p = logits.sigmoid().item()
    # 0.5 % for the rest in τ and the grid's step at the jump; the exact gradient is 8 % away.
    assert gradient.item() == pytest.approx(p * (1 - p) * (1 + math.e) / 2, rel=5e-3)
    assert gradient.item() != pytest.approx(p * (1 - p) * (math.e - 1), rel=0.05)


@pytest.mark.parametrize("logit", [0.8, 2.5, -2.5])
@pytest.mark.parametrize("estimator", FROM_SAMPLES, ids=str)
def test_a_bit_is_the_first_of_two_classes(monkeypatch, estimator, logit):
    eta = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
    pair = torch.tensor([[logit, 0.0]], dtype=torch.float64, requires_grad=True)
    of_bit = mean_gradient(monkeypatch, estimator, lambda x: (2 * x[..., 0]).exp(), bits, eta)
    of_pair = mean_gradient(monkeypatch, estimator, lambda x: (2 * x[..., 0, 0]).exp(), one_hots, pair)
    torch.testing.assert_close(of_bit, of_pair[:, 0])


@pytest.mark.parametrize("gap", [0.3, 1.0, 5.0, "expected"])
def test_gapped_soft_point(monkeypatch, gap):
    # The Jacobian for each sampled class, against the definition written out in numpy.
    phi, tau = LOGITS[0].numpy(), 0.7
    p = np.exp(phi) / np.exp(phi).sum()
    cotangent = WEIGHTS[0].numpy()
    logits = LOGITS[0].clone().requires_grad_()
    estimator = GappedStraightThrough(gap=gap, temperature=tau)
    for sampled in range(4):
        lead = -np.log1p(-p[sampled]) / p[sampled] if gap == "expected" else gap
        shifted = np.minimum(phi, phi.max() - lead)
        shifted[sampled] = phi.max()
        s = np.exp(shifted / tau) / np.exp(shifted / tau).sum()
        expected = s * (cotangent - s @ cotangent) / tau
        hard = torch.eye(4, dtype=torch.float64)[sampled : sampled + 1]
        with monkeypatch.context() as patch:
            patch.setattr(families.OneHots, "sample", lambda self, k, generator=None, hard=hard: hard)
            points = estimator.propose(OneHotCategorical(logits=logits, validate_args=False)).points
        gradient = torch.autograd.grad((points * WEIGHTS[0]).sum(), logits)[0]
        np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-6, atol=1e-8)  # τ is a float32 buffer


def test_expected_gap_is_that_of_gumbel_noise():
    torch.manual_seed(3)
    count = 100_000
    log_p = LOGITS[0].log_softmax(-1)
    scores = log_p - torch.empty(count, 4, dtype=torch.float64).exponential_().log()
    top = scores.topk(2, -1)
    for sampled in range(4):
        lead = (top.values[:, 0] - top.values[:, 1])[top.indices[:, 0] == sampled]
        p = log_p[sampled].exp()
        z = (lead.mean() + torch.log1p(-p) / p) / (lead.std() / len(lead) ** 0.5)
        assert abs(z.item()) < stats.norm.isf(FALSE_ALARM / 2)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masked_and_saturated_logits(estimator, dtype):
    torch.manual_seed(4)
    inf = math.inf
    rows = torch.tensor(
        [[0, -inf, 1, -inf], [-inf, 0, -inf, -inf], [-inf, -inf, -inf, 3], [1e4, -1e4, 0, 20], [20, -20, 0, -1e4]],
        dtype=dtype,
    )
    logits = rows.expand(200, 5, 4).clone().requires_grad_()
    q = OneHotCategorical(logits=logits, validate_args=False)
    points = estimator.propose(q).points
    assert bool((points.sum(-1) == 1).all())
    assert bool((points[0][logits.isinf()] == 0).all())
    expect(lambda x: (x - 0.3).square().sum(-1).exp(), q, estimator).sum().backward()
    assert bool(logits.grad.isfinite().all())
    assert bool((logits.grad[logits.isinf()] == 0).all())

    gates = torch.tensor([0, 20, -20, 1e4, -1e4, inf, -inf], dtype=dtype).expand(200, 7).clone().requires_grad_()
    loss = expect(lambda x: (x - 0.3).square().sum(-1), Independent(Bernoulli(logits=gates), 1), estimator)
    loss.sum().backward()
    assert bool(gates.grad.isfinite().all())
    assert bool((gates.grad[:, 3:] == 0).all())


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("dist", [bits, one_hots])
def test_second_derivatives_are_refused(estimator, dist):
    logits = LOGITS[0].clone().requires_grad_()
    loss = expect(lambda x: x.square().sum(-1).exp(), dist(logits.tanh()), estimator)
    gradient = torch.autograd.grad(loss, logits, create_graph=True)[0]
    with pytest.raises(RuntimeError, match=f"{estimator.name} estimates first derivatives only"):
        gradient.sum().backward()


def test_a_cost_without_path_is_refused():
    q = bits(LOGITS[0].clone().requires_grad_())
    with pytest.raises(RuntimeError, match=r"say so: StraightThrough\(allow_unused=True\)"):
        expect(lambda x: x.detach().sum(-1), q, StraightThrough())
    assert expect(lambda x: x.detach().sum(-1), q, StraightThrough(allow_unused=True)).isfinite()


def test_a_draw_without_graph_is_refused():
    q = bits(LOGITS[0].clone().requires_grad_())
    estimator = StraightThrough()
    with torch.no_grad():
        draw = estimator.propose(q)
        assert estimator.combine(q, draw, draw.points.sum(-1)).isfinite()
    with pytest.raises(RuntimeError, match="StraightThrough needs points that are attached to φ"):
        estimator.combine(q, draw, draw.points.sum(-1))
    fixed = bits(LOGITS[0])
    assert estimator.combine(fixed, draw, draw.points.sum(-1)).isfinite()


@pytest.mark.parametrize("gap", [0.0, -1.0, math.inf, "wide"])
def test_gap_out_of_range(gap):
    with pytest.raises(ValueError, match="GappedStraightThrough needs"):
        GappedStraightThrough(gap=gap)
