"""The sensitivities of a digital option, whose payoff is a jump: three ways that see it, against the closed form.

A digital option pays 1 at time T if the price of a share is then above the strike K. With volatility v, interest r and
today's price S its value is

    V = exp(-rT) P(x > log K),    x ~ Normal(log S + (r - v²/2) T, v √T)

Wanted are delta = ∂V/∂S, gamma = ∂²V/∂S² and vega = ∂V/∂v. The derivative of the payoff itself is zero wherever it
exists, so `Pathwise` refuses. Instead:

- score function: differentiates the probability of the paths, to any order.
- measure-valued: compares the payoff at two coupled ends of the path. First derivatives only.
- conditional: given the price at half time the value is known in closed form, and smooth in it. What is left to sample
  is the first half, through which `Pathwise` differentiates, to any order.

Each estimate evaluates the payoff four times. Run:

    python examples/digital_option.py                                # all three, some seconds
    python examples/digital_option.py --fast --estimator conditional
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.distributions import Normal

import sampleprop as sp

STRIKE, RATE, TIME = 100.0, 0.05, 1.0
DISCOUNT = math.exp(-RATE * TIME)
SPOTS = torch.linspace(70.0, 130.0, 13, dtype=torch.float64)
VOLATILITY = 0.2
CHUNK = 2_000  # estimates for each spot at a time
GREEKS = ("delta", "vega", "gamma")


def log_price(start: Tensor, volatility: Tensor, time: float) -> Normal:
    """The law of the logarithm of the price after `time`, from that at the start."""
    return Normal(start + (RATE - volatility.square() / 2) * time, volatility * math.sqrt(time))


def payoff(x: Tensor) -> Tensor:
    """What the option pays at the end, by the logarithm of the price, in today's money."""
    return DISCOUNT * (x > math.log(STRIKE)).to(x.dtype)


def closed_form(spot: Tensor, volatility: Tensor, time: float = TIME) -> Tensor:
    """Black and Scholes: the payoff's mean over the last stretch of this length, in today's money."""
    end = log_price(spot.log(), volatility, time)
    return DISCOUNT * torch.special.ndtr((end.loc - math.log(STRIKE)) / end.scale)


def score_function(spot: Tensor, volatility: Tensor, generator: Generator) -> Tensor:
    return sp.expect(payoff, log_price(spot.log(), volatility, TIME), sp.ScoreFunction(4), generator=generator)


def measure_valued(spot: Tensor, volatility: Tensor, generator: Generator) -> Tensor:
    return sp.expect(payoff, log_price(spot.log(), volatility, TIME), sp.MeasureValued(1), generator=generator)


def conditional(spot: Tensor, volatility: Tensor, generator: Generator) -> Tensor:
    def value_at_half_time(x: Tensor) -> Tensor:
        return closed_form(x.exp(), volatility, TIME / 2)

    half_time = log_price(spot.log(), volatility, TIME / 2)
    return sp.expect(value_at_half_time, half_time, sp.Pathwise(4), generator=generator)


Value = Callable[[Tensor, Tensor, Generator], Tensor]
ESTIMATORS: dict[str, Value] = {
    "score function": score_function,
    "measure-valued": measure_valued,
    "conditional": conditional,
}
FIRST_ORDER = ("measure-valued",)


def sensitivities(value: Callable[[Tensor, Tensor], Tensor], spot: Tensor, volatility: Tensor, order: int) -> Tensor:
    """Delta, vega and, for order 2, gamma of each element of `spot`: [order + 1, *spot]."""
    spot, volatility = (x.clone().requires_grad_() for x in torch.broadcast_tensors(spot, volatility))
    delta, vega = torch.autograd.grad(value(spot, volatility).sum(), (spot, volatility), create_graph=order > 1)
    if order == 1:
        return torch.stack((delta, vega))
    (gamma,) = torch.autograd.grad(delta.sum(), spot)
    return torch.stack((delta, vega, gamma)).detach()


def estimate(name: str, spots: Tensor, volatility: float, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """The mean and the standard error of `count` estimates: [greeks, spots] each."""
    order = 1 if name in FIRST_ORDER else 2
    total, squares, done = 0.0, 0.0, 0
    while done < count:
        rows = spots.expand(min(CHUNK, count - done), -1)  # [estimates, spots]
        found = sensitivities(
            lambda s, v: ESTIMATORS[name](s, v, generator), rows, torch.tensor(volatility, dtype=torch.float64), order
        )
        total, squares, done = total + found.sum(1), squares + found.square().sum(1), done + rows.shape[0]
        print(f"\r{name}: {done} of {count} estimates", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    mean = total / count
    return mean, ((squares / count - mean.square()) / count).sqrt()


def table(exact: Tensor, found: dict[str, tuple[Tensor, Tensor]], spot: int) -> str:
    """Estimates with their standard errors, for one of the spots."""
    lines = [
        f"S = {SPOTS[spot]:g}, K = {STRIKE:g}, v = {VOLATILITY:g}, r = {RATE:g}, T = {TIME:g}",
        f"{'':16}" + "".join(f"{greek:>12}{'':12}" for greek in GREEKS).rstrip(),
        f"{'closed form':16}" + "".join(f"{x:12.6f}{'':12}" for x in exact[:, spot].tolist()).rstrip(),
    ]
    for name, (mean, error) in found.items():
        cells = [f"{m:12.6f} ± {e:<9.1e}" for m, e in zip(mean[:, spot].tolist(), error[:, spot].tolist(), strict=True)]
        lines.append(f"{name:16}{''.join(cells)}".rstrip())
    worst = {name: float(((m - exact[: len(m)]) / e).abs().max()) for name, (m, e) in found.items()}
    lines.append("largest error at any S, in standard errors: " + ", ".join(f"{k} {z:.1f}" for k, z in worst.items()))
    return "\n".join(lines)


def picture(exact: Tensor, found: dict[str, tuple[Tensor, Tensor]], path: Path) -> None:
    """The sensitivities by the spot: the closed form as a line, estimates with bars of two standard errors, and
    those below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), dpi=110, layout="constrained")
    for row, (above, below, greek) in enumerate(zip(*figure.subplots(2, 3, sharex=True), GREEKS, strict=True)):
        above.plot(SPOTS, exact[row], color="0.6", label="closed form")
        for i, (name, (mean, error)) in enumerate(found.items()):
            if row < len(mean):
                above.errorbar(SPOTS, mean[row], 2 * error[row], fmt=f"C{i}.", ms=3, lw=1, capsize=3, label=name)
                below.plot(SPOTS, error[row], f"C{i}.-", ms=3, lw=1)
        above.set(title=greek)
        below.set(title=f"standard error of {greek}", yscale="log", xlabel="price of the share today")
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimator", choices=("all", *ESTIMATORS), default="all")
    parser.add_argument("--estimates", type=int, default=100_000, help="of each, for each price of the share")
    parser.add_argument("--fast", action="store_true", help="2000 estimates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=Path("sampleprop-out/digital_option.png"))
    arguments = parser.parse_args()
    if arguments.estimates < 2:
        parser.error(f"a standard error needs --estimates 2 or more; got {arguments.estimates}")
    generator = Generator().manual_seed(arguments.seed)
    exact = sensitivities(closed_form, SPOTS, torch.tensor(VOLATILITY, dtype=torch.float64), 2)
    names = list(ESTIMATORS) if arguments.estimator == "all" else [arguments.estimator]
    count = 2_000 if arguments.fast else arguments.estimates
    found = {name: estimate(name, SPOTS, VOLATILITY, count, generator) for name in names}
    print(table(exact, found, len(SPOTS) // 2))
    picture(exact, found, arguments.picture)
    print(f"saved {arguments.picture}")


if __name__ == "__main__":
    main()
