"""The newer estimators: each derivation, by exact sums or a certificate.

The z-tests compare at 4.9 standard errors, a false-alarm rate of 1e-6 for each number.
"""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Binomial, Independent, NegativeBinomial, Normal, OneHotCategorical, Poisson

import sampleprop as sp
from sampleprop.estimators.relaxed.conditional import latent
from sampleprop.estimators.through_points import Draw as Attached
from sampleprop.families import recognize
from sampleprop.lab.arena.entrants import ENTRANTS, digest, known, make
from sampleprop.lab.arena.entrants.finite_order import FiniteOrder, weighted
from sampleprop.lab.arena.entrants.reinmax_control import Draw, ReinMaxControl
from sampleprop.lab.arena.entrants.reinmax_rao import ReinMaxRao
from sampleprop.lab.arena.entrants.sobol_strategies import SobolStrategies, _directions


def _law(name, leaf):
    return {
        "Poisson": lambda: (Poisson(leaf.exp()), 90),
        "Binomial": lambda: (Binomial(torch.tensor(5.0, dtype=torch.float64), logits=leaf), 6),
        "NegativeBinomial": lambda: (NegativeBinomial(torch.tensor(2.0, dtype=torch.float64), logits=leaf), 400),
    }[name]()


@pytest.mark.parametrize(
    ("law", "degree"), [("Poisson", 2), ("Poisson", 3), ("Poisson", 4), ("Binomial", 2), ("NegativeBinomial", 2)]
)
@pytest.mark.parametrize("eta", [-0.7, 0.4, 1.1])
def test_finite_order_weights_are_exact_up_to_their_degree_and_not_above(law, degree, eta):
    leaf = torch.tensor(eta if law != "NegativeBinomial" else eta - 1, dtype=torch.float64, requires_grad=True)
    dist, states = _law(law, leaf)
    z = torch.arange(states, dtype=torch.float64)
    probs = dist.log_prob(z).exp()
    errors = []
    for power in range(1, degree + 2):
        (exact,) = torch.autograd.grad((probs * z**power).sum(), leaf, retain_graph=True)
        points = weighted(recognize(dist), z, degree)
        (found,) = torch.autograd.grad((probs.detach() * points**power).sum(), leaf, retain_graph=True)
        errors.append(abs(float(found / exact) - 1))
    assert max(errors[:-1]) < 1e-10
    assert errors[-1] > 1e-4


def test_the_weights_of_degree_four_have_the_variance_of_the_derivation():
    rate = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    z = torch.arange(90, dtype=torch.float64)
    dist = Poisson(rate)
    probs = dist.log_prob(z).exp().detach()
    slopes = [torch.autograd.grad(point, rate, retain_graph=True)[0] for point in weighted(recognize(dist), z, 4)]
    weight = torch.stack(slopes) * rate.detach()
    variance = (probs * weight.square()).sum() - (probs * weight).sum().square()
    assert float(variance) == pytest.approx(1.3 / 4 + 1 / 72 + 1 / (96 * 1.3), rel=1e-9)


def test_finite_order_refuses_what_it_has_no_weights_for():
    with pytest.raises(ValueError, match="degree of 2, 3 or 4; got 5"):
        FiniteOrder(degree=5)
    assert "of degree 3 needs Poisson; got Binomial" in FiniteOrder(degree=3).refusal(
        Binomial(3, logits=torch.zeros(2))
    )


def _tilted(estimator):
    with torch.no_grad():
        nn.init.constant_(estimator.coefficient, 0.7)
    return estimator


@pytest.mark.parametrize("problem", ["one bit", "six coupled bits", "five classes", "three times four classes"])
@pytest.mark.parametrize("samples", [2, 3])
def test_reinmax_as_a_control_variate_is_certified(problem, samples):
    found = sp.certify(_tilted(ReinMaxControl(samples)), [problem], detectable=0.03)
    assert found.ok, found


def test_reinmax_as_a_control_variate_leaves_reinmax_alone_on_a_quadratic_of_one_variable():
    logits = torch.randn(5, dtype=torch.float64, requires_grad=True)
    dist = OneHotCategorical(logits=logits)
    x = dist.sample((4,))
    a, b = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)

    def f(x):
        return (x @ a) ** 2 + x @ b

    estimator = ReinMaxControl(4).double()
    nn.init.constant_(estimator.coefficient, 1.0)
    (found,) = torch.autograd.grad(estimator.combine(dist, Draw(x), f(x), relaxed_f=f), logits)
    again = recognize(OneHotCategorical(logits=logits))
    points = sp.ReinMax().double().points_from(again, x)
    (expected,) = torch.autograd.grad(f(points).mean(), logits)
    torch.testing.assert_close(found, expected)


def test_reinmax_as_a_control_variate_starts_as_leave_one_out():
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    dist = Independent(Bernoulli(logits=logits), 1)
    x = dist.sample((3,))
    f = lambda x: x.cumsum(-1).square().sum(-1)  # noqa: E731
    (found,) = torch.autograd.grad(ReinMaxControl(3).combine(dist, Draw(x), f(x), relaxed_f=f), logits)
    expected = torch.stack(
        [(f(x)[i] - f(x)[torch.arange(3) != i].mean()) * (x[i] - logits.sigmoid()) for i in range(3)]
    )
    expected = expected.mean(0).detach()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("event", ["bits", "classes"])
def test_gumbel_rao_at_a_low_temperature_is_reinmax(event):
    """The limit of the derivation, from both sides of which the bias is of the order of the temperature."""
    torch.manual_seed(3)
    logits = torch.tensor([0.4, -0.8, 0.3], dtype=torch.float64, requires_grad=True)
    bits = event == "bits"
    dist = Independent(Bernoulli(logits=logits), 1) if bits else OneHotCategorical(logits=logits)
    x = torch.tensor([1.0, 0.0, 1.0] if bits else [0.0, 1.0, 0.0], dtype=torch.float64)[None]
    direction = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    variables = recognize(dist)
    halfway = sp.ReinMax().double().points_from(variables, x)
    (expected,) = torch.autograd.grad((halfway @ direction).sum(), logits, retain_graph=True)
    rao = sp.GumbelRao(temperature=0.02, noises=1).double()
    draws = []
    for _ in range(40):
        z = latent(variables, x.expand(20_000, *x.shape), None)
        points = rao.points_from(variables, x, z)
        draws.append(torch.autograd.grad((points @ direction).sum(), logits, retain_graph=True)[0])
    found = torch.stack(draws)
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - expected).abs() < 4.9 * error + 0.02 * expected.abs().max()).all()


def test_reinmax_rao_averages_the_noise_given_the_sample_and_nothing_else():
    """More noises change the variance, and not the mean."""
    logits = torch.tensor([0.4, -0.8, 0.3], dtype=torch.float64)
    f = lambda x: (x * torch.tensor([1.0, -0.5, 2.0])).sum(-1).square()  # noqa: E731
    found = []
    for noises in (1, 20):
        rows = logits.expand(60_000, 3).clone().requires_grad_()
        sp.expect(f, OneHotCategorical(logits=rows), ReinMaxRao(noises=noises)).sum().backward()
        found.append(rows.grad)
    means, variances = ([each.mean(0) for each in found], [each.var(0) for each in found])
    errors = ((variances[0] + variances[1]) / 60_000).sqrt()
    assert ((means[0] - means[1]).abs() < 4.9 * errors).all()
    assert variances[1].sum() < 0.9 * variances[0].sum()


def test_sobol_strategies_have_no_bias_where_smoothing_has_none():
    """For a quadratic L of a mean."""
    rows = torch.tensor([0.3, -0.7], dtype=torch.float64).expand(100_000, 2).clone().requires_grad_()
    weight = torch.tensor([1.0, 2.0], dtype=torch.float64)
    value = sp.expect(
        lambda x: (x @ weight).square(), Independent(Normal(rows, torch.ones(())), 1), SobolStrategies(4, sigma=0.5)
    )
    value.sum().backward()
    exact = 2 * (rows[0].detach() @ weight) * weight
    error = rows.grad.std(0) / math.sqrt(len(rows))
    assert ((rows.grad.mean(0) - exact).abs() < 4.9 * error).all()


def test_sobol_directions_spread_evenly_and_each_is_normal():
    found = _directions({"loc": torch.zeros(2, 8, 50_000, dtype=torch.float64)}, 1, None)["loc"]
    assert found.shape == (2, 8, 50_000)
    flat = found.flatten(0, 1)
    assert (flat.mean(1).abs() < 4.9 / math.sqrt(50_000)).all()
    assert ((flat.var(1) - 1).abs() < 4.9 * math.sqrt(2 / 50_000)).all()
    shifts = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000 / 8  # eight even points, moved together
    expected = torch.special.ndtri(shifts[:, None] + torch.arange(8) / 8).mean(1).var()
    assert expected < 0.3 / 8  # where eight independent ones have 1/8
    assert float(found[0].mean(0).var()) == pytest.approx(float(expected), rel=0.1)
    assert abs(float((found[0, 0] * found[1, 0]).mean())) < 4.9 / math.sqrt(50_000)  # the halves are independent


@pytest.mark.parametrize("name", ["FiniteOrder", "ReinMaxRao", "SobolStrategies"])
def test_the_value_and_theta_of_the_biased_are_certified(name):
    problems = {"FiniteOrder": ["poisson"], "ReinMaxRao": ["six coupled bits"], "SobolStrategies": ["normal, square"]}
    found = sp.certify(make(name), problems[name], detectable=0.1)
    assert found.ok is None, found  # nothing wrong, and no claim that could be proven


def test_a_smaller_bias_of_a_higher_degree_is_seen_on_no_polynomial():
    q = Poisson(torch.full((400_000,), 1.3, dtype=torch.float64, requires_grad=True))
    sp.expect(lambda x: x**3, q, FiniteOrder(degree=3)).sum().backward()
    slope = q.rate.grad
    assert abs(float(slope.mean()) - (3 * 1.3**2 + 6 * 1.3 + 1)) < 4.9 * float(slope.std()) / math.sqrt(400_000)


@pytest.mark.parametrize("name", known())
def test_every_entrant_can_be_made_and_has_a_digest(name):
    assert len(digest(make(name))) == 16


def test_the_digest_follows_the_code_and_not_the_words(tmp_path):
    body = "import sampleprop as sp\nclass Mine(sp.ScoreFunction):\n    '''{}'''\n    number = {}\n"
    digests = []
    for text, number in (("a", 1), ("b", 1), ("a", 2)):
        path = tmp_path / "own.py"
        path.write_text(body.format(text, number))
        digests.append(digest(make(f"{path}:Mine")))
    assert digests[0] == digests[1] != digests[2]


def test_newer_entrants_are_not_in_the_register():
    assert not {kind.__name__ for kind in sp.REGISTER} & {type(make(name)).__name__ for name in ENTRANTS}


def test_the_draws_of_finite_order_are_true_counts():
    q = Poisson(torch.full((5,), 2.0, requires_grad=True))
    draw = FiniteOrder(3).propose(q)
    assert isinstance(draw, Attached)
    assert torch.equal(draw.points, draw.points.round())


@pytest.mark.parametrize("event", ["bits", "classes"])
def test_reinmax_rao_is_three_halves_of_a_soft_derivative_at_high_temperatures(event: str) -> None:
    """Both soft points are uniform there, whatever the noise: 2 J(uniform) / τ - J(uniform) / (2 τ), up to 1 / τ²."""
    logits = torch.tensor([0.4, -0.8, 0.3], dtype=torch.float64, requires_grad=True)
    direction = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    bits, temperature = event == "bits", 1e6
    dist = Independent(Bernoulli(logits=logits), 1) if bits else OneHotCategorical(logits=logits)
    estimator = ReinMaxRao(4, temperature=temperature).double()
    value = sp.expect(lambda x: x @ direction, dist, estimator, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad(value, logits)
    soft = direction / 4 if bits else (direction - direction.mean()) / 3
    torch.testing.assert_close(temperature * found, 1.5 * soft, rtol=1e-4, atol=1e-4)
