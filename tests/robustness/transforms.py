"""Transforms: modes, graphs, copies and machines"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils.checkpoint import checkpoint

import sampleprop as sp
from kinds import GAMMA, POISSON, cost
from robustness.matrix import RIGHT, Verdict, condition, meaningless, refusal
from robustness.subject import BATCH, ROWS, Subject, close_in_mean, gradients, same, theta


def _quiet(subject: Subject, mode: Callable[[], AbstractContextManager[None]]) -> Verdict:
    with mode():
        value = subject.value(subject.kind.phi(BATCH), subject.f(theta()))
    assert not value.requires_grad
    same((value.clone(),), (subject.run().value,))
    return RIGHT


@condition("no_grad")
def no_grad(subject: Subject) -> Verdict:
    """The value equals the one with gradients and the same noise, and requires no gradient."""
    return _quiet(subject, torch.no_grad)


@condition("inference_mode")
def inference_mode(subject: Subject) -> Verdict:
    """As under no_grad."""
    return _quiet(subject, torch.inference_mode)


@condition("checkpointing")
def checkpointing(subject: Subject) -> Verdict:
    """Inside `torch.utils.checkpoint`, which draws twice, value and gradients equal those outside it, with the same
    noise."""
    phi, weights = subject.kind.phi(BATCH), theta()

    def block(phi: Tensor) -> Tensor:
        return sp.expect(subject.f(weights), subject.kind.dist(phi), subject.estimator)

    torch.manual_seed(1)
    expected = block(phi)
    torch.manual_seed(1)
    found = checkpoint(block, phi, use_reentrant=False)
    same((found, *gradients(found, phi, weights)), (expected, *gradients(expected, phi, weights)))
    return RIGHT


@condition("retain_graph")
def retain_graph(subject: Subject) -> Verdict:
    """Two backward passes give the same gradients, and their sum in `.grad`."""
    phi, weights = subject.kind.phi(BATCH), theta()
    expected = subject.run()
    value = subject.value(phi, subject.f(weights))
    value.sum().backward(retain_graph=True)
    assert phi.grad is not None
    assert weights.grad is not None
    same((phi.grad, weights.grad), expected[1:])
    value.sum().backward()
    same((phi.grad, weights.grad), (2 * expected.by_phi, 2 * expected.by_theta))
    return RIGHT


@condition("double backward")
def double_backward(subject: Subject) -> Verdict:
    r"""The derivative of the gradient's sum is right against the sum over all states (z-test), or it is refused. The
    second derivative with respect to $\theta$ is right; the tests of the certificates show that it equals that of a
    plain mean over the points."""
    dist = subject.kind.dist(subject.kind.phi(2))
    weights = theta(torch.float64)
    if subject.estimator.order(dist) < 2:
        phi = subject.kind.phi(BATCH)
        (first,) = torch.autograd.grad(subject.value(phi, subject.f(weights)).sum(), phi, create_graph=True)
        wanted = (
            f"{subject.name} estimates first derivatives only; got a derivative of its gradient.* Use ScoreFunction"
        )
        refusal(lambda: gradients(first, weights), wanted)
        return refusal(lambda: gradients(first.square(), phi), wanted)
    one = subject.kind.phi(1, dtype=torch.float64)
    rows = one.detach().expand(ROWS, *subject.kind.shape).clone().requires_grad_()

    def second(value: Tensor, phi: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(value.sum(), phi, create_graph=True)
        return gradients(first * torch.linspace(0.5, 1.5, first[0].numel()).reshape(first.shape[1:]), phi)[0]

    found = second(subject.value(rows, subject.f(weights)), rows)
    close_in_mean(found, second(_expectation(subject, one), one)[0])
    return RIGHT


def _expectation(subject: Subject, phi: Tensor) -> Tensor:
    """[1], differentiable to any order: by the states, or for continuous points by quadrature of 60 x 60 nodes."""
    weights = theta(torch.float64).detach()
    if subject.kind.name != "normal":
        return subject.exact(phi, subject.f(weights))
    grid = torch.linspace(-7, 7, 60, dtype=torch.float64)
    epsilon = torch.cartesian_prod(grid, grid).unsqueeze(1)  # [nodes, 1, 2]
    mass = (-epsilon.square() / 2).exp().prod(-1)
    mean, log_scale = phi.unbind(-1)
    return (mass / mass.sum() * subject.f(weights)(mean + log_scale.exp() * epsilon)).sum(0)


@condition("vmap")
def mapped(subject: Subject) -> Verdict:
    """`vmap(grad)` with the same noise in each copy equals a loop over the copies. With different noise, the result
    is finite."""
    if subject.kind in (GAMMA, POISSON):
        return meaningless("torch's own sampler of this distribution has no rule for vmap")
    phi, f = subject.kind.phi(4).detach(), subject.f(theta().detach())

    def one(phi: Tensor) -> Tensor:
        return sp.expect(f, subject.kind.dist(phi), subject.estimator)

    torch.manual_seed(1)
    found = vmap(grad(one), randomness="same")(phi)
    looped = []
    for row in phi:
        torch.manual_seed(1)
        looped.append(gradients(one(row.requires_grad_()), row)[0])
    same((found,), (torch.stack(looped),))
    assert bool(vmap(grad(one), randomness="different")(phi.detach()).isfinite().all())
    return RIGHT


@condition("compile")
def compiled(subject: Subject) -> Verdict:
    """`torch.compile(fullgraph=True, backend="aot_eager")` with torch's default settings: value and gradients equal
    those of the plain call, with the same noise."""
    if subject.estimator.compiles is not True:
        return meaningless(f"declares that it does not compile: {subject.estimator.compiles}")

    event_ndim, kind, estimator = subject.event_ndim, subject.kind, subject.estimator

    def step(phi: Tensor, weights: Tensor) -> Tensor:
        return sp.expect(lambda x: cost(x, weights, event_ndim), kind.dist(phi), estimator)

    torch._dynamo.reset()
    outcomes = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        phi, weights = subject.kind.phi(BATCH), theta()
        value = function(phi, weights)
        outcomes.append((value, *gradients(value, phi, weights)))
    same(outcomes[0], outcomes[1])
    return RIGHT


def _copied(subject: Subject, other: sp.Estimator[Any, Any]) -> Verdict:
    assert other.label == subject.estimator.label
    same(Subject(other, subject.kind).run(), subject.run(), rtol=0, atol=0)
    return RIGHT


@condition("deepcopy")
def deepcopied(subject: Subject) -> Verdict:
    """The copy gives equal numbers with the same noise."""
    return _copied(subject, copy.deepcopy(subject.estimator))


@condition("pickle")
def pickled(subject: Subject) -> Verdict:
    """The unpickled object gives equal numbers with the same noise."""
    return _copied(subject, pickle.loads(pickle.dumps(subject.estimator)))


@condition("state_dict")
def state_dict(subject: Subject) -> Verdict:
    """The state is saved, and loaded into an estimator with other parameters. It then gives equal numbers with the
    same noise."""
    file = io.BytesIO()
    torch.save(subject.estimator.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(subject.estimator)
    with torch.no_grad():
        for tensor in [*other.parameters(), *other.buffers()]:
            tensor.add_(1)
    other.load_state_dict(torch.load(file))
    return _copied(subject, other)


@condition("a saved draw")
def saved_draw(subject: Subject) -> Verdict:
    r"""A draw that was proposed under no_grad, saved, loaded and combined later gives the same result as the draw
    kept in memory. If the path to $\phi$ would be lost, the call is refused."""
    phi, f = subject.kind.phi(BATCH), subject.f(theta())
    dist, estimator = subject.kind.dist(phi), subject.estimator

    def tell(draw: Any) -> tuple[Tensor, ...]:
        probe_costs = None if draw.probes is None else f(draw.probes)
        value = estimator.combine(dist, draw, f(draw.points), probe_costs=probe_costs, relaxed_f=f)
        return value, *gradients(value, phi)

    with torch.no_grad():
        quiet = estimator.propose(dist, generator=torch.Generator().manual_seed(3))
    loaded = pickle.loads(pickle.dumps(quiet))
    if subject.attached:
        return refusal(
            lambda: tell(loaded), rf"{subject.name} needs points that are attached to φ.* Propose with gradients"
        )
    kept = estimator.propose(dist, generator=torch.Generator().manual_seed(3))
    same(tell(loaded), tell(kept), rtol=0, atol=0)
    return RIGHT


@condition("CUDA")
def cuda(subject: Subject) -> Verdict:
    """A draw that is made on the device and combined there gives the same result as when it is combined on the CPU,
    to 1e-5."""
    if not torch.cuda.is_available():
        return Verdict("skipped", "no CUDA device here")
    return elsewhere(subject, torch.device("cuda"))


def elsewhere(subject: Subject, device: torch.device) -> Verdict:
    """The condition "CUDA" for any device; `benchmarks/gpu.py` runs it too."""
    phi, near_weights = subject.kind.phi(BATCH), theta()
    far, far_weights = (x.detach().to(device).requires_grad_() for x in (phi, near_weights))
    estimator = copy.deepcopy(subject.estimator).to(device)
    torch.manual_seed(0)
    value = sp.expect(subject.f(far_weights), subject.kind.dist(far), estimator)
    assert value.device.type == device.type
    if subject.attached:  # its points cannot be moved: the gradient's mean, over a batch of copies, instead
        rows = phi.detach()[:1].expand(ROWS, *subject.kind.shape)
        there = rows.to(device, copy=True).requires_grad_()
        here = rows.clone().requires_grad_()
        (a,) = gradients(sp.expect(subject.f(far_weights), subject.kind.dist(there), estimator), there)
        (b,) = gradients(sp.expect(subject.f(near_weights), subject.kind.dist(here), subject.estimator), here)
        close_in_mean(a.cpu() - b.roll(1, 0), torch.zeros_like(b[0]))
        return RIGHT
    dist = subject.kind.dist(far)
    draw = estimator.propose(dist)
    moved = type(draw)(*(field.cpu() if isinstance(field, Tensor) else field for field in draw))
    outcomes = []
    for parameter, weights, those in ((far, far_weights, draw), (phi, near_weights, moved)):
        f = subject.f(weights)
        estimator = copy.deepcopy(subject.estimator).to(parameter.device)
        probe_costs = None if those.probes is None else f(those.probes)
        result = estimator.combine(
            subject.kind.dist(parameter), those, f(those.points), probe_costs=probe_costs, relaxed_f=f
        )
        outcomes.append([x.cpu() for x in (result, *gradients(result, parameter, weights))])
    same(outcomes[0], outcomes[1], rtol=1e-5, atol=1e-5)
    return RIGHT
