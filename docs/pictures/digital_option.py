"""A payoff that jumps, the smooth value of the option, and the noise of three estimates of its slope."""

import math
from collections.abc import Callable

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Normal

import sampleprop as sp
from pictures.measure import Data, measured
from pictures.style import DOTTED, INK, MUTED, THIRD, UNBIASED, figure, panels, say, ticks

STRIKE, RATE, TIME, VOLATILITY = 100.0, 0.05, 1.0, 0.2
PRICES = torch.linspace(70, 130, 13, dtype=torch.float64)


def log_price(price: Tensor, time: float) -> Normal:
    """The distribution of the logarithm of the price after this time."""
    return Normal(price.log() + (RATE - VOLATILITY**2 / 2) * time, VOLATILITY * math.sqrt(time))


def payoff(x: Tensor) -> Tensor:
    """At the end, by the logarithm of the price, in today's money."""
    return math.exp(-RATE * TIME) * (x > math.log(STRIKE)).to(x.dtype)


def value(price: Tensor, time: float = TIME) -> Tensor:
    """The closed form of Black and Scholes, for this time before the end."""
    end = log_price(price, time)
    found: Tensor = math.exp(-RATE * TIME) * torch.special.ndtr((end.loc - math.log(STRIKE)) / end.scale)
    return found


ESTIMATES: dict[str, Callable[[Tensor], Tensor]] = {
    "score function": lambda price: sp.expect(payoff, log_price(price, TIME), sp.ScoreFunction(4)),
    "measure-valued": lambda price: sp.expect(payoff, log_price(price, TIME), sp.MeasureValued(1)),
    "conditional": lambda price: sp.expect(
        lambda x: value(x.exp(), TIME / 2), log_price(price, TIME / 2), sp.Pathwise(4)
    ),
}


def slopes(estimate: Callable[[Tensor], Tensor], prices: Tensor) -> Tensor:
    """The derivative with respect to each price."""
    prices = prices.clone().requires_grad_()
    (found,) = torch.autograd.grad(estimate(prices).sum(), prices)
    return found


def numbers(replicates: int = 100_000) -> Data:
    """Estimates of delta at each price, of four evaluations of the payoff each."""
    rows = PRICES.expand(replicates, -1)
    return {
        "replicates": replicates,
        "prices": PRICES.tolist(),
        "exact": [round(slope, 6) for slope in slopes(value, PRICES).tolist()],
        "delta": {name: [measured(of) for of in slopes(one, rows).unbind(1)] for name, one in ESTIMATES.items()},
    }


def draw(data: Data) -> Figure:
    """Left the payoff and the value; right the standard deviations on a logarithmic axis."""
    fig = figure(2.8)
    left, right = panels(fig)
    price = torch.linspace(70, 130, 121, dtype=torch.float64)
    left.plot(price, value(price), color=UNBIASED)
    left.plot([70, STRIKE], [0, 0], color=INK)
    left.plot([STRIKE, 130], [math.exp(-RATE * TIME)] * 2, color=INK)
    left.plot([STRIKE, STRIKE], [0, math.exp(-RATE * TIME)], color=INK, lw=1.4, ls=DOTTED)
    say(left, 102, 0.88, "payoff", INK)
    say(left, 87, 0.45, "value today", UNBIASED, ha="right")
    left.set_ylim(-0.03, 1.03)
    ticks(left, "x", [70, 100, 130])
    ticks(left, "y", [0, 0.5, 1])
    left.set_title("An option with a jump")
    left.set_xlabel("price of the share", loc="left")
    for name, color in {"score function": MUTED, "measure-valued": THIRD, "conditional": UNBIASED}.items():
        spread = [one["error"] * data["replicates"] ** 0.5 for one in data["delta"][name]]
        right.plot(data["prices"], spread, "o-", color=color, ms=4)
    say(right, 130, 0.0145, "score function", MUTED, ha="right")
    say(right, 103, 0.0019, "measure-valued", THIRD)
    say(right, 70, 0.0036, "conditional", UNBIASED)
    right.set_yscale("log")
    right.set_ylim(0.001, 0.025)
    ticks(right, "x", [70, 100, 130])
    ticks(right, "y", [0.001, 0.003, 0.01])
    right.set_title("Spread of one estimate of delta")
    right.set_xlabel("price of the share today", loc="left")
    return fig
