"""Temperature schedules: fixed temperatures that fall in the course of training."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from sampleprop import checks
from sampleprop.estimator import Estimator


class ExponentialTemperature:
    r"""Lowers the temperature of an estimator exponentially, down to a floor.

    .. math:: \tau_t = \max(\tau_{\text{end}},\; \tau_{\text{start}}\, e^{-r t'}), \qquad
        t' = t \text{ rounded down to a multiple of } n

    The temperature is written into the estimator's buffer, so `torch.compile` need not compile again. Call `step` after
    the backward pass, because the backward pass needs the temperature of the forward pass. For any other rule, write
    into the buffer yourself: `estimator.temperature.fill_(0.7)`.

    Source: Jang, Gu and Poole (2017), "Categorical reparameterization with Gumbel-softmax", sec. 4.

    Args:
        estimator: any that has a fixed temperature.
        start: the temperature at first, above 0.
        end: the floor, above 0 and at most `start`.
        rate: r, per step, above 0.
        every: n, the number of steps between changes, at least 1.
        argument: the name of the temperature, if the estimator has several.

    Raises:
        TypeError: for an estimator that has no such temperature, or learns it.
        ValueError: for numbers out of range.

    Example:
        >>> import sampleprop as sp
        >>> estimator = sp.GumbelSoftmax()
        >>> schedule = sp.ExponentialTemperature(estimator, start=1.0, end=0.5, rate=0.1, every=2)
        >>> for _ in range(5):
        ...     schedule.step()
        >>> round(estimator.temperature.item(), 4)
        0.6703
    """

    def __init__(
        self,
        estimator: Estimator[Any, Any],
        *,
        start: float = 1.0,
        end: float = 0.5,
        rate: float = 1e-4,
        every: int = 500,
        argument: str = "temperature",
    ) -> None:
        name = type(self).__name__
        for field, number in (("start", start), ("end", end), ("rate", rate), ("every", every)):
            checks.positive(name, field, number)
        if end > start:
            raise ValueError(f"{name} needs end at most start; got end={end} above start={start}. Exchange them.")
        if not isinstance(every, int):
            raise ValueError(f"{name} needs a whole number of steps between changes; got every={every!r}.")
        if argument not in dict(estimator.named_buffers(recurse=False)):
            raise TypeError(f"{name} needs an estimator with a fixed {argument}; {_lack(estimator, argument)}")
        self.estimator = estimator
        self.start = start
        self.end = end
        self.rate = rate
        self.every = every
        self.argument = argument
        self.steps = 0
        self._write()

    @property
    def temperature(self) -> float:
        """The temperature at the present step."""
        return max(self.end, self.start * math.exp(-self.rate * (self.steps // self.every * self.every)))

    def step(self) -> None:
        """Count one training step, and change the temperature if it is time."""
        self.steps += 1
        if self.steps % self.every == 0:
            self._write()

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint must keep: the number of steps."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a checkpoint, with its temperature."""
        self.steps = state["steps"]
        self._write()

    def _write(self) -> None:
        # Looked up each time: `estimator.to(device)` puts another tensor in the buffer's place.
        buffer = getattr(self.estimator, self.argument)
        assert isinstance(buffer, Tensor)
        buffer.fill_(self.temperature)


def _lack(estimator: Estimator[Any, Any], argument: str) -> str:
    learned = [name for name in estimator.learns if argument in name]
    if learned:
        return (
            f"{estimator.name} learns it, as {learned[0]}, and a schedule would undo that. Give "
            f"{estimator.name}.parameters() to an optimizer instead."
        )
    others = [name for name, _ in estimator.named_buffers(recurse=False) if "temperature" in name]
    if others:
        return f"{estimator.name} has {' and '.join(others)}. Choose with argument={others[0]!r}."
    return f"{estimator.name} has none, so there is nothing to lower."
