"""Temperature schedules: the numbers, what they refuse, and compiled code that they do not disturb."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent

from sampleprop import expect
from sampleprop.estimators.pathwise.straight_through import StraightThrough
from sampleprop.estimators.relaxed.decoupled_gumbel_softmax import DecoupledGumbelSoftmax
from sampleprop.estimators.relaxed.gumbel_softmax import GumbelSoftmax
from sampleprop.estimators.relaxed.rebar import REBAR
from sampleprop.schedule import ExponentialTemperature


def test_temperatures():
    estimator = GumbelSoftmax()
    schedule = ExponentialTemperature(estimator, start=2.0, end=0.5, rate=0.25, every=2)
    seen = [estimator.temperature.item()]
    for _ in range(8):
        schedule.step()
        seen.append(estimator.temperature.item())
    rounded_down = [0, 0, 2, 2, 4, 4, 6, 6, 8]
    expected = [max(0.5, 2 * math.exp(-0.25 * t)) for t in rounded_down]
    assert seen == pytest.approx(expected)
    assert seen[-1] == 0.5
    assert estimator.label == "GumbelSoftmax()"


def test_a_checkpoint_continues():
    first, second = GumbelSoftmax(), GumbelSoftmax()
    one = ExponentialTemperature(first, rate=0.1, every=3)
    for _ in range(5):
        one.step()
    other = ExponentialTemperature(second, rate=0.1, every=3)
    other.load_state_dict(one.state_dict())
    assert second.temperature.item() == first.temperature.item()
    one.step()
    other.step()
    assert second.temperature.item() == first.temperature.item() == pytest.approx(math.exp(-0.6))


def test_the_estimators_own_checkpoint_keeps_the_temperature():
    estimator, restored = GumbelSoftmax(temperature=0.25), GumbelSoftmax()
    restored.load_state_dict(estimator.state_dict())
    assert restored.temperature.item() == 0.25


def test_the_estimator_may_move():
    estimator = GumbelSoftmax()
    schedule = ExponentialTemperature(estimator, rate=1.0, every=1)
    estimator.to(torch.float64)
    schedule.step()
    assert estimator.temperature.item() == pytest.approx(0.5)


def test_one_of_several_temperatures():
    estimator = DecoupledGumbelSoftmax()
    ExponentialTemperature(estimator, start=3.0, argument="backward_temperature")
    assert estimator.backward_temperature.item() == 3
    assert estimator.forward_temperature.item() == 1
    with pytest.raises(TypeError, match="has forward_temperature and backward_temperature"):
        ExponentialTemperature(estimator)


# torch warns of its own Function class when it traces one.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_step_does_not_recompile():
    estimator = GumbelSoftmax(temperature=1.0)
    schedule = ExponentialTemperature(estimator, start=1.0, end=1e-4, rate=5.0, every=1)
    logits = torch.zeros(100, 5, requires_grad=True)
    seen = []

    def cost(x):
        return (x * (1 - x)).sum(-1)  # 0 at the vertices

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(logits):
        return expect(cost, Independent(Bernoulli(logits=logits), 1), estimator).mean()

    for stance in ("default", "fail_on_recompile", "fail_on_recompile"):
        with torch.compiler.set_stance(stance):
            loss = step(logits)
            loss.backward()
        seen.append(loss.item())
        schedule.step()
    assert seen[0] > 0.5
    assert seen[2] < 0.01


def test_a_step_between_forward_and_backward_is_an_error():
    estimator = GumbelSoftmax()
    schedule = ExponentialTemperature(estimator, every=1)
    logits = torch.zeros(3, requires_grad=True)
    loss = expect(lambda x: x.sum(-1), Independent(Bernoulli(logits=logits), 1), estimator)
    schedule.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_learned_temperature_is_refused():
    with pytest.raises(TypeError, match=r"REBAR learns it, as log_temperature.*Give REBAR\.parameters\(\)"):
        ExponentialTemperature(REBAR())


def test_no_temperature_is_refused():
    with pytest.raises(TypeError, match="StraightThrough has none"):
        ExponentialTemperature(StraightThrough())


@pytest.mark.parametrize(
    "numbers", [{"start": 0.0}, {"end": -1.0}, {"rate": math.inf}, {"every": 0}, {"every": 1.5}, {"start": 0.1}]
)
def test_numbers_out_of_range(numbers):
    with pytest.raises(ValueError, match="ExponentialTemperature needs"):
        ExponentialTemperature(GumbelSoftmax(), **numbers)
