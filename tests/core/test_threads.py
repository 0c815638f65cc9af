"""Threads that draw from generators of their own give the results of one thread, and leave the global state alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributions as td
from torch import Generator, Tensor

import sampleprop as sp
from sampleprop import noise

LAWS = {
    "Gamma": lambda: td.Gamma(torch.full((3,), 2.0), 1.5),
    "Beta": lambda: td.Beta(torch.full((3,), 2.0), 0.7),
    "Dirichlet": lambda: td.Dirichlet(torch.full((3,), 0.8)),
    "StudentT": lambda: td.StudentT(torch.full((3,), 5.0)),
    "VonMises": lambda: td.VonMises(torch.zeros(3), 2.0),
    "Wishart": lambda: td.Wishart(torch.tensor(4.5), torch.eye(2)),
    "Multinomial": lambda: td.Multinomial(5, torch.ones(3)),
    "Gumbel": lambda: td.Gumbel(torch.zeros(3), 1.0),
    "Weibull": lambda: td.Weibull(torch.ones(3), 2.0),
    "Poisson": lambda: td.Poisson(torch.ones(3)),
    "NegativeBinomial": lambda: td.NegativeBinomial(torch.full((3,), 2.0), logits=torch.zeros(3)),
    "Normal": lambda: td.Normal(torch.zeros(3), 1.0),
    "Categorical": lambda: td.Categorical(logits=torch.zeros(3)),
}
THREADS, DRAWS = 4, 60


def _draws(name: str, seed: int) -> Tensor:
    """Many draws, [draws, ...], from one generator."""
    dist, generator = LAWS[name](), Generator().manual_seed(seed)
    estimator = sp.ScoreFunction(2)
    return torch.stack([estimator.propose(dist, generator=generator).points for _ in range(DRAWS)])


@pytest.mark.filterwarnings("ignore:Singular sample detected")
@pytest.mark.parametrize("name", LAWS)
def test_threads_with_their_own_generators_do_not_disturb_each_other(name: str) -> None:
    alone = [_draws(name, seed) for seed in range(THREADS)]
    state = torch.get_rng_state()
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda seed: _draws(name, seed), range(THREADS)))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[1])


RANDOM: dict[str, Callable[[Tensor], Tensor]] = {
    "rand": lambda x: torch.rand(5),
    "randn": lambda x: torch.randn(5),
    "randint": lambda x: torch.randint(1000, (5,)),
    "randint from": lambda x: torch.randint(7, 1000, (5,)),
    "randperm": lambda x: torch.randperm(50),
    "normal": lambda x: torch.normal(x, x),
    "uniform_": lambda x: torch.empty(5).uniform_(),
    "exponential_": lambda x: torch.empty(5).exponential_(),
    "log_normal_": lambda x: torch.empty(5).log_normal_(),
    "dropout": lambda x: torch.nn.functional.dropout(torch.ones(50), 0.5),
}
LIKE: dict[str, Callable[[Tensor], Tensor]] = {
    "rand_like": torch.rand_like,
    "randn_like": torch.randn_like,
    "randint_like": lambda x: torch.randint_like(x, 1000),
}
LIKE_TAKES_A_GENERATOR = "generator" in torch.ops.aten.rand_like.overloads()  # not so in torch 2.6


@pytest.mark.parametrize("operation", RANDOM | LIKE if LIKE_TAKES_A_GENERATOR else RANDOM)
def test_every_random_operation_of_torch_draws_from_the_generator(operation: str) -> None:
    def draw(seed: int) -> Tensor:
        with noise.draw_from(Generator().manual_seed(seed)):
            return (RANDOM | LIKE)[operation](torch.ones(5))

    state = torch.get_rng_state()
    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.skipif(LIKE_TAKES_A_GENERATOR, reason="every random operation of this torch takes a generator")
@pytest.mark.parametrize("operation", LIKE)
def test_a_random_operation_that_takes_no_generator_is_refused(operation: str) -> None:
    with noise.draw_from(Generator()), pytest.raises(TypeError, match="needs random operations that take one"):
        LIKE[operation](torch.ones(5))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, on its Gamma sampler
def test_vmap_draws_from_the_generator_too() -> None:
    def one(concentration: Tensor) -> Tensor:
        dist = td.Gamma(concentration, torch.ones(()), validate_args=False)
        return sp.ScoreFunction(3).propose(dist, generator=Generator().manual_seed(0)).points

    drawn = [torch.func.vmap(one, randomness="different")(torch.full((4,), 2.0)) for _ in range(2)]
    assert torch.equal(*drawn)
    assert len(set(drawn[0].flatten().tolist())) == 12
