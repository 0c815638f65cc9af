"""A compiled step is one graph together with the user's model, and the same graph for every batch size."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.utils import counters
from torch.distributions import Bernoulli, Independent

import sampleprop as sp

pytestmark = pytest.mark.slow

ESTIMATORS = (
    sp.ScoreFunction(2),
    sp.DisARM(),
    sp.GumbelSoftmax(),
    sp.REBAR(),
    sp.REBAR(coupled=True),
    sp.RELAX(),
)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_one_graph_for_two_batch_sizes(estimator: sp.Estimator) -> None:
    torch.compiler.reset()
    counters.clear()
    encoder, decoder = torch.nn.Linear(7, 5), torch.nn.Linear(5, 7)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(images: Tensor) -> Tensor:
        def cost(z: Tensor) -> Tensor:
            logits = decoder(z)
            return F.binary_cross_entropy_with_logits(logits, images.expand_as(logits), reduction="none").sum(-1)

        q = Independent(Bernoulli(logits=encoder(images)), 1)
        return sp.expect(cost, q, estimator).mean()

    for batch in (8, 12, 8):
        images = (torch.rand(batch, 7) > 0.5).float()
        torch._dynamo.mark_dynamic(images, 0)
        encoder.zero_grad()
        loss(images).backward()
        assert encoder.weight.grad.abs().sum() > 0
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.parametrize("bits", [3, 200])
@pytest.mark.parametrize("estimator", [sp.BitFlip(), sp.BitFlip(2), sp.UGC(4)], ids=str)
def test_noise_that_only_the_gradient_needs_is_drawn_once(estimator: sp.Estimator, bits: int) -> None:
    """A compiler may run in the backward pass again what the value does not need; the choice of a bit is such noise."""

    def step(logits: Tensor) -> Tensor:
        q = Independent(Bernoulli(logits=logits), 1)
        return sp.expect(lambda x: (x.sum(-1) - 0.3).square(), q, estimator)

    torch._dynamo.reset()
    given, found = torch.randn(5, bits), []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(0)
        logits = given.clone().requires_grad_()
        function(logits).sum().backward()
        found.append(logits.grad)
    torch.testing.assert_close(*found)


filters = pytest.mark.skipif(not hasattr(torch.compiler, "keep_tensor_guards_unsafe"), reason="torch 2.8 and above")


@pytest.mark.parametrize(
    "filtered",
    [pytest.param(False, id="all guards"), pytest.param(True, id="none on the library's code", marks=filters)],
)
def test_what_the_user_changes_compiles_again(filtered: bool) -> None:
    """The estimator and the user's own functions are guarded, also with the filter that docs/speed.md recommends."""

    def rest(guards: Any) -> list[bool]:
        return ["__import_sampleprop_dot_" not in guard.name for guard in guards]

    torch.compiler.reset()
    estimator, seen = sp.ScoreFunction(2), []

    def loss(logits: Tensor) -> Tensor:
        def cost(x: Tensor) -> Tensor:
            seen.append(x.shape[0])
            return x.sum(-1)

        return sp.expect(cost, Independent(Bernoulli(logits=logits), 1), estimator).mean()

    options = {"guard_filter_fn": rest} if filtered else {}
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", options=options)
    for samples in (2, 2, 4, 4, 2):
        estimator.samples = samples
        compiled(torch.zeros(3, requires_grad=True)).backward()
    assert seen == [2, 2, 4, 4, 2]
