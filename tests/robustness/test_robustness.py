"""The robustness matrix: each cell is right or refused with a message, and the documentation's page says which."""

from __future__ import annotations

import pytest
import torch

import sampleprop as sp
from robustness.matrix import CONDITIONS, Condition
from robustness.page import GROUPS, PAGE, documented, template
from robustness.subject import Subject, gradients, subjects

pytestmark = pytest.mark.slow

SUBJECTS = subjects()
DOCUMENTED = documented() if PAGE.exists() else {}


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, on its own samplers under vmap
@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_cell(subject: Subject, condition: Condition) -> None:
    """Raises when the cell is silent; z-tests: |z| < 6.5, with 10,000 of them a false alarm once in a million runs."""
    verdict = condition.run(subject)
    if verdict.kind == "skipped":
        pytest.skip(verdict.says)
    found = verdict.kind, template(verdict, subject.name)
    assert DOCUMENTED[str(subject), condition.name] in (found, ("skipped", "no CUDA device here"))


def test_the_page_has_each_cell_and_no_other() -> None:
    assert set(DOCUMENTED) == {(str(subject), condition.name) for subject in SUBJECTS for condition in CONDITIONS}
    assert {kind for kind, _ in DOCUMENTED.values()} <= {"right", "refused", "n/a", "skipped"}


def test_the_conditions_on_the_page_are_those_that_are_run() -> None:
    text = PAGE.read_text()
    assert all(f"- *{one.name}.* {one.established}\n" in text for one in CONDITIONS)
    assert {one.group for one in CONDITIONS} == {(group.__doc__ or "").partition(": ")[0] for group in GROUPS}


# --- peculiar to single estimators --------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_critic_that_holds_on_to_theta_leaks_nothing_of_the_variance(training: bool) -> None:
    """f is 2 θ, so θ's gradient is 2 for each row, whatever the critic, a function of θ, does to the variance."""
    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def critic(points: torch.Tensor) -> torch.Tensor:
        return (theta * points).square().sum(-1)

    def f(x: torch.Tensor) -> torch.Tensor:
        return 2 * theta + 0 * x.sum(-1)

    phi = torch.zeros(5, 3, dtype=torch.float64, requires_grad=True)
    normal = torch.distributions.Independent(torch.distributions.Normal(phi, 1.0), 1)
    bits = torch.distributions.Independent(torch.distributions.Bernoulli(logits=phi), 1)
    for dist, estimator in (
        (normal, sp.LAX(critic=critic)),
        (bits, sp.RELAX(critic=critic)),
        (bits, sp.RELAX(critic=critic, use_f=False)),
    ):
        (found,) = gradients(sp.expect(f, dist, estimator.train(training)), theta)
        torch.testing.assert_close(found, torch.tensor(10.0, dtype=torch.float64))


def test_a_critic_that_is_a_function_still_trains_the_temperature() -> None:
    """Its derivative equals that by a module of the same values, row for row."""

    class Squares(torch.nn.Module):
        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return points.square().sum(-1)

    phi = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3).requires_grad_()
    dist = torch.distributions.Independent(torch.distributions.Bernoulli(logits=phi), 1)
    found = []
    for critic in (Squares(), lambda points: points.square().sum(-1)):
        estimator = sp.RELAX(critic=critic).train()
        generator = torch.Generator().manual_seed(0)
        value = sp.expect(lambda x: (x.sum(-1) - 0.4).square(), dist, estimator, generator=generator)
        found.append(gradients(value, estimator.log_temperature, estimator.eta, phi))
    assert found[0][0].abs() > 0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
