"""`Monitor`: the noise and the bias of an estimator's gradients while a model trains."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from sampleprop import checks, families
from sampleprop.diagnostics.measuring.attached import measured
from sampleprop.diagnostics.measuring.reference import target, unbiased
from sampleprop.diagnostics.measuring.replicates import Estimates, Measured
from sampleprop.diagnostics.measuring.tally import devices, require_estimator
from sampleprop.diagnostics.monitoring.running import Average, Drift
from sampleprop.estimator import Estimator
from sampleprop.estimators.exact.enumerate import Enumerate
from sampleprop.expectation import expect
from sampleprop.tracing import transforms_active

AVERAGES = ("variance", "signal", "zero rows", "gap", "bias", "along", "gradient")
DRIFTS = ("bias", "along", "own")
FEW_STATES = 8  # up to which the reference enumerates
SAMPLES = 4  # of the reference
STANDSTILL = 20  # calls without a change of what an estimator learns; gradients may be added up over a few


class Monitor:
    r"""Measures the gradient noise and the bias of an estimator while a model trains.

    Use `monitor.expect` in place of `sp.expect`. The first call and then every `every`-th call is a **probe**. A probe
    estimates the gradient twice more, on the same f and batch. At every `bias_every`-th probe, an unbiased estimator
    also estimates it twice. The gradient is taken with respect to the parameters of `dist`: the logits of a discrete
    family, or the tensors in `dist` if it does not keep its parameters under their names.

    The loss and its gradients are those of `sp.expect`. Probes have their own generator. They do not change the global
    random state, any `.grad`, or the estimator's parameters and mode. But they call f, so an f that counts its calls or
    keeps running averages (batch norm in train mode) sees the additional calls.

    `metrics()` and `averages()` return averages over about the last 1 / (1 - decay) probes, as floats:

    - "gradient variance": the trace of the covariance of one estimate, for one batch element.
    - "signal to noise": the length of the mean gradient over the square root of that.
    - "zero rows": the share of batch elements whose estimated gradient is exactly zero.
    - "relaxation gap": how far the value is from the expectation under true samples, for an estimator that calls f at
      relaxed points.
    - "bias": the length of the bias relative to that of the gradient; 0 if noise hides it.
    - "bias along": the component of the bias along the gradient, relative to the gradient's length; 0.1 is 10 % too
      long.
    - "bias z": the test statistic for a bias, from all probes since `reset`. Above 4 there is a bias, with one false
      alarm in 10 000 monitors. It is available from the ninth comparison on.
    - "bias visible": the "bias along" that would have reached a z of 4 with 99 % probability. A smaller
      bias can stay unseen, and so can a bias orthogonal to the gradient. It falls with the square root of the number of
      comparisons, and with the square root of the samples of `reference` as long as the noise of `reference` dominates.

    It warns once if the parameters of an estimator in training mode do not change, because they are probably in no
    optimizer.

    f is held fixed: θ's gradient is not measured, nor is the direct effect of φ inside f. One monitor watches one
    random variable. It does not work in `torch.compile`. If a wrapper counts forward passes (DistributedDataParallel),
    use the wrapped module in f.

    Args:
        every: the number of calls from one probe to the next, at least 1. A probe evaluates f at twice as many points
            as the estimator.
        bias_every: the number of probes from one comparison with the reference to the next, at least 1. A comparison
            adds twice the points of the reference.
        reference: an unbiased estimator of the same objective. None enumerates up to 8 joint states, and otherwise
            takes the score function with 4 samples (:class:`VIMCO` for the multi-sample bound, `Pathwise` where the
            support moves).
        decay: the factor of the averages from probe to probe, inside (0, 1).
        seed: for the probes' noise.
        name: put before each key with a slash, to tell variables apart: "encoder/bias z".

    Raises:
        ValueError: for arguments out of range.
        TypeError: in the first call, for an object that is not an estimator, and for a distribution whose parameters
            cannot be copied and that has no tensor which requires a gradient.
        RuntimeError: under `torch.compile` and `torch.func`.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.zeros(5, 3, requires_grad=True)
        >>> monitor = sp.Monitor(every=2)
        >>> for step in range(4):
        ...     q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        ...     monitor.expect(lambda x: (x.sum(-1) - 1).square(), q, sp.ScoreFunction(4)).mean().backward()
        ...     print(step, "gradient variance" in monitor.metrics())
        0 True
        1 False
        2 True
        3 False
    """

    def __init__(
        self,
        *,
        every: int = 50,
        bias_every: int = 8,
        reference: Estimator[Any, Any] | None = None,
        decay: float = 0.9,
        seed: int = 0,
        name: str = "",
    ) -> None:
        for argument, value in (("every", every), ("bias_every", bias_every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Monitor needs {argument} to be a whole number, at least 1; got {value!r}.")
        if not 0 < decay < 1:
            raise ValueError(f"Monitor needs decay inside (0, 1); got {decay}.")
        self.every = every
        self.bias_every = bias_every
        self.reference = None if reference is None else require_estimator("Monitor", reference)
        if self.reference is not None and not self.reference.unbiased:
            raise ValueError(
                f"Monitor needs an unbiased reference; got {self.reference.label}. Pass ScoreFunction(8), say."
            )
        self.decay = decay
        self.seed = seed
        self.name = name
        self.calls = 0
        self._learned: tuple[int, tuple[float, ...]] | None = None  # since which call its own parameters have stood
        self._warned = False
        self.reset()

    def reset(self) -> None:
        """Forget all probes, for example after a change of the estimator."""
        self.probes = 0
        self.skipped = 0
        self._fresh = False
        self._averages = {name: Average() for name in AVERAGES}
        self._drifts = {name: Drift(Average()) for name in DRIFTS}

    def expect(
        self,
        f: Callable[[Tensor], Any],
        dist: Distribution,
        estimator: Estimator[Any, Any],
        *,
        context: Tensor | None = None,
        generator: Generator | None = None,
        nonfinite: checks.Nonfinite = "raise",
    ) -> Tensor:
        """`sp.expect`, with the same arguments and the same result; some of the calls make a probe first.

        Calls without gradients (validation) are neither probed nor counted.
        """
        _refuse_traced()
        require_estimator("Monitor", estimator)
        if torch.is_grad_enabled():
            if self.calls % self.every == 0:
                self._watch(estimator)
                self.probe(f, dist, estimator, context=context, nonfinite=nonfinite)
            self.calls += 1
        return expect(f, dist, estimator, context=context, generator=generator, nonfinite=nonfinite)

    def probe(
        self,
        f: Callable[[Tensor], Any],
        dist: Distribution,
        estimator: Estimator[Any, Any],
        *,
        context: Tensor | None = None,
        nonfinite: checks.Nonfinite = "raise",
    ) -> None:
        """Measure now. A probe with a gradient that is not finite is left out, and counted in `skipped`."""
        _refuse_traced()
        refusal = require_estimator("Monitor", estimator).refusal(dist)
        if refusal is not None:
            raise TypeError(refusal)
        with torch.inference_mode(False), torch.enable_grad(), _in_eval_mode(estimator, self.reference):
            # A probe draws more than the training, and its costs that are not finite must not end the training.
            expectation = measured(f, dist, context, "drop" if nonfinite == "drop" else "propagate", apart=True)
            found = None if self.probes % self.bias_every else self._unbiased(expectation, estimator)
            seed = (self.seed << 32) + self.probes + self.skipped
            generator = expectation.generator(seed)
            # What f draws itself must not move the random state of the training.
            with torch.random.fork_rng(devices=devices(dist)):
                torch.manual_seed(seed)
                # One estimate in a call, as in the training, so that it needs no more memory than that.
                own = expectation.estimates(estimator, 2, generator, at_once=1)
                other = None if found is None else found[0].estimates(found[1], 2, generator, at_once=1)
        both = [own] if other is None else [own, other]
        if not all(bool((e.gradients.sum() + e.values.sum()).isfinite()) for e in both):
            self.skipped += 1
            return
        self._measure(expectation, estimator, own, other)
        self.probes += 1
        self._fresh = True

    def metrics(self) -> dict[str, float]:
        """The averages if there was a probe since the last call, otherwise {}: give it to a logger at every step."""
        fresh, self._fresh = self._fresh, False
        return self.averages() if fresh else {}

    def averages(self) -> dict[str, float]:
        """The averages so far; {} before the first probe. Those that are unknown, or not finite, are left out."""
        found = {name: average.value for name, average in self._averages.items()}
        squared, along, own = (self._drifts[name] for name in DRIFTS)
        visible = [_ratio(along.visible, found["gradient"]), _ratio(own.visible, found["signal"])]
        variance = found["variance"]
        numbers = {
            "gradient variance": variance,
            "signal to noise": _ratio(math.sqrt(max(0.0, found["signal"])), math.sqrt(max(0.0, variance))),
            "zero rows": found["zero rows"],
            "relaxation gap": found["gap"],
            "bias": _ratio(math.sqrt(max(0.0, found["bias"])), math.sqrt(max(0.0, found["gradient"]))),
            "bias along": _ratio(found["along"], found["gradient"]),
            # A squared length is never negative; along the gradient a bias has either sign.
            "bias z": max(squared.z, abs(along.z), abs(own.z)),
            "bias visible": min((x for x in visible if x > 0), default=math.nan),
        }
        prefix = f"{self.name}/" if self.name else ""
        return {prefix + name: number for name, number in numbers.items() if math.isfinite(number)}

    def state_dict(self) -> dict[str, Any]:
        """The counts and the running sums, as numbers in dicts, for a checkpoint."""
        return {
            "calls": self.calls,
            "probes": self.probes,
            "skipped": self.skipped,
            "averages": {name: asdict(average) for name, average in self._averages.items()},
            "drifts": {name: asdict(drift) for name, drift in self._drifts.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.calls, self.probes, self.skipped = (state[name] for name in ("calls", "probes", "skipped"))
        self._averages = {name: Average(**state["averages"][name]) for name in AVERAGES}
        drifts = state["drifts"]
        self._drifts = {name: Drift(**drifts[name] | {"size": Average(**drifts[name]["size"])}) for name in DRIFTS}

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name} {number:.3g}" for name, number in self.averages().items())
        return f"Monitor(every={self.every}), {self.probes} probes{': ' if numbers else ''}{numbers}"

    def _watch(self, estimator: Estimator[Any, Any]) -> None:
        """Warn once where the estimator's own parameters have not moved: they are in no optimizer, it seems."""
        if self._warned or not estimator.learns or not estimator.training:
            return
        now = tuple(float(p.detach().double().norm()) for p in estimator.parameters() if p.requires_grad)
        if self._learned is None or self._learned[1] != now:
            self._learned = (self.calls, now)
        elif self.calls - self._learned[0] >= STANDSTILL:
            self._warned = True
            warnings.warn(
                f"{estimator.label} learns {', '.join(estimator.learns)}, which did not change in "
                f"{self.calls - self._learned[0]} calls. Give estimator.parameters() to your optimizer too; or call "
                "estimator.eval(), if it is not to learn.",
                stacklevel=3,
            )

    def _unbiased(
        self, expectation: Measured, estimator: Estimator[Any, Any]
    ) -> tuple[Measured, Estimator[Any, Any]] | None:
        wanted = target(estimator)
        if self.reference is not None:
            refusal = self.reference.refusal(expectation.dist)
            if refusal is None and target(self.reference) != wanted:
                refusal = f"Monitor needs a reference of the objective {wanted}; got {target(self.reference)}."
            if refusal is not None:
                raise TypeError(refusal)
            return expectation, self.reference
        variables = expectation.variables
        if (
            wanted.objective == "mean"
            and isinstance(variables, families.Enumerable)
            and variables.support_size <= FEW_STATES
        ):
            return expectation, Enumerate()
        return unbiased(expectation, wanted, SAMPLES)

    def _measure(
        self, expectation: Measured, estimator: Estimator[Any, Any], own: Estimates, other: Estimates | None
    ) -> None:
        # Each has two independent estimates, so that the mean of their product is the product of their means.
        size = math.prod(expectation.batch)
        first, second = own.gradients  # [coordinates]
        signal = float(first @ second) / size
        self._add("variance", float((first - second).square().sum()) / 2 / size)
        self._add("signal", signal)
        self._add("zero rows", float((expectation.rows(own.gradients) == 0).all(-1).double().mean()))
        if other is None:
            return
        gradient = float(other.gradients[0] @ other.gradients[1]) / size
        common = float(own.gradients.mean(0) @ other.gradients.mean(0)) / size
        # b = m - g for the means m and g: |b|², b·g and b·m. b·g is more precise where the reference has little noise,
        # else b·m.
        found = {"bias": signal - 2 * common + gradient, "along": common - gradient, "own": signal - common}
        for name, x in found.items():
            self._drifts[name].add(x, self.decay)
        self._add("gradient", gradient)
        self._add("bias", found["bias"])
        self._add("along", found["along"])
        if not estimator.exact_forward:
            self._add("gap", float((own.values - other.values).mean()) / size)

    def _add(self, name: str, x: float) -> None:
        self._averages[name].add(x, self.decay)


def _refuse_traced() -> None:
    if torch.compiler.is_dynamo_compiling() or transforms_active():
        raise RuntimeError(
            "Monitor needs eager code, because its probes are no part of the step; got torch.compile or torch.func. "
            "Compile the model and the cost, not the step, or call monitor.probe(...) beside the compiled step."
        )


@contextmanager
def _in_eval_mode(*estimators: Estimator[Any, Any] | None) -> Iterator[None]:
    """Put the estimators in eval mode, so that no control variate is trained; restore every mode at the end."""
    training: list[nn.Module] = [m for e in estimators if e is not None for m in e.modules() if m.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.nan
