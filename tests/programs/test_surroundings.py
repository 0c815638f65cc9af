"""Sites in any surroundings: outside of a program, in threads, under transforms, in checkpoints and copies."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from contextlib import nullcontext

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal, OneHotCategorical
from torch.utils.checkpoint import checkpoint

import sampleprop as sp


class Gate(nn.Module):
    """A stochastic layer."""

    def __init__(self, estimator: sp.Estimator | None = None) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, h: Tensor) -> Tensor:
        return sp.sample(Independent(Bernoulli(logits=h), h.dim() - 1), self.estimator)


class Model(nn.Module):
    """A program as a method."""

    def __init__(self, estimator: sp.Estimator | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Gate(estimator), nn.Linear(4, 1))

    @sp.program
    def loss(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(-1).square()


X = torch.linspace(-1, 1, 12).reshape(4, 3)


def run(model: Model, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(seed)
    value = model.loss(X)
    parameters = list(model.parameters() if model.training else model.layers[0].parameters())
    return value.detach(), list(torch.autograd.grad(value.sum(), parameters))


def fresh(estimator: sp.Estimator | None = None) -> Model:
    torch.manual_seed(7)
    return Model(estimator)


def equal(one: tuple[Tensor, list[Tensor]], other: tuple[Tensor, list[Tensor]], tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


POINTS = [sp.StraightThrough(), sp.StraightThrough(None), sp.GumbelSoftmax(None), sp.ReinMax()]
COSTS = [None, sp.ScoreFunction(), sp.ScoreFunction(None), sp.DisARM(), sp.REBAR(None), sp.Enumerate()]


@pytest.mark.parametrize("estimator", [*POINTS, *COSTS], ids=str)
def test_outside_of_a_program_without_gradients_a_true_sample_is_drawn(estimator):
    logits = torch.zeros(50, 3, requires_grad=True)
    for context, given in (
        (torch.no_grad(), logits),
        (torch.inference_mode(), logits),
        (nullcontext(), logits.detach()),
    ):
        with context:
            x = sp.sample(
                OneHotCategorical(logits=given) if isinstance(estimator, sp.GumbelSoftmax) else Bernoulli(logits=given),
                estimator,
            )
            sp.charge(x)  # nothing is lost
        assert x.shape == (50, 3)
        assert set(x.unique().tolist()) == {0.0, 1.0}
        assert not x.requires_grad


@pytest.mark.parametrize("estimator", POINTS, ids=str)
def test_outside_of_a_program_attached_points_are_given(estimator):
    logits = torch.zeros(3, requires_grad=True)
    x = sp.sample(OneHotCategorical(logits=logits), estimator)
    assert x.shape == (3,)
    (slope,) = torch.autograd.grad((x * torch.tensor([1.0, 2.0, 4.0])).sum(), logits)
    assert slope.abs().sum() > 0


def test_the_default_outside_of_a_program_follows_the_distribution():
    mean = torch.zeros(3, requires_grad=True)
    assert torch.equal(torch.autograd.grad(sp.sample(Normal(mean, 1.0)).sum(), mean)[0], torch.ones(3))
    with pytest.raises(RuntimeError, match="ScoreFunction needs the costs that follow its sample"):
        sp.sample(Bernoulli(logits=mean))


@pytest.mark.parametrize("estimator", COSTS[1:], ids=str)
def test_outside_of_a_program_what_needs_costs_is_refused(estimator):
    logits = torch.zeros(3, requires_grad=True)
    with pytest.raises(RuntimeError, match=f"{estimator.name} needs the costs that follow .* under @sp.program"):
        sp.sample(Bernoulli(logits=logits), estimator)
    with pytest.raises(RuntimeError, match=r"draws several samples.*Give samples=None"):
        sp.sample(Bernoulli(logits=logits), sp.StraightThrough(4))
    with pytest.raises(TypeError, match="Pathwise needs a continuous distribution"):
        sp.sample(Bernoulli(logits=logits), sp.Pathwise())
    with pytest.raises(RuntimeError, match=r"sp.charge needs a program"):
        sp.charge(logits.sum())


@pytest.mark.parametrize("estimator", [None, sp.REBAR(None), sp.StraightThrough()], ids=str)
def test_copies_and_evaluation(estimator):
    model = fresh(estimator)
    expected = run(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    equal(run(copy.deepcopy(model)), expected)
    equal(run(torch.load(buffer, weights_only=False)), expected)
    equal(run(copy.deepcopy(model).eval()), (expected[0], expected[1][:2]))
    for context in (torch.no_grad(), torch.inference_mode()):
        torch.manual_seed(0)
        with context:
            value = model.loss(X)
        assert not value.requires_grad
        torch.testing.assert_close(value.clone(), expected[0])
        with context:  # the layers alone, as in evaluation
            assert model.layers(X).shape == (4, 1)


class Made(nn.Module):
    """Makes programs of its method and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.loss = sp.program(self._loss)
        self.mean = self.loss.using(particles=2)
        self.bound = self.decorated
        self.bound_mean = self.decorated.using(particles=2)

    @sp.program
    def decorated(self, x: Tensor) -> Tensor:
        return self._loss(x)

    def _loss(self, x: Tensor) -> Tensor:
        return sp.sample(Independent(Bernoulli(logits=self.layer(x)), 1)).sum(-1)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
@pytest.mark.parametrize("name", ["loss", "mean", "decorated", "bound", "bound_mean"])
def test_a_copy_of_a_module_that_keeps_a_program_has_its_own(again, name):
    original = Made()
    other = again(original)
    getattr(other, name)(torch.ones(3, 2)).sum().backward()
    assert other.layer.weight.grad is not None
    assert original.layer.weight.grad is None


def test_autocast_returns_costs_in_float32():
    with torch.autocast("cpu", torch.bfloat16):
        value, _ = run(fresh())
    assert value.dtype == torch.float32


@pytest.mark.parametrize("estimator", [None, sp.REBAR(None), sp.StraightThrough()], ids=str)
def test_functional_gradients_equal_autograd(estimator):
    model = fresh(estimator)
    _, expected = run(model)
    parameters = dict(model.named_parameters())

    def total(parameters: dict[str, Tensor]) -> Tensor:
        # Around the program: inside it, an estimator's own parameters would be left out.
        class Call(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self) -> Tensor:
                return self.model.loss(X).sum()

        return torch.func.functional_call(Call(), {f"model.{name}": p for name, p in parameters.items()}, ())

    torch.manual_seed(0)
    found = torch.func.grad(total)(parameters)
    torch.testing.assert_close(list(found.values()), expected, rtol=1e-6, atol=1e-6)


def test_vmap_gives_gradients_of_each_example():
    torch.manual_seed(0)
    theta = torch.tensor([0.5, -1.0, 2.0])

    def loss(phi: Tensor, x: Tensor) -> Tensor:
        @sp.program
        def model() -> Tensor:
            b = sp.sample(Independent(Bernoulli(logits=phi + x, validate_args=False), 1, validate_args=False))
            return (b * theta).sum(-1)

        return model()

    phi = torch.zeros(3)
    xs = torch.randn(3).expand(200_000, 3)
    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0), randomness="different")(phi, xs)
    p = xs[0].sigmoid()
    error = found.std(0) / len(xs) ** 0.5
    assert ((found.mean(0) - theta * p * (1 - p)).abs() < 4.9 * error).all()


def test_running_again_is_refused_under_vmap():
    def loss(phi: Tensor) -> Tensor:
        q = Independent(Bernoulli(logits=phi, validate_args=False), 1, validate_args=False)
        return sp.program(lambda: sp.sample(q, sp.REBAR(None)).sum(-1))()

    with pytest.raises(RuntimeError, match=r"REBAR runs the program again, which it cannot under torch.vmap"):
        torch.func.vmap(torch.func.grad(loss), randomness="different")(torch.zeros(4, 3))


def test_threads_have_programs_of_their_own():
    models = [fresh(e) for e in (None, sp.REBAR(None), sp.StraightThrough())]
    expected = [[run_with(model, seed) for seed in range(20)] for model in models]
    found: dict[int, list[Tensor]] = {}

    def work(i: int) -> None:
        found[i] = [run_with(models[i], seed) for seed in range(20)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, values in found.items():
        torch.testing.assert_close(values, expected[i])
    assert len(found) == 3


def run_with(model: Model, seed: int) -> Tensor:
    return model.loss.using(generator=Generator().manual_seed(seed))(X).detach()


def test_a_module_that_runs_in_another_thread_of_a_program_is_refused():
    """As `DataParallel` would."""
    seen: list[Exception] = []

    @sp.program
    def loss(phi: Tensor) -> Tensor:
        def work() -> None:
            try:
                sp.sample(Bernoulli(logits=phi))
            except RuntimeError as error:
                seen.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return sp.sample(Bernoulli(logits=phi))

    loss(torch.zeros(3, requires_grad=True))
    assert "needs the costs that follow its sample, and so a program" in str(seen[0])


class Checkpointed(nn.Module):
    """A region of two linear layers with a site and noise of its own between them."""

    def __init__(self, estimator: sp.Estimator | None, normal: bool, **options: object) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)
        self.drop = nn.Dropout(0.5)
        self.estimator, self.normal, self.options = estimator, normal, options

    def region(self, x: Tensor) -> Tensor:
        h = self.first(x)
        q = Independent(Normal(h, 1.0) if self.normal else Bernoulli(logits=h), 1)
        return self.drop(self.last(sp.sample(q, self.estimator) * h).tanh())

    @sp.program
    def loss(self, x: Tensor) -> Tensor:
        h = checkpoint(self.region, x, **self.options) if self.options else self.region(x)
        return (h + 1).square().squeeze(-1)


@pytest.mark.parametrize(
    ("estimator", "normal"),
    [
        (None, False),
        (None, True),
        (sp.StraightThrough(), False),
        (sp.ScoreFunction(None, baseline=sp.Constant(1.0)), False),
        (sp.REBAR(None), False),
        (sp.MuProp(None), False),
    ],
    ids=str,
)
@pytest.mark.parametrize("own", [False, True], ids=["default generator", "own generator"])
def test_a_checkpointed_region_gets_the_same_samples(estimator, normal, own):
    results = []
    for options in ({}, {"use_reentrant": False, "context_fn": sp.checkpointed}):
        torch.manual_seed(5)
        model = Checkpointed(estimator, normal, **options)
        program = model.loss.using(generator=Generator().manual_seed(1)) if own else model.loss
        value = program(X)
        parameters = [*model.first.parameters(), *model.last.parameters()]
        results.append((value.detach(), list(torch.autograd.grad(value.sum(), parameters)), torch.rand(3)))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("estimator", "normal"), [(None, False), (None, True), (sp.StraightThrough(), False)], ids=str)
def test_a_checkpoint_that_does_not_keep_the_random_state_gets_the_same_samples(estimator, normal):
    results = []
    for options in ({}, {"use_reentrant": False, "context_fn": sp.checkpointed, "preserve_rng_state": False}):
        torch.manual_seed(5)
        model = Checkpointed(estimator, normal, **options)
        model.drop.eval()
        value = model.loss(X)
        torch.rand(7)  # the state moves on before the backward pass
        gradients = list(torch.autograd.grad(value.sum(), list(model.parameters())))
        results.append((value.detach(), gradients))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_a_cost_in_a_checkpointed_region_is_charged_once():
    layer = nn.Linear(2, 2)

    def region(h: Tensor) -> Tensor:
        b = sp.sample(Independent(Bernoulli(logits=layer(h).tanh()), 1))
        sp.charge(layer(b).square().sum(-1))
        return b * h.tanh()

    def kept(h: Tensor) -> Tensor:
        return checkpoint(region, h, use_reentrant=False, context_fn=sp.checkpointed).sum(-1)

    found = []
    for function in (kept, lambda h: region(h).sum(-1)):
        torch.manual_seed(3)
        h = torch.ones(4, 2, requires_grad=True)
        value = sp.program(function)(h)
        found.append((value.detach(), *torch.autograd.grad(value.sum(), (h, *layer.parameters()))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_other_checkpoints_are_refused():
    torch.manual_seed(5)
    model = Checkpointed(None, False, use_reentrant=False)
    value = model.loss(X)
    with pytest.raises(RuntimeError, match=r"called once for each draw; got a call from a backward pass.*context_fn"):
        value.sum().backward()
    with pytest.raises(
        RuntimeError, match=r"needs gradients on where its program began with them.*use_reentrant=False"
    ):
        Checkpointed(None, False, use_reentrant=True).loss(X.clone().requires_grad_())


def test_a_site_under_no_grad_in_a_program_with_gradients_is_refused():
    @sp.program
    def loss(phi: Tensor) -> Tensor:
        with torch.no_grad():
            return sp.sample(Bernoulli(logits=phi))

    with pytest.raises(RuntimeError, match=r"Use dist.sample\(\)"):
        loss(torch.zeros(3, requires_grad=True))
    with torch.no_grad():
        assert loss(torch.zeros(3, requires_grad=True)).shape == (3,)


def test_an_exception_leaves_no_program_behind():
    @sp.program
    def loss(phi: Tensor) -> Tensor:
        sp.sample(Bernoulli(logits=phi))
        raise KeyError("mine")

    phi = torch.zeros(3, requires_grad=True)
    with pytest.raises(KeyError, match="mine"):
        loss(phi)
    with pytest.raises(RuntimeError, match="and so a program"):
        sp.sample(Bernoulli(logits=phi))
