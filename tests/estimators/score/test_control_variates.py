"""MuProp, DoubleCV and RODEO: independent samples with control variates that are made of tangents of f."""

import pytest
import torch

import sampleprop as sp
from estimators.score.moments import BITS, PROBLEMS, bits, combined, every_tuple, exact, moments, wave
from sampleprop import families
from sampleprop.estimators.score import double_cv, muprop, rodeo, score_function
from variants import tilted


def with_control_variates():
    yield sp.MuProp(), muprop.Draw
    yield sp.MuProp(2, coefficient=0.3, learn=True), muprop.Draw
    yield tilted(sp.DoubleCV(2)), double_cv.Draw
    yield tilted(sp.RODEO(2)), rodeo.Draw


@pytest.mark.parametrize("estimator", [sp.DoubleCV(3), sp.RODEO(3)], ids=str)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_untrained_it_is_leave_one_out(estimator, problem):
    make, logits = PROBLEMS[problem]
    rows, _ = every_tuple(estimator._draw_type, make, logits, 3)
    mine = combined(estimator.double(), make, logits, rows)[1]
    theirs = combined(sp.ScoreFunction(3), make, logits, score_function.Draw(rows.points))[1]
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("scale", [1, 10])
def test_the_mean_is_exact_whatever_the_coefficients(index, problem, scale):
    estimator, draw = list(with_control_variates())[index]
    estimator = estimator.double()
    generator = torch.Generator().manual_seed(0)
    for parameter in estimator.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = scale * (parameter.data + 0.3 * noise)
    make, logits = PROBLEMS[problem]
    rows, probability = every_tuple(draw, make, logits, estimator.samples)
    values, gradients = combined(estimator, make, logits, rows)
    value, gradient = exact(make, logits)
    torch.testing.assert_close(probability @ values, value)
    torch.testing.assert_close(moments(gradients, probability)[0], gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("module", [muprop, double_cv])
def test_without_the_mean_added_back_as_a_gradient_it_would_be_biased(module, monkeypatch):
    estimator = sp.MuProp() if module is muprop else tilted(sp.DoubleCV())
    rows, probability = every_tuple(module.Draw, bits, BITS, estimator.samples)
    monkeypatch.setattr(families.Bernoullis, "through_mean", lambda variables, slope: torch.zeros_like(slope))
    mean, _ = moments(combined(estimator, bits, BITS, rows)[1], probability)
    gradient = exact(bits, BITS)[1]
    assert (mean - gradient).norm() > 0.2 * gradient.norm()


@pytest.mark.parametrize("index", range(4))
def test_theta_gets_the_mean_derivative_at_the_samples(index):
    estimator, draw = list(with_control_variates())[index]
    rows, _ = every_tuple(draw, bits, BITS, estimator.samples)
    theta = torch.ones(rows.points.shape[1], dtype=torch.float64, requires_grad=True)

    def f(x):
        return wave(x, theta)

    estimator.combine(bits(BITS.expand(len(theta), 3)), rows, f(rows.points), relaxed_f=f).sum().backward()
    expected = (wave(rows.points, 2.0) - wave(rows.points, 1.0)).mean(0)  # wave is linear in θ
    torch.testing.assert_close(theta.grad, expected)


@pytest.mark.parametrize("index", [1, 2, 3])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("problem", ["bits", "one-hots"])
def test_a_parameter_receives_the_derivative_of_the_variance(index, sign, problem):
    estimator, draw = list(with_control_variates())[index]
    estimator = estimator.double()
    if isinstance(estimator, sp.RODEO):
        torch.nn.init.constant_(estimator.network[-1].weight, 0.2)
    make, logits = PROBLEMS[problem]
    rows, probability = every_tuple(draw, make, logits, 2)
    phi = logits.expand(len(probability), *logits.shape).clone().requires_grad_()
    value = estimator.combine(make(phi), rows, wave(rows.points), relaxed_f=wave)
    (sign * probability * value).sum().backward()  # a user who maximizes must not maximize the variance

    def variance():
        return moments(combined(estimator.eval(), make, logits, rows)[1], probability)[1]

    for parameter in list(estimator.parameters()):
        slope = torch.zeros_like(parameter)
        for entry in range(parameter.numel()):
            values = []
            for step in (1e-5, -1e-5):
                parameter.data.view(-1)[entry] += step
                values.append(variance())
                parameter.data.view(-1)[entry] -= step
            slope.view(-1)[entry] = (values[0] - values[1]) / 2e-5
        torch.testing.assert_close(parameter.grad, slope.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("index", [1, 2, 3])
@pytest.mark.parametrize("problem", ["bits", "one-hots"])
def test_learning_lowers_the_exact_variance(index, problem):
    estimator, draw = list(with_control_variates())[index]
    for parameter in estimator.parameters():
        parameter.data += 0.5 * (
            parameter.dim() == 0
        )  # away from where the coefficients start, which may be good already
    make, logits = PROBLEMS[problem]
    rows, probability = every_tuple(draw, make, logits, 2)
    dist = make(logits.expand(len(probability), *logits.shape))

    def variance():
        return moments(combined(estimator.eval(), make, logits, rows)[1], probability)[1]

    before = variance()
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        value = estimator.train().combine(dist, rows, wave(rows.points), relaxed_f=wave)
        (probability * value).sum().backward()
        optimizer.step()
    assert variance() < 0.97 * before


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_linear_cost_leaves_no_noise(problem):
    make, logits = PROBLEMS[problem]

    def linear(x):
        return 2 + (x.flatten(2) * torch.linspace(-1.0, 2.0, x[0, 0].numel(), dtype=x.dtype)).sum(-1)

    gradient = exact(make, logits, linear)[1]
    double = sp.DoubleCV()
    double.coefficient.data.fill_(1.0)
    for estimator in (sp.MuProp(), double):
        rows, _ = every_tuple(estimator._draw_type, make, logits, estimator.samples)
        gradients = combined(estimator, make, logits, rows, linear)[1]
        torch.testing.assert_close(gradients, gradient.expand_as(gradients))


@pytest.mark.parametrize("estimator", [sp.MuProp(), sp.DoubleCV(), sp.RODEO()], ids=str)
def test_f_is_asked_for_where_its_derivative_is_needed(estimator):
    draw = estimator.propose(bits(torch.zeros(3)))
    with pytest.raises(ValueError, match="Pass relaxed_f=f"):
        estimator.combine(bits(torch.zeros(3)), draw, draw.points.sum(-1))
