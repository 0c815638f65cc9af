"""Exact audit of an advantage or a loss for sequences."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sampleprop.diagnostics.auditing import objectives
from sampleprop.diagnostics.auditing.batch import Batch, Call, Policy, Reduce, bound, name_of, policy
from sampleprop.diagnostics.auditing.moments import moments
from sampleprop.diagnostics.auditing.worlds import WORLDS, World, joined

NOTHING = 1e-9  # of a gradient; smaller errors are rounding


@dataclass(frozen=True)
class Row:
    """The numbers for one policy and one group size.

    Attributes:
        world: the policy.
        group: the number of draws of each prompt.
        error: the error of the mean update after the best constant factor, relative to the exact gradient. This is the
            sine of the angle between them. 0 is unbiased, and 1 means that they are orthogonal.
        factor: the component of the mean update along the gradient, as a multiple of it. A negative factor increases
            the cost.
        variance: the variance of one estimate after the best factor, relative to leave-one-out on the same draws.
        mse: the same for the mean squared error.
        nearest: the objective whose gradient is nearest to the mean update.
        distance: the error relative to the gradient of `nearest`.
    """

    world: str
    group: int
    error: float
    factor: float
    variance: float
    mse: float
    nearest: str
    distance: float


@dataclass(frozen=True)
class Audit:
    """The result of `audit`.

    Attributes:
        name: the name of the function.
        rows: one for each policy and group size.
        curl: from 0 to 1, how far the mean update is from being the gradient of any objective. None for several
            prompts, and off-policy, where it is 0 for every function.
        weights: pairs (p, h(p)/h(½)). With 0/1 rewards of one step, the mean update is h(p) ∇p for the success rate p.
            Empty if `curl` is None.
        utility: the function of the success rate p whose gradient is nearest to h(p) ∇p; "" if `curl` is None.
    """

    name: str
    rows: tuple[Row, ...]
    curl: float | None
    weights: tuple[tuple[float, float], ...]
    utility: str

    @property
    def worst(self) -> float:
        """The largest error."""
        return max(row.error for row in self.rows)

    def __str__(self) -> str:
        width = max(len("policy"), *(len(row.world) for row in self.rows))
        lines = [
            f"{'policy':{width}} {'group':>5} {'error':>8} {'factor':>8} {'variance':>9} {'MSE':>7}  nearest objective"
        ]
        for r in self.rows:
            lines.append(
                f"{r.world:{width}} {r.group:5} {percent(r.error):>8} {r.factor:8.3f} {r.variance:9.2f} {r.mse:7.2f}"
                f"  {near(r)}"
            )
        return "\n".join([self.name, *lines, *self.notes()])

    def notes(self) -> list[str]:
        """What is true of all rows."""
        notes = []
        if self.curl is not None:
            kind = "the gradient of an objective" if self.curl < 1e-6 else f"of no objective (curl {self.curl:.2g})"
            notes.append(f"The mean update is {kind}.")
        if self.weights:
            shown = ", ".join(f"{h:.2f} at {p:g}" for p, h in self.weights)
            notes.append(f"0/1 rewards of success rate p: the mean update is h(p) ∇p, with h over h(0.5): {shown}.")
            notes.append(f"So it raises {self.utility}.")
        return notes

    def to_json(self) -> str:
        """All numbers, as one JSON object."""
        return json.dumps(asdict(self))

    def to_markdown(self) -> str:
        """The rows as a table, and the notes."""
        head = "| policy | group | error | factor | variance | MSE | nearest objective |"
        rule = "|---|--:|--:|--:|--:|--:|---|"
        rows = [
            f"| {r.world} | {r.group} | {percent(r.error)} | {r.factor:.3f} | {r.variance:.2f} | {r.mse:.2f} | "
            f"{near(r)} |"
            for r in self.rows
        ]
        return "\n".join([head, rule, *rows, "", *(f"- {note}" for note in self.notes())])


def audit(
    function: Callable[..., Any],
    *,
    group_sizes: Sequence[int] = (2, 4),
    prompts: int = 1,
    worlds: Sequence[World] = WORLDS,
    reduce: Reduce = "draws",
    off_policy: bool = False,
    arguments: Mapping[str, Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Audit:
    """Measure the exact bias and variance of an advantage or a loss, by listing every group of draws.

    The function is called on all groups of draws of small policies, and its results are summed with the probabilities
    of the groups. Nothing is sampled, so an unbiased function has an error of 0 up to rounding. The policies are tiny
    (7 possible draws of one or two steps). The numbers therefore show what can happen, not what will happen in a large
    model.

    Args:
        function: called with keyword arguments by their usual names (rewards, token_level_rewards, response_mask,
            index, old_log_probs, ...; the refusal of an unknown name lists them), or with one `Batch` if its only
            parameter is `batch`. It returns advantages, [B] or [B, T], for *rewards*; or a loss, a number attached to
            log_prob. If it returns several results, the first one counts.
        group_sizes: the numbers of draws of each prompt, each 2 or more. 8 takes tens of seconds.
        prompts: the number of prompts in one call. 2 shows whether prompts influence each other; they have different
            policies.
        worlds: the policies, with equally many draws if there are several prompts. `sampleprop.diagnostics.TOOLS` has
            observations that the policy did not draw.
        reduce: how the trainer averages: over "draws", over each "length" and then over the draws, or over "tokens".
            Ignored for a loss.
        off_policy: whether another policy draws, whose log-probabilities are old_log_prob.
        arguments: values for further arguments of the function, by name. A callable value is called with the `Batch`.
        progress: a function that is called with a line, the number of finished rows, and the number of all rows.

    Returns:
        An `Audit`, which you can print.

    Raises:
        ValueError: for an argument without a known name, for a result that is neither advantages nor a loss, and for
            numbers out of range.

    Example:
        >>> import sampleprop as sp
        >>> def normalized(rewards):
        ...     return (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        >>> report = sp.audit(normalized, group_sizes=[2])
        >>> [f"{row.error:.0%}" for row in report.rows]
        ['59%', '21%', '0%', '32%']
    """
    if not group_sizes or min(group_sizes) < 2:
        raise ValueError(f"audit needs group_sizes of 2 draws or more; got {list(group_sizes)}.")
    if not 1 <= prompts <= len(worlds):
        raise ValueError(f"audit needs 1 to {len(worlds)} prompts, one for each world; got {prompts}.")
    if reduce not in ("draws", "length", "tokens"):
        raise ValueError(f"audit needs reduce as one of 'draws', 'length', 'tokens'; got {reduce!r}.")
    call = bound(function, arguments or {})
    rows: list[Row] = []
    total = len(worlds) * len(group_sizes)
    for i in range(len(worlds)):
        several = joined([worlds[(i + j) % len(worlds)] for j in range(prompts)])
        for group in group_sizes:
            if progress is not None:
                progress(f"{several.name}, groups of {group}", len(rows), total)
            rows.append(_row(call, policy(several, prompts=prompts, off_policy=off_policy), group, reduce))
    if off_policy or prompts > 1:
        return Audit(name_of(function), tuple(rows), None, (), "")
    if progress is not None:
        progress("curl and success rates", total, total)
    weights = objectives.success_weights(call, max(group_sizes), reduce)
    curl = objectives.curl(call, worlds[0], reduce)
    return Audit(name_of(function), tuple(rows), curl, weights, objectives.utility(weights, max(group_sizes)))


def percent(error: float) -> str:
    """An error as the tables have it."""
    return "0" if error < NOTHING else f"{error:.1%}"


def near(row: Row) -> str:
    """The objective of a row, and how far from it."""
    return row.nearest if row.distance < NOTHING else f"{row.nearest} ({row.distance:.1%} off)"


def _row(call: Call, drawn: Policy, group: int, reduce: Reduce) -> Row:
    found = moments(call, drawn, group, reduce)
    known = objectives.gradients(drawn, group)
    exact = known["E[reward]"]
    length = (found.mean @ found.mean).clamp_min(1e-24)  # a mean of zero has error 1 and factor 0
    best = (found.mean @ exact) / length

    def off(x: Tensor) -> float:
        return float((x - (x @ found.mean) / length * found.mean).norm() / x.norm().clamp_min(1e-12))

    variance = best**2 * found.variance
    base = moments(_yardstick, drawn, group, "draws").variance
    squared = variance + (best * found.mean - exact).square().sum()
    distances = {name: off(gradient) for name, gradient in known.items()}
    nearest = min(distances, key=lambda name: (distances[name] > NOTHING, distances[name]))
    error = distances["E[reward]"]
    return Row(
        drawn.world.name,
        group,
        error,
        float((found.mean @ exact) / (exact @ exact)),
        float(variance / base),
        float(squared / base),
        "E[reward]" if error < NOTHING else nearest,
        0.0 if error < NOTHING else distances[nearest],
    )


def _yardstick(batch: Batch) -> Tensor:
    """Leave-one-out with the ratios of whole draws, which are 1 on-policy."""
    rewards = batch.rewards.view(int(batch.groups[-1]) + 1, -1)  # [prompts, draws]
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    ratio = (batch.log_prob.detach() - batch.old_log_prob).sum(1).exp()
    return torch.mul((rewards - others).flatten(), ratio)
