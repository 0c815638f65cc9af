"""`sp.certify`: its verdicts on right, wrong, biased and undecidable estimators, and what it leaves untouched.

Every random test here has a fixed seed and one false alarm in a thousand.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Distribution, Independent

import sampleprop as sp
from sampleprop import noise
from sampleprop.certificates import PROBLEMS, Problem
from sampleprop.costs import Costs
from sampleprop.families import Bernoullis
from sampleprop.surrogate import surrogate

BITS = ["one bit", "six coupled bits"]


class Draw(NamedTuple):
    points: Tensor  # [1, *batch, n]
    probes: None = None


class Mine(sp.Estimator[Bernoullis, Draw]):
    """A score function for bits as a user may write it: the facts, a draw, an estimate, and nothing else."""

    unbiased, exact_forward, needs = True, True, "black box"

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def draw(self, variables: Bernoullis, generator: Generator | None) -> Draw:
        return Draw(self.sample(variables, generator).unsqueeze(0))

    def estimate(self, variables: Bernoullis, draw: Draw, costs: Costs) -> Tensor:
        gradient = self.factor * costs.fixed[0, :, None] * variables.score(draw.points)[0]
        return surrogate(self.name, self.value(costs.points[0]), (variables.logits,), (gradient,))

    def sample(self, variables: Bernoullis, generator: Generator | None) -> Tensor:
        shape = variables.batch_shape + variables.event_shape
        return noise.coins(shape, variables.probs.detach(), generator)

    def value(self, costs: Tensor) -> Tensor:
        return costs


def test_right() -> None:
    result = sp.certify(Mine())
    taken = [problem.name for problem in PROBLEMS if problem.supports(Mine())]
    assert result.ok is True
    assert [certificate.problem for certificate in result.certificates] == taken
    assert "rare bits" in taken
    assert all(0 < certificate.sees <= 0.02 for certificate in result.certificates)
    for certificate in result.certificates:
        assert abs(certificate.bias) < 0.02
        assert abs(certificate.bias) / certificate.bias_error == pytest.approx(certificate.z["along"])


@pytest.mark.parametrize(("factor", "too"), [(1.05, "too long"), (0.95, "too short")])
def test_five_percent_off(factor: float, too: str) -> None:
    result = sp.certify(Mine(factor), BITS)
    assert result.ok is False
    for certificate in result.certificates:
        assert result.verdict(certificate) == "wrong"
        assert abs(certificate.bias - (factor - 1)) < 5 * certificate.bias_error
    assert str(result).count(too) == len(BITS)


class Shifted(Mine):
    def value(self, costs: Tensor) -> Tensor:
        return costs + 0.1


class Deaf(Mine):
    def value(self, costs: Tensor) -> Tensor:
        return costs.detach() + 0 * costs


@pytest.mark.parametrize(
    ("kind", "said"), [(Shifted, "the value is wrong"), (Deaf, "the gradient with respect to θ is wrong")]
)
def test_exact_forward_is_a_claim_of_its_own(kind: type[Mine], said: str) -> None:
    estimator = kind(factor=0.8)
    estimator.unbiased = False
    result = sp.certify(estimator, BITS)
    assert result.ok is False
    assert said in str(result)
    assert "too short" not in str(result)
    estimator.exact_forward = False
    result = sp.certify(estimator, BITS)
    assert result.ok is None
    assert [result.verdict(certificate) for certificate in result.certificates] == ["biased"] * len(BITS)


def _square(logit: float) -> Problem:
    """E[θ x²] of one bit: x² = x for the cost, but its derivative is 2 x."""
    return Problem(
        "square",
        torch.tensor([[logit]], dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.float64),
        lambda logits: Independent(Bernoulli(logits=logits), 1),
        lambda x, phi, theta: (theta * x.square()).sum(-1),
    )


@pytest.mark.parametrize("logit", [0.4, -0.4])
def test_bias_has_its_size_and_sign(logit: float) -> None:
    """Straight-through gives dp/dφ E[2 x] = 2 p dp/dφ where dp/dφ is right: a relative bias of 2 p - 1."""
    problem = _square(logit)
    exact = 2 * torch.tensor(logit, dtype=torch.float64).sigmoid().item() - 1
    result = sp.certify(sp.StraightThrough(), [problem])
    (certificate,) = result.certificates
    assert result.ok is None
    assert result.verdict(certificate) == "biased"
    assert abs(certificate.bias - exact) < 4 * certificate.bias_error < 0.1 * abs(exact)


def test_no_bias_is_no_proof_for_an_estimator_that_claims_none() -> None:
    estimator = Mine()
    estimator.unbiased = False
    result = sp.certify(estimator, BITS)
    assert result.ok is None
    assert [result.verdict(certificate) for certificate in result.certificates] == ["no bias"] * len(BITS)


def test_bias_of_the_detectable_size_is_seen_and_a_looser_test_costs_less() -> None:
    """The power is 99 %: of 20 certificates with that bias, four that miss it come by chance once in 10⁴ times."""
    fine, coarse = (sp.certify(Mine(), ["six coupled bits"], detectable=size) for size in (0.02, 0.05))
    assert fine.certificates[0].replicates > 4 * coarse.certificates[0].replicates
    rejected = [sp.certify(Mine(0.95), ["six coupled bits"], detectable=0.05, seed=seed).ok for seed in range(20)]
    assert rejected.count(False) > 16


def test_false_alarms_are_split_over_the_comparisons() -> None:
    once, all_bits = sp.certify(Mine(), ["one bit"]), sp.certify(Mine(), BITS)
    assert (once.comparisons, all_bits.comparisons) == (5, 5 + 15)
    assert once.threshold < all_bits.threshold < sp.certify(Mine(), BITS, false_alarm=1e-6).threshold


def test_variance_too_large() -> None:
    loose = sp.certify(sp.ScoreFunction(4), ["one bit", "normal, square"], most_replicates=100_000)
    assert loose.ok is None
    assert [certificate.problem for certificate in loose.certificates] == ["one bit"]
    assert [each.problem for each in loose.undecided] == ["normal, square"]
    assert "100,000 are allowed" in str(loose)
    wrong = sp.certify(Mine(1.05), BITS, detectable=0.04, most_replicates=100_000)
    assert [each.problem for each in wrong.undecided] == ["six coupled bits"]
    assert wrong.ok is False


def test_nothing_decided() -> None:
    result = sp.certify(sp.ScoreFunction(), ["normal, square"], most_replicates=30_000)
    assert (result.ok, result.sees) == (None, float("inf"))
    assert str(result).startswith("ScoreFunction(): nothing was decided, of 1 problem")
    assert "inf" not in str(result)


def _by_torch(variables: Bernoullis, generator: Generator | None) -> Tensor:
    return torch.bernoulli(variables.probs.detach(), generator=generator)


def _by_global_state(variables: Bernoullis, generator: Generator | None) -> Tensor:
    return variables.dist.sample()


def _repeated_at_random(variables: Bernoullis, generator: Generator | None) -> Tensor:
    for _ in range(int(torch.randint(1, 9, (), generator=generator))):
        sample = Mine().sample(variables, generator)
    return sample


def _one_for_all_rows(variables: Bernoullis, generator: Generator | None) -> Tensor:
    like = variables.probs.detach()
    return (noise.uniform(like.shape[-1:], like, generator) < like).to(like.dtype)


def _with_more_at(which: int) -> Callable[..., Tensor]:
    """Draws numbers that it does not use, in one of each four calls; the numbers are counted in call 3."""
    call = itertools.count()

    def sample(dist: Distribution, generator: Generator | None) -> Tensor:
        if next(call) % 4 == which:
            Mine().sample(dist, generator)
        return Mine().sample(dist, generator)

    return sample


@pytest.mark.parametrize(
    "sample",
    [_by_torch, _by_global_state, _repeated_at_random, _one_for_all_rows, _with_more_at(0), _with_more_at(3)],
)
def test_rare_outcomes_that_cannot_be_drawn_reject_no_estimator(sample: Callable[..., Tensor]) -> None:
    estimator = Mine()
    estimator.sample = sample  # type: ignore[method-assign]
    result = sp.certify(estimator, ["rare bits"])
    assert result.ok is None
    assert "too rare" in result.undecided[0].reason


def test_draws_of_other_code_are_left_alone() -> None:
    """A thread that draws from a generator of its own gets what it asks for, and does not disturb the rare outcomes."""
    other = Generator()

    def sample(dist: Distribution, generator: Generator | None) -> Tensor:
        assert noise.uniform((3,), torch.zeros(()), other).shape == (3,)
        return Mine().sample(dist, generator)

    estimator = Mine()
    estimator.sample = sample  # type: ignore[method-assign]
    assert sp.certify(estimator, ["rare bits"], detectable=0.05).ok is True


@pytest.mark.parametrize("sample", [_by_torch, _by_global_state])
def test_noise_of_any_source(sample: Callable[..., Tensor]) -> None:
    estimator = Mine()
    estimator.sample = sample  # type: ignore[method-assign]
    assert sp.certify(estimator, BITS).ok is True


class Nothing(Mine):
    def refusal(self, dist: Distribution) -> str | None:
        return "Nothing needs a distribution that there is not; got one that there is."


def test_takes_no_problem() -> None:
    with pytest.raises(ValueError, match=r"takes none of them.*Bernoulli, .*VonMises, .*there is not"):
        sp.certify(Nothing())


def test_problems_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"got 'six bits'\. There is .*“six coupled bits”"):
        sp.certify(Mine(), ["six bits"])
    with pytest.raises(ValueError, match=r"problems that Mine\(\) takes; got “poisson”.*needs Bernoulli; got Poisson"):
        sp.certify(Mine(), "poisson")
    with pytest.raises(ValueError, match="at least one problem"):
        sp.certify(Mine(), [])
    with pytest.raises(ValueError, match=r"estimates E\[f\]; the problem is for estimators of a bound"):
        sp.certify(sp.Pathwise(), "linear-Gaussian model")
    with pytest.raises(ValueError, match="more than 2097152 terms"):
        sp.certify(sp.VIMCO(20), "six coupled bits")
    flat = Problem(**(vars(_square(0.0)) | {"f": lambda x, phi, theta: theta.sum(-1).expand(x.shape[:-1])}))
    with pytest.raises(ValueError, match="exactly 0"):
        sp.certify(Mine(), [flat])


@pytest.mark.parametrize(
    "arguments",
    [{"detectable": 0.0}, {"detectable": 1.0}, {"false_alarm": float("nan")}, {"most_replicates": 1000}],
    ids=str,
)
def test_numbers_that_make_no_sense(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"certify needs {next(iter(arguments))}"):
        sp.certify(Mine(), "one bit", **arguments)


def test_no_estimator() -> None:
    with pytest.raises(TypeError, match=r"got the class Mine\. Make one: Mine\(\)"):
        sp.certify(Mine)  # type: ignore[arg-type]


class Crashing(Mine):
    def value(self, costs: Tensor) -> Tensor:
        raise NotImplementedError("not yet")


class NotFinite(Mine):
    def value(self, costs: Tensor) -> Tensor:
        return costs / 0


class OneForAll(Mine):
    def estimate(self, variables: Bernoullis, draw: Draw, costs: Costs) -> Tensor:
        return costs.points.mean()


class Detached(Mine):
    def estimate(self, variables: Bernoullis, draw: Draw, costs: Costs) -> Tensor:
        return costs.fixed[0]


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        (Crashing, NotImplementedError, "not yet"),
        (NotFinite, ValueError, "NotFinite needs finite values and gradients"),
        (OneForAll, ValueError, r"shape \[1\], with a gradient; got \[\]"),
        (Detached, ValueError, r"shape \[1\], with a gradient; got a detached one"),
    ],
)
def test_estimators_that_fail(kind: type[Mine], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        sp.certify(kind(), "one bit")
    assert caught.value.__notes__ == [f"This was while {kind.__name__}() was certified on the problem “one bit”."]


def test_leaves_everything_as_it_was() -> None:
    estimator = sp.ScoreFunction(baseline=sp.MovingAverage()).train()
    before = {name: x.clone() for name, x in estimator.state_dict().items()}
    torch.rand(1)  # so that the state is not that of any seed
    state, fractions, threads = torch.get_rng_state(), noise.fractions, torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sp.certify(estimator, ["one bit", "rare bits"], detectable=0.1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
    assert noise.fractions is fractions
    assert estimator.training
    assert all(torch.equal(x, before[name]) for name, x in estimator.state_dict().items())


def test_depends_on_the_seed_only() -> None:
    def certificates(seed: int) -> Any:
        return sp.certify(Mine(), ["one bit", "rare bits"], detectable=0.1, seed=seed).certificates

    first = certificates(0)
    torch.rand(1)
    with torch.no_grad(), torch.device("meta"):
        assert certificates(0) == first
    assert all(a.bias != b.bias for a, b in zip(certificates(1), first, strict=True))


def test_progress_and_interruption() -> None:
    told = []

    def progress(*what: Any) -> None:
        told.append(what)
        if what[0] == "f of φ":
            raise KeyboardInterrupt

    result = sp.certify(Mine(), ["one bit", "f of φ", "rare bits"], progress=progress)
    assert told == [("one bit", 0, 3), ("f of φ", 1, 3)]
    assert [certificate.problem for certificate in result.certificates] == ["one bit"]
    assert [each.problem for each in result.undecided] == ["f of φ", "rare bits"]
    assert result.ok is None


@pytest.mark.parametrize("estimator", [Mine(), Mine(1.05), sp.StraightThrough(), sp.GumbelSoftmax()], ids=str)
def test_table(estimator: sp.Estimator[Any, Any]) -> None:
    result = sp.certify(estimator, [*BITS, "rare bits"], detectable=0.1, most_replicates=100_000)
    text = str(result)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    rows = [line for line in lines if line.startswith((*BITS, "rare bits"))]
    assert len(rows) == 3
    assert "with a probability of at most 0.1 %" in " ".join(text.split())
    assert f"a bias of {100 * result.sees:.2f} % or more would have been seen" in " ".join(text.split())
    assert "each." in lines[-1]


def test_numbers_as_json() -> None:
    result = sp.certify(Mine(1.05), [*BITS, "rare bits"], detectable=0.04, most_replicates=100_000)
    numbers = json.loads(json.dumps(result.as_dict()))
    assert numbers["ok"] is False
    assert [(each["problem"], each["verdict"]) for each in numbers["certificates"]] == [
        ("one bit", "wrong"),
        ("rare bits", "wrong"),
    ]
    assert [each["problem"] for each in numbers["undecided"]] == ["six coupled bits"]
    assert numbers["certificates"][0]["bias"] == result.certificates[0].bias


def test_is_imported_when_it_is_asked_for() -> None:
    code = (
        "import sys, sampleprop as sp\n"
        "assert 'certify' in dir(sp)\n"
        "assert 'sampleprop.certificates' not in sys.modules\n"
        "assert sp.certify(sp.Enumerate(), 'one bit').ok\n"
        "assert not {'scipy', 'pytest', 'rich', 'typer'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
