"""The replicates of one estimator, collected group by group, and its time."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from sampleprop.diagnostics.measuring.replicates import Estimates, Measured, buffers_kept
from sampleprop.diagnostics.measuring.statistics import signal
from sampleprop.estimator import Estimator
from sampleprop.families.parameters import device_of

GROUPS = 32


class Moments:
    """Independent estimates: group means, and the moments from which the variance follows.

    Args:
        label: what made them.
        trained: how many steps its own parameters were trained before.
    """

    def __init__(self, label: str, trained: int = 0) -> None:
        self.label = label
        self.trained = trained
        self.evaluations = 0
        self.means: list[Tensor] = []  # [coordinates] each
        self.values: list[float] = []
        self.squares: list[Tensor] = []  # squared distances from the first group's mean, one for each replicate
        self.seconds: list[float] = []

    def add(self, estimates: Estimates) -> None:
        """Add independent estimates."""
        gradients = estimates.gradients
        if not bool(gradients.isfinite().all()):
            raise ValueError(
                f"{self.label} needs finite gradients to be judged; got NaN or infinite ones. Look at f's derivative "
                "where the estimator evaluates it, and at the log-probability."
            )
        self.evaluations = estimates.evaluations
        self.means.append(gradients.mean(0))
        self.values.append(float(estimates.values.mean()))
        self.squares.append((gradients - self.means[0]).square().sum(1))

    @property
    def replicates(self) -> int:
        """How many estimates there are."""
        return sum(len(squares) for squares in self.squares)

    def variance(self) -> tuple[float, float]:
        """The trace of the covariance of one estimate, and its standard error."""
        squares = torch.cat(self.squares)
        count = len(squares)
        shift = (torch.stack(self.means).mean(0) - self.means[0]).square().sum()
        trace = (float(squares.sum()) - count * float(shift)) / (count - 1)
        return max(trace, 0.0), float(squares.std()) / math.sqrt(count)

    def signal_to_noise(self) -> float:
        """The length of the gradient over the standard deviation of one estimate."""
        trace, _ = self.variance()
        length = signal(torch.stack(self.means))
        return length / math.sqrt(trace) if trace > 0 else math.inf


class Tally(Moments):
    """The replicates of one estimator."""

    def __init__(self, estimator: Estimator[Any, Any], generator: Generator) -> None:
        super().__init__(estimator.label)
        self.estimator = estimator
        self.generator = generator


def time_one(expectation: Measured, tally: Tally) -> None:
    """Time one estimate, forward and backward, as in a training step."""
    with buffers_kept(tally.estimator):
        tally.estimator.train()
        start = time.perf_counter()
        expectation.step(tally.estimator, tally.generator)
        tally.seconds.append(time.perf_counter() - start)
        tally.estimator.eval()


def require_estimator(name: str, estimator: object) -> Estimator[Any, Any]:
    """The same object; refuse what is no estimator object."""
    if isinstance(estimator, Estimator):
        return estimator
    if isinstance(estimator, type) and issubclass(estimator, Estimator):
        raise TypeError(
            f"{name} needs an estimator object; got the class {estimator.__name__}. Make one: {estimator.__name__}()."
        )
    raise TypeError(f"{name} needs an estimator object; got {estimator!r:.80}. Pass sp.ScoreFunction(), say.")


def devices(dist: Distribution | None = None) -> list[torch.device]:
    """The CUDA devices whose random state f may use; those of a program, without a distribution."""
    if dist is None:
        return [torch.device("cuda", torch.cuda.current_device())] if torch.cuda.is_initialized() else []
    device = device_of(dist)
    return [device] if device.type == "cuda" else []
