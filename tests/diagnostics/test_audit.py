"""The audit of advantages and losses: ours are exact, the usual mistakes are seen, and its numbers are known ones."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sampleprop as sp
from sampleprop.diagnostics import TOOLS, WORLDS, Batch

EXACT = 1e-9
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def usual() -> Any:
    """The functions of examples/advantages.py."""
    spec = importlib.util.spec_from_file_location("advantages", EXAMPLES / "advantages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(EXAMPLES))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXAMPLES))
    return module


def errors(function: Callable[..., Any], **options: Any) -> list[float]:
    return [row.error for row in sp.audit(function, **options).rows]


@pytest.mark.parametrize("name", ["leave_one_out", "lengths", "remax", "to_go", "group_mean"])
def test_what_is_called_unbiased_is(usual: Any, name: str) -> None:
    assert max(errors(getattr(usual, name))) < EXACT


@pytest.mark.parametrize("name", ["whole_ratio", "prefix_ratio"])
def test_off_policy_too(usual: Any, name: str) -> None:
    assert max(errors(getattr(usual, name), off_policy=True, group_sizes=[2])) < EXACT


def shrunk(batch: Batch) -> Tensor:
    return batch.rewards - sp.shrinkage(batch.rewards, groups=batch.groups)


def test_shrinkage_over_four_prompts() -> None:
    small = [
        sp.diagnostics.world(f"{seed}", seed=seed, steps=1, rewards="binary" if seed % 2 else "terminal")
        for seed in range(4)
    ]
    assert max(errors(shrunk, group_sizes=[2], prompts=4, worlds=small)) < EXACT


def with_kl(batch: Batch) -> Tensor:
    """A loss: costs are rewards with a minus sign, arising where they arise."""
    return sp.score_function_loss(
        batch.log_prob, -batch.step_rewards, time_dim=1, mask=batch.mask, drawn=batch.drawn,
        baseline=-sp.leave_one_out(batch.rewards, groups=batch.groups),
    )  # fmt: skip


def full_trace(batch: Batch) -> Tensor:
    return sp.generalized_advantage(
        batch.step_rewards, batch.values, dim=1, mask=batch.mask, drawn=batch.drawn
    ).advantage


@pytest.mark.parametrize("function", [with_kl, full_trace])
def test_losses_and_advantages_with_observations(function: Callable[[Batch], Tensor]) -> None:
    assert max(errors(function, group_sizes=[2], worlds=TOOLS)) < EXACT
    assert max(errors(function, group_sizes=[2])) < EXACT


# --- mutants: well-known mistakes, each of which must be seen -----------------------------------------------------------


def mask_for_drawn(batch: Batch) -> Tensor:
    return sp.reward_to_go(torch.where(batch.drawn, batch.step_rewards, 0), dim=1)


def own_draw_in_a_weighted_mean(batch: Batch) -> Tensor:
    n = batch.drawn.sum(1).double()
    return batch.rewards - (n * batch.rewards).sum() / n.sum()


def clipped_ratio(batch: Batch) -> Tensor:
    ratio = sp.importance_ratio(batch.log_prob, batch.old_log_prob, time_dim=1, mask=batch.drawn, clip=(0.8, 1.28))
    return (ratio * -batch.rewards).mean()


def rewards_backwards(batch: Batch) -> Tensor:
    return batch.step_rewards.cumsum(1)


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (mask_for_drawn, {"worlds": TOOLS}),
        (own_draw_in_a_weighted_mean, {}),
        (clipped_ratio, {"off_policy": True}),
        (rewards_backwards, {}),
    ],
)
def test_mistakes_are_seen(function: Callable[[Batch], Tensor], options: dict[str, Any]) -> None:
    assert max(errors(function, group_sizes=[2], **options)) > 0.01


def test_known_numbers(usual: Any) -> None:
    report = sp.audit(usual.group_std)
    assert [f"{row.error:.0%}" for row in report.rows if row.group == 2] == ["59%", "21%", "0%", "32%"]
    assert max(row.error for row in report.rows if row.group == 4) == pytest.approx(0.41, abs=0.005)
    assert report.curl is not None
    assert report.curl > 0.05
    assert dict(report.weights)[0.05] == pytest.approx(1.06, abs=0.005)
    mean = sp.audit(usual.group_mean)
    assert [row.factor for row in mean.rows if row.group == 4] == [pytest.approx(0.75)] * 4
    assert mean.curl == pytest.approx(0, abs=1e-6)
    assert "the gradient of an objective" in str(mean)


def test_a_length_is_an_objective_of_its_own(usual: Any) -> None:
    report = sp.audit(usual.leave_one_out, reduce="length", group_sizes=[2])
    assert all(row.nearest.startswith("E[(reward - b) / length]") and row.distance < EXACT for row in report.rows)
    assert report.worst > 0.01


def test_pass_at_k_is_best_of_k() -> None:
    """Its advantage of each draw: whether it is the only success of the group."""

    def only_success(rewards: Tensor) -> Tensor:
        return rewards * (rewards.sum() == rewards)

    report = sp.audit(only_success, group_sizes=[4], worlds=WORLDS[2:3])
    assert report.utility.startswith("1 - (1 - p)^4")


def test_a_mean_of_nothing_is_an_error_of_everything() -> None:
    report = sp.audit(lambda rewards: torch.zeros_like(rewards), group_sizes=[2], worlds=WORLDS[:1])
    assert (report.rows[0].error, report.rows[0].factor) == (pytest.approx(1), 0)
    assert report.utility.startswith("none")


def test_uphill_is_seen() -> None:
    report = sp.audit(lambda rewards: -rewards, group_sizes=[2], worlds=WORLDS[:1])
    assert report.rows[0].factor == pytest.approx(-1)


def test_draws_that_are_not_treated_alike_are_listed_in_every_order() -> None:
    """A weight for the first draw only: no multiset stands for its orders, and the mean is half the gradient."""

    def first(rewards: Tensor) -> Tensor:
        return rewards * (torch.arange(len(rewards)) == 0)

    report = sp.audit(first, group_sizes=[2], worlds=WORLDS[:1])
    assert report.rows[0].error < EXACT
    assert report.rows[0].factor == pytest.approx(0.5)


def test_forms(usual: Any) -> None:
    stages: list[tuple[str, int, int]] = []
    report = sp.audit(
        usual.leave_one_out, group_sizes=[2], worlds=WORLDS[:2], progress=lambda *stage: stages.append(stage)
    )
    assert stages[0] == ("terminal, groups of 2", 0, 2)
    assert "| terminal | 2 | 0 | 1.000 | 1.00 | 1.00 | E[reward] |" in report.to_markdown()
    assert '"group": 2' in report.to_json()
    off = sp.audit(usual.whole_ratio, group_sizes=[2], worlds=WORLDS[:1], off_policy=True)
    assert off.curl is None
    assert "curl" not in str(off)


def odd(rewards: Tensor, temperature_schedule: Tensor) -> Tensor:
    return rewards * temperature_schedule


def test_arguments_by_hand() -> None:
    report = sp.audit(
        odd, group_sizes=[2], worlds=WORLDS[:1], arguments={"temperature_schedule": lambda batch: batch.mask[:, 0] + 1}
    )
    assert report.rows[0].factor == pytest.approx(2)


@pytest.mark.parametrize(
    ("function", "options", "match"),
    [
        (odd, {}, "to know what odd wants as 'temperature_schedule'; it knows .*index.*function of one `batch`"),
        (lambda rewards: 3.0, {}, "advantages, .* or a loss.*; got float"),
        (lambda rewards: rewards.sum(), {}, "a loss that is attached to log_prob"),
        (lambda rewards: rewards[:1], {}, r"or a loss, one number .*; got \[1\]"),
        (lambda rewards: rewards, {"group_sizes": [1]}, "group_sizes of 2 draws or more"),
        (lambda rewards: rewards, {"prompts": 9}, "1 to 4 prompts"),
        (lambda rewards: rewards, {"reduce": "sum"}, "reduce as one of"),
    ],
)
def test_refusals(function: Callable[..., Any], options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=f"audit needs .*{match}"):
        sp.audit(function, **options)
