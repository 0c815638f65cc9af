"""The solutions of a solver at perturbed scores: perturb-and-MAP.

Source: [papandreou2011perturb]; [berthet2020learning]. Differences from the papers: the noise is independent in each
score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Generator, Size, Tensor
from torch.distributions import constraints

from sampleprop import noise as noises
from sampleprop.families.solutions import Solved
from sampleprop.tracing import inspectable

Noise = Literal["normal", "gumbel"]


class PerturbAndMAP(Solved):
    r"""Solve a problem whose scores are perturbed by noise: the distribution of a user's solver.

    .. math:: y = \operatorname{solver}(\theta + \sigma Z), \qquad
        \operatorname{solver}(s) \in \arg\max_y \langle y, s\rangle

    The solver is any callable, such as one that calls scipy, networkx or OR-tools. It gets the scores of all points
    at once, [m, \*scores], detached, and returns [m, \*event], tensors or arrays. It must *maximize*: for costs to be
    minimized pass `-costs` as scores. It must be deterministic. :func:`check` looks for both mistakes.

    Use it with :class:`PerturbedScore`, which is unbiased for any f, or with :class:`IMLE`, which is not. There is no
    log-probability: estimators that need one refuse it. With Gumbel noise and the argmax as solver, this is a one-hot
    variable with the logits θ / σ.

    Args:
        scores: θ, [\*batch, \*scores].
        solver: from perturbed scores to solutions.
        noise: "normal" or "gumbel", standard and independent.
        scale: σ, above 0. A larger one smooths more, and lowers the variance of :class:`PerturbedScore` as 1 / σ².
        event_ndim: how many trailing dimensions of the scores belong to one problem.
        event_shape: the shape of one solution; None for that of its scores.
        numpy: whether the solver gets numpy arrays, on the CPU.
        workers: how many processes of joblib share the rows, if more than 1.

    Raises:
        TypeError: for scores that are not a floating-point tensor, and a solver that cannot be called. When sampled,
            for solutions that are not numbers.
        ValueError: for other arguments out of range. When sampled, for solutions of another shape or that are not
            finite.

    Example:
        >>> import torch, sampleprop as sp
        >>> from scipy.optimize import linear_sum_assignment
        >>> import numpy as np
        >>> def solver(scores):
        ...     columns = [linear_sum_assignment(s, maximize=True)[1] for s in scores]
        ...     return np.eye(scores.shape[-1])[np.stack(columns)]
        >>> q = sp.PerturbAndMAP(10 * torch.eye(3), solver, event_ndim=2, numpy=True)
        >>> torch.equal(q.mode, torch.eye(3))
        True
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"scores": constraints.real}
    has_rsample = False

    def __init__(
        self,
        scores: Tensor,
        solver: Callable[[Any], Any],
        *,
        noise: Noise = "normal",
        scale: float = 1.0,
        event_ndim: int = 1,
        event_shape: Sequence[int] | None = None,
        numpy: bool = False,
        workers: int = 1,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(scores, Tensor) or not scores.is_floating_point():
            got = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
            raise TypeError(f"PerturbAndMAP needs floating-point scores; got {got}.")
        if not callable(solver):
            raise TypeError(f"PerturbAndMAP needs a solver that can be called with scores; got {solver!r}.")
        if noise not in ("normal", "gumbel"):
            raise ValueError(f'PerturbAndMAP needs noise="normal" or "gumbel"; got {noise!r}.')
        if not scale > 0:
            raise ValueError(f"PerturbAndMAP needs a scale above 0; got {scale}.")
        if not 0 <= event_ndim <= scores.dim():
            raise ValueError(
                f"PerturbAndMAP needs event_ndim from 0 to the dimensions of the scores; got {event_ndim} for "
                f"{list(scores.shape)}."
            )
        self.scores = scores
        self.solver = solver
        self.noise = noise
        self.scale = scale
        self.event_ndim = event_ndim
        self.numpy = numpy
        self.workers = workers
        batch_ndim = scores.dim() - event_ndim
        event = scores.shape[batch_ndim:] if event_shape is None else Size(event_shape)
        super().__init__(scores.shape[:batch_ndim], event, validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def standard_noise(self, shape: Size, generator: Generator | None) -> Tensor:
        draw = noises.normal if self.noise == "normal" else noises.gumbel
        return draw((*shape, *self.scores.shape), self.scores, generator)

    def slope(self, standard: Tensor) -> Tensor:
        return standard if self.noise == "normal" else 1 - (-standard).exp()

    def solve(self, scores: Tensor) -> Tensor:
        leading = scores.shape[: scores.dim() - self.event_ndim]
        rows = scores.detach().reshape(leading.numel(), *scores.shape[len(leading) :])  # [m, *scores]
        if len(rows) == 0:
            return rows.new_zeros(*leading, *self.event_shape)
        found = self._in_parallel(rows) if self.workers > 1 else self._called(rows)
        if found.shape != (len(rows), *self.event_shape):
            raise ValueError(
                f"PerturbAndMAP needs one solution for each row of scores, [m, *event] = "
                f"{[len(rows), *self.event_shape]}; the solver returned {list(found.shape)} for scores "
                f"{list(rows.shape)}. Give the shape of one solution as event_shape=..., if it is not that of the "
                "scores."
            )
        if inspectable(found) and not bool(found.isfinite().all()):
            row = int((~found.isfinite()).flatten(1).any(1).nonzero()[0])
            raise ValueError(
                f"PerturbAndMAP needs finite solutions; the solver's row {row} has one that is not, for scores from "
                f"{float(rows[row].min()):.3g} to {float(rows[row].max()):.3g}. Let the solver raise where it finds no "
                "solution, and check which scores it takes."
            )
        return found.reshape(*leading, *self.event_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        perturbed = self.scores.detach() + self.scale * self.standard_noise(Size(sample_shape), None)
        return self.solve(perturbed.to(self.scores.dtype))

    @property
    def mode(self) -> Tensor:
        """The solution without noise, which need not be the most probable one."""
        return self.solve(self.scores)

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError(
            "PerturbAndMAP has no log-probability that is known: a solver says which solution is best, not how "
            "probable it is. Use PerturbedScore, or KSubset, LinearChain, SpanningTree or Matching, which have one."
        )

    def with_scores(self, scores: Tensor) -> Self:
        return type(self)(
            scores,
            self.solver,
            noise=self.noise,
            scale=self.scale,
            event_ndim=self.event_ndim,
            event_shape=self.event_shape,
            numpy=self.numpy,
            workers=self.workers,
            validate_args=False,
        )

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        return self.with_scores(self.scores.expand(*batch_shape, *self.scores.shape[len(self.batch_shape) :]))

    def _called(self, rows: Tensor) -> Tensor:
        """The solver's answer as a tensor like the scores. It may write into what it gets."""
        given = rows.cpu().numpy().copy() if self.numpy else rows.clone()
        with torch.no_grad():
            found = self.solver(given)
        try:
            return torch.as_tensor(found).to(rows)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"PerturbAndMAP needs solutions as one tensor or array of numbers, [m, *event]; the solver returned "
                f"{type(found).__name__}. Return numpy.stack(...) or torch.stack(...) of the rows' solutions."
            ) from error

    def _in_parallel(self, rows: Tensor) -> Tensor:
        try:
            import joblib
        except ImportError as error:
            raise ImportError("PerturbAndMAP(workers=...) needs joblib: pip install joblib.") from error
        parts = rows.chunk(self.workers)
        return torch.cat(joblib.Parallel(n_jobs=self.workers)(joblib.delayed(self._called)(part) for part in parts))
