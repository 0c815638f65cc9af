"""The digital option of the examples: its jump is refused by `Pathwise`, and seen by the others.

Random tests have fixed seeds. A z-test fails at 5 standard errors, by chance once in 1.7 million; with 24 comparisons
that is a false alarm once in 70,000 seeds.
"""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Normal

import sampleprop as sp

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "digital_option.py"
SPOTS = torch.tensor([85.0, 100.0, 120.0], dtype=torch.float64)
VOLATILITY = torch.tensor(0.2, dtype=torch.float64)
COUNT = 20_000
Z = 5.0


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digital_option", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


option = _load()


def greeks() -> Tensor:
    """Delta, vega and gamma as the textbooks write them, [3, spots]."""
    root, rate, time, v = math.sqrt(option.TIME), option.RATE, option.TIME, VOLATILITY
    d2 = ((SPOTS / option.STRIKE).log() + (rate - v.square() / 2) * time) / (v * root)
    d1 = d2 + v * root
    density = math.exp(-rate * time) * (-d2.square() / 2).exp() / math.sqrt(2 * math.pi)
    return torch.stack((density / (SPOTS * v * root), -density * d1 / v, -density * d1 / (SPOTS * v).square() / time))


def test_closed_form() -> None:
    found = option.sensitivities(option.closed_form, SPOTS, VOLATILITY, 2)
    torch.testing.assert_close(found, greeks(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", option.ESTIMATORS)
def test_greeks(name: str) -> None:
    order = 1 if name in option.FIRST_ORDER else 2
    mean, error = option.estimate(name, SPOTS, VOLATILITY.item(), COUNT, Generator().manual_seed(1))
    exact = greeks()[: order + 1]
    assert mean.shape == exact.shape
    assert ((mean - exact) / error).abs().max() < Z
    # What could be seen: where a sensitivity is largest, an error of a tenth, but for the score function's gamma.
    power = 0.1 * exact.abs().amax(1) / error.gather(1, exact.abs().argmax(1, keepdim=True)).squeeze(1)
    assert power[:2].min() > 2
    assert power.min() > 1


@pytest.mark.parametrize("name", option.ESTIMATORS)
def test_value(name: str) -> None:
    """Of the price itself, [spots], by the mean over rows."""
    rows = SPOTS.expand(COUNT, -1)
    found = option.ESTIMATORS[name](rows, VOLATILITY.expand_as(rows), Generator().manual_seed(1)).detach()
    error = found.std(0) / math.sqrt(COUNT)
    assert ((found.mean(0) - option.closed_form(SPOTS, VOLATILITY)) / error).abs().max() < Z


# --- the jump and `Pathwise` --------------------------------------------------------------------------------------


def _law() -> Normal:
    return option.log_price(SPOTS.clone().requires_grad_().log(), VOLATILITY, option.TIME)


def test_pathwise_refuses_the_jump() -> None:
    with pytest.raises(RuntimeError, match="Pathwise needs a cost that is differentiable in x; got one with no path"):
        sp.expect(option.payoff, _law(), sp.Pathwise())


def test_the_default_is_an_estimator_that_sees_the_jump() -> None:
    spots = SPOTS.expand(COUNT, -1)

    def value(spot: Tensor, volatility: Tensor) -> Tensor:
        return sp.expect(option.payoff, option.log_price(spot.log(), volatility, option.TIME))

    delta = option.sensitivities(value, spots, VOLATILITY, 1)[0]
    error = delta.std(0) / math.sqrt(COUNT)
    assert ((delta.mean(0) - greeks()[0]) / error).abs().max() < Z


def test_a_jump_behind_a_path_is_not_seen_and_check_finds_it() -> None:
    """A payoff of the price where it is above the strike: its slope leads to x, its jump does not."""

    def asset_or_nothing(x: Tensor) -> Tensor:
        return option.payoff(x) * x.exp()

    assert sp.expect(asset_or_nothing, _law(), sp.Pathwise()).requires_grad
    report = sp.check(asset_or_nothing, _law(), sp.Pathwise())
    assert not report.ok
    assert "jump in f" in [finding.name for finding in report.findings]


# --- the script ---------------------------------------------------------------------------------------------------


def test_runs_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "digital.png"
    monkeypatch.setattr(sys, "argv", ["digital_option.py", "--fast", "--picture", str(picture)])
    option.main()
    printed = capsys.readouterr().out
    assert [line.split("  ")[0] for line in printed.splitlines()[2:6]] == ["closed form", *option.ESTIMATORS]
    assert picture.read_bytes().startswith(b"\x89PNG")
