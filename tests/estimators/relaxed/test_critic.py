"""Critics of RELAX and LAX."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

import sampleprop as sp
from estimators.relaxed.problems import bits, normal
from sampleprop.estimators.relaxed.critic import QuadraticCritic
from sampleprop.estimators.relaxed.lax import LAX
from sampleprop.estimators.relaxed.relax import RELAX
from variants import tilted


def test_the_quadratic_critic_is_complete_for_eight_coordinates() -> None:
    critic = QuadraticCritic().double()
    torch.manual_seed(0)
    x = torch.randn(200, 8, dtype=torch.float64)
    q, linear = torch.randn(8, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    wanted = 1.5 + x @ linear + ((x @ q) * x).sum(-1)
    names = {name: parameter.detach() for name, parameter in critic.named_parameters()}

    def features(x: Tensor) -> Tensor:
        return torch.cat(
            [
                part.reshape(len(x), -1)
                for part in torch.func.jacrev(lambda p: functional_call(critic, p, (x,)))(names).values()
            ],
            1,
        )

    design = features(x)  # the critic is linear in its coefficients
    solution = torch.linalg.lstsq(design, wanted[:, None], driver="gelsd").solution
    torch.testing.assert_close((design @ solution)[:, 0], wanted)
    assert sum(parameter.numel() for parameter in critic.parameters()) == 81


SIZES = [(11, torch.float64), (5, torch.float64), (5, torch.float32), (11, torch.float64)]


def test_the_quadratic_critic_does_not_depend_on_the_points_before() -> None:
    """It keeps its cosines, for as long as the points are as many, of the same dtype, and no other code runs it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 11, dtype=torch.float64, generator=generator)
    fresh = [tilted(RELAX().double()).quadratic(x[..., :size].to(dtype)) for size, dtype in SIZES]
    critic = tilted(RELAX().double()).quadratic
    with torch.inference_mode():
        critic(x)
    torch.func.vmap(critic)(x[None])
    for (size, dtype), wanted in zip(SIZES, fresh, strict=True):
        value = critic(x[..., :size].to(dtype).requires_grad_())
        assert torch.equal(value, wanted)
        value.sum().backward()


def test_the_quadratic_critic_of_a_single_point() -> None:
    critic = tilted(RELAX().double()).quadratic
    x = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for one, among_others in zip(critic.value_and_gradient(x), critic.value_and_gradient(x[None]), strict=True):
        torch.testing.assert_close(one, among_others[0])


def test_the_gradient_of_the_quadratic_critic() -> None:
    critic = tilted(RELAX().double()).quadratic
    for size in (1, 5, 8, 11):
        x = torch.randn(3, 2, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size)).requires_grad_()
        values, gradient = critic.value_and_gradient(x)
        wanted = torch.autograd.grad(critic(x).sum(), x)
        torch.testing.assert_close((gradient,), wanted)
        torch.testing.assert_close(values, critic(x))


class Contextual(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, points: Tensor, context: Tensor) -> Tensor:
        return self.scale * (points * context).sum(-1)


@pytest.mark.parametrize("make", [lambda c: RELAX(critic=c, use_f=False), lambda c: LAX(critic=c)])
def test_the_critic_sees_the_context_but_does_not_train_it(make) -> None:
    estimator = make(Contextual())
    context = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    phi = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    q = normal(phi) if isinstance(estimator, LAX) else bits(phi[:, :2])
    sp.expect(lambda x: x.sum(-1), q, estimator, context=context).sum().backward()
    assert context.grad is None
    assert estimator.critic.scale.grad != 0


@pytest.mark.parametrize("estimator", [RELAX(critic=lambda s: s), LAX(critic=lambda x: x)], ids=["RELAX", "LAX"])
def test_a_critic_of_the_wrong_shape_is_refused(estimator: sp.Estimator) -> None:
    q = normal(torch.zeros(3, 4)) if isinstance(estimator, LAX) else bits(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"needs one number from the critic for each point, shape \[m, \*batch\]"):
        sp.expect(lambda x: x.sum(-1), q, estimator)
