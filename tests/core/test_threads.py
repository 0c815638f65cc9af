"""Threads that draw from generators of their own give the results of one thread, and leave the global state alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributions as td
from torch import Generator, Tensor

import sampleprop as sp

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


def test_every_random_operation_of_torch_draws_from_the_generator() -> None:
    from sampleprop import noise

    def draws(seed: int) -> list[Tensor]:
        x = torch.ones(5)
        with noise.draw_from(Generator().manual_seed(seed)):
            return [
                torch.rand(5),
                torch.randn(5),
                torch.randint(1000, (5,)),
                torch.randint(7, 1000, (5,)),
                torch.randperm(50),
                torch.rand_like(x),
                torch.randn_like(x),
                torch.randint_like(x, 1000),
                torch.normal(x, x),
                torch.empty(5).uniform_(),
                torch.empty(5).exponential_(),
                torch.empty(5).log_normal_(),
                torch.nn.functional.dropout(torch.ones(50), 0.5),
            ]

    state = torch.get_rng_state()
    first, again, other = draws(1), draws(1), draws(2)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not any(torch.equal(*pair) for pair in zip(first, other, strict=True))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, on its Gamma sampler
def test_vmap_draws_from_the_generator_too() -> None:
    def one(concentration: Tensor) -> Tensor:
        dist = td.Gamma(concentration, torch.ones(()), validate_args=False)
        return sp.ScoreFunction(3).propose(dist, generator=Generator().manual_seed(0)).points

    drawn = [torch.func.vmap(one, randomness="different")(torch.full((4,), 2.0)) for _ in range(2)]
    assert torch.equal(*drawn)
    assert len(set(drawn[0].flatten().tolist())) == 12
