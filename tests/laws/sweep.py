"""What a cell of the sweep is, and how its verdict is established."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

import sampleprop as sp
from laws.table import REGIMES, Law
from sampleprop import families

ESTIMATORS: dict[str, sp.Estimator[Any, Any] | None] = {
    "ScoreFunction": sp.ScoreFunction(),
    "Pathwise": sp.Pathwise(),
    "default": None,
    "MeasureValued": sp.MeasureValued(),
    "LAX": sp.LAX(),
    "EvolutionStrategies": sp.EvolutionStrategies(),
}
METHODS = ("sample", "rsample", "log_prob", "probs", "logits")
Z = 6.5  # two-sided 8e-11; with 10,000 comparisons a false alarm once in a million runs
BIAS = 0.02  # of evolution strategies, in the same unit
ROUNDING = 1e-3  # of f's range, which is 1, or of the exact number where that is larger


class Verdict(NamedTuple):
    """What came of a cell; a cell that is neither of these raises, for it would be silent."""

    kind: Literal["right", "refused", "not finite"]
    says: str = ""


class Ramp(NamedTuple):
    """f: from 0 to 1 on an interval of the statistic, and level beyond."""

    start: float
    width: float
    narrow: bool = False  # whether all samples lie on the slope, so that the mean decides

    def __call__(self, t: Tensor) -> Tensor:
        return ((t.double() - self.start) / self.width).clamp(0, 1)


def run(law: Law, regime: int, name: str, rows: int, kind: type[Distribution] | None = None) -> Verdict:
    """The verdict of an estimator on a law: refused by an error of ours, or right by a z-test of value and gradient.

    Raises:
        AssertionError: for a wrong value or gradient.
    """
    parameters = rounded(law, regime)
    ramp, exact, slopes = reference(law, regime)
    p = torch.tensor(parameters, dtype=torch.float32).expand(rows, -1).clone().requires_grad_()
    try:
        dist = law.build(law.kind if kind is None else kind, *p.unbind(-1))
        f = lambda x: ramp(law.statistic(x))  # noqa: E731
        value = sp.expect(f, dist, _estimator(name, law, slopes, parameters), generator=Generator().manual_seed(7))
        (gradient,) = torch.autograd.grad(value.sum(), p)
    except (TypeError, ValueError, RuntimeError) as error:
        return Verdict("refused", _ours(error))
    units = torch.tensor(law.steps(parameters), dtype=torch.float64)
    rounding = BIAS if name == "EvolutionStrategies" else ROUNDING
    _close("value", value.detach().double().unsqueeze(-1), torch.tensor([exact]), rounding)
    if not bool(gradient.isfinite().all()):
        return Verdict("not finite")
    _close("gradient", (gradient.double() * units)[:, law.fixed :], torch.tensor(slopes[law.fixed :]), rounding)
    return Verdict("right")


def _estimator(name: str, law: Law, slopes: tuple[float, ...], parameters: tuple[float, ...]) -> Any:
    """The estimator; evolution strategies with a step that is small beside the scale on which L changes."""
    if name != "EvolutionStrategies":
        return ESTIMATORS[name]
    steep = max(1.0, *(abs(slope) for slope in slopes))
    absolute = [unit for unit, p in zip(law.steps(parameters), parameters, strict=True) if unit != p]
    return sp.EvolutionStrategies(sigma=max(0.02 * min([1.0, *absolute]) / steep, 1e-30))


def _close(what: str, found: Tensor, exact: Tensor, rounding: float) -> None:
    error = found.std(0) / len(found) ** 0.5
    excess = (found.mean(0) - exact).abs() - rounding * exact.abs().clamp_min(1)
    assert bool((excess <= Z * error).all()), (
        f"{what}: mean {found.mean(0).tolist()} ± {error.tolist()}, exact {exact.tolist()}"
    )


def _ours(error: Exception) -> str:
    """The message of a refusal; raises for one that torch or Python made."""
    text = str(error)
    if not any(
        words in text for words in (" needs ", " differentiates ", "Expected value argument", "Expected parameter")
    ):
        raise AssertionError(f"an error that is not ours: {type(error).__name__}: {text[:200]}") from error
    return text


def rounded(law: Law, regime: int) -> tuple[float, ...]:
    """The parameters as float32 has them."""
    return tuple(float(np.float32(x)) for x in law.parameters[regime])


@cache
def reference(law: Law, regime: int) -> tuple[Ramp, float, tuple[float, ...]]:
    """f, E[f] and its derivative with respect to each parameter, times the parameter's unit; without torch.

    E[f] is the mean of the survival function over the interval on which f rises.
    """
    parameters = rounded(law, regime)
    ramp, cuts = _ramp(law, parameters)
    inner = cuts[1:-1] or cuts
    narrow = min(1.0, (inner[-1] - inner[0]) / max(abs(inner[0]), abs(inner[-1]), 1e-45)) if not law.whole else 1.0

    def mean(*p: float) -> float:
        if law.mean is not None and ramp.narrow and regime == len(REGIMES) - 1:
            return (law.mean(*p) - ramp.start) / ramp.width
        return _integral(lambda x: law.survival(x, *p), cuts, law.whole) / ramp.width

    slopes = []
    for i, unit in enumerate(law.steps(parameters)):
        h = 1e-3 * (max(narrow, 1e-9) if unit == parameters[i] else 1.0)
        moved = [tuple(x + n * h * unit * (j == i) for j, x in enumerate(parameters)) for n in (-2, -1, 1, 2)]
        a, b, c, d = (mean(*p) for p in moved)
        slopes.append((a - 8 * b + 8 * c - d) / (12 * h))
    result = ramp, mean(*parameters), tuple(slopes)
    assert np.isfinite([*result[0], result[1], *slopes]).all(), (law.name, REGIMES[regime], result)
    return result


def _ramp(law: Law, parameters: tuple[float, ...]) -> tuple[Ramp, list[float]]:
    """Between the quantiles at 0.3 and 0.8 of the law, where float32 tells them apart; and where to cut the integral."""
    p = torch.tensor(parameters, dtype=torch.float64).expand(4000, -1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            t = law.statistic(families.recognize(law.build(law.kind, *p.unbind(-1))).sample(1)[0]).double()
        except ValueError:  # refused, so that f does not matter
            return Ramp(0.0, 1.0), [0.0, 1.0]
    quantiles = [float(torch.quantile(t, q)) for q in (0.0, 0.05, 0.3, 0.55, 0.8, 0.95, 1.0)]
    start, end = quantiles[2], quantiles[4]
    if law.whole:
        ramp = Ramp(start - 0.5, max(end - start, 1.0))
    elif not np.isfinite([start, end]).all() or end - start < 1e-4 * max(abs(start), 1e-40):
        wide = max(1.0, abs(start)) if np.isfinite(start) else 1.0
        low = min(0.0, start - wide / 2) if np.isfinite(start) else 0.0
        spread = quantiles[-1] - quantiles[0]
        ramp = (
            Ramp(low, 2 * wide, bool(spread < 1e-3 * wide))
            if np.isfinite(end) and spread < 1e-3 * wide
            else Ramp(0.0, 1.0)
        )
    else:
        ramp = Ramp(start, end - start)
    low, high = ramp.start, ramp.start + ramp.width
    beyond = quantiles[-1] - quantiles[0]
    inner = [quantiles[0] - beyond, *quantiles, quantiles[-1] + beyond]
    return ramp, sorted({low, high, *(min(max(q, low), high) for q in inner if np.isfinite(q))})


def _integral(survival: Callable[[Any], Any], cuts: list[float], whole: bool) -> float:
    """The integral of the survival function from the first to the last of these numbers."""
    low, high = cuts[0], cuts[-1]
    if whole and high - low <= 4000:
        steps = np.unique(np.concatenate(([low], np.arange(np.ceil(low), high), [high])))
        return float((survival((steps[:-1] + steps[1:]) / 2) * np.diff(steps)).sum())
    nodes, weights = np.polynomial.legendre.leggauss(60)
    parts = zip(cuts[:-1], cuts[1:], strict=True)
    return float(sum((survival(a + (b - a) * (nodes + 1) / 2) * weights).sum() * (b - a) / 2 for a, b in parts))
