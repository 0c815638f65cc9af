"""What estimators share that differentiate L by perturbing the parameters of p_φ."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.distributions import Transform, transform_to
from torch.distributions.constraints import Constraint

from sampleprop import checks, noise, sums
from sampleprop.costs import Costs
from sampleprop.estimator import Estimator
from sampleprop.families import Discrete, Solutions, Structures, Variables, recognize, with_parameters
from sampleprop.families.parameters import UNBOUNDED, asked, constraint_of, missing
from sampleprop.surrogate import surrogate
from sampleprop.tracing import inspectable


class Draw(NamedTuple):
    points: Tensor  # [k, *batch, *event], detached: samples of p_φ
    probes: Tensor  # [2 k, *batch, *event], detached: at u + step ε, then at u - step ε from the same noise
    directions: dict[str, Tensor]  # ε by parameter, [k, *parameter], 0 where the parameter is infinite
    step: float


class PerturbedParameters(Estimator[Variables | Solutions, Draw], ABC):
    """An estimator of first order from the costs of samples at φ ± step ε.

    φ is perturbed in coordinates u without bounds. These are the ones of `torch.distributions.transform_to`: the
    logarithm of a scale, the logit of a probability.

    Args:
        samples: k, at least 1.
    """

    unbiased = False
    exact_forward = True
    needs = "black box"
    family = "smoothing"
    reads_points = False

    def __init__(self, samples: int) -> None:
        super().__init__()
        checks.samples(self.name, samples)
        self.samples = samples

    @property
    @abstractmethod
    def _step(self) -> float:
        """How far the parameters are moved along a direction."""

    @staticmethod
    @abstractmethod
    def _direction(shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
        """Draw ε, of mean 0 and variance 1 in each coordinate."""

    def calls(self, variables: Variables) -> tuple[int, int]:
        return 3 * self.draws, 0

    def refuses(self, variables: Variables) -> str | None:
        if isinstance(variables, Discrete):
            return None  # its logits have the batch shape, and no bounds
        try:
            named = variables.parameters
        except TypeError:
            return (
                f"{self.name} needs a distribution that keeps its parameters under the names in its arg_constraints, "
                f"and can be built from them; got {variables.kind}. Use Pathwise or ScoreFunction, or give it that "
                "form."
            )
        for name, parameter in named.items():
            if parameter.dim() < len(variables.batch_shape):
                return (
                    f"{self.name} needs parameters with the batch shape {list(variables.batch_shape)}, which can be "
                    f"copied; got {name} of shape {list(parameter.shape)} in {variables.kind}. Expand it in the "
                    "constructor (torch.distributions.utils.broadcast_all)."
                )
            if not _free(constraint_of(variables.base, name)):
                return (
                    f"{self.name} needs parameters that can be moved each for itself; got {name} of {variables.kind}, "
                    "whose range depends on another parameter. Use Pathwise."
                )
        return None

    def draw(self, variables: Variables, generator: Generator | None) -> Draw:
        k, step, named = self.draws, self._step, variables.parameters
        points, names, directions, sides = variables.sample(k, generator), asked(named), {}, {}
        with torch.set_grad_enabled(False):
            for name, u in in_unbounded(variables, named).items():
                # Drawn for all parameters, so that the noise does not depend on which of them are trained.
                epsilon = self._direction((k, *u.shape), u, generator)
                if name in names:
                    directions[name] = moves = _of_finite(u, epsilon)
                    both = torch.stack((torch.add(u, moves, alpha=step), torch.sub(u, moves, alpha=step)))
                    transform = _transform(variables, name)
                    sides[name] = both if transform is None else transform(both)  # [2, k, *parameter]
                else:
                    sides[name] = noise.promote(named[name]).expand(2, k, *u.shape)
            probes = noise.cast(sample_both(variables, sides, generator).flatten(0, 1), points.dtype)
        return Draw(points, probes, directions, step)

    def estimate(self, variables: Variables, draw: Draw, costs: Costs) -> Tensor:
        named = variables.parameters
        if lacking := missing(named, draw.directions):
            raise ValueError(
                f"{self.name} needs a perturbation of each parameter with a gradient; got a draw for "
                f"{list(draw.directions)}, without {lacking}. Propose with a distribution whose parameters require the "
                "same gradients."
            )
        unbounded = in_unbounded(variables, {name: named[name] for name in draw.directions})  # attached
        plus, minus = costs.probes.chunk(2)
        weights = (plus - minus) / (2 * draw.step * plus.shape[0])  # the share of each direction, [k, *batch]
        gradients = tuple(sums.over_samples(weights, direction) for direction in draw.directions.values())
        return surrogate(self.name, costs.mean(), tuple(unbounded.values()), gradients)


def _of_finite(u: Tensor, directions: Tensor) -> Tensor:
    """The directions, [k, *parameter], with 0 where the parameter is infinite."""
    if inspectable(u) and not u.is_cuda and math.isfinite(u.sum().item()):  # then none is
        return directions
    return directions.masked_fill(u.isinf(), 0.0)


def _free(constraint: Constraint) -> bool:
    """Whether the range is the same whatever the other parameters are."""
    if constraint in UNBOUNDED:
        return True
    if any(isinstance(bound, Tensor) for bound in vars(constraint).values()):
        return False
    try:
        transform_to(constraint)
    except NotImplementedError:
        return False
    return True


def in_unbounded(variables: Variables, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters in coordinates without bounds, attached if they are."""
    found = {}
    for name, parameter in named.items():
        transform, parameter = _transform(variables, name), noise.promote(parameter)
        found[name] = parameter if transform is None else transform.inv(parameter)
    return found


def _transform(variables: Variables, name: str) -> Transform | None:
    """From coordinates without bounds to a parameter; None where the parameter has no bounds itself."""
    if isinstance(variables, Discrete):
        return None
    constraint = constraint_of(variables.base, name)
    return None if constraint in UNBOUNDED else transform_to(constraint)


def sample_both(variables: Variables, sides: dict[str, Tensor], generator: Generator | None) -> Tensor:
    """One sample for each of the parameters, both sides from the same noise: [2, k, *batch, *event].

    Args:
        variables: p_φ.
        sides: the parameters of both sides by name, [2, k, *parameter] each.
        generator: the source of noise; the default one if None.
    """

    def draw(named: dict[str, Tensor]) -> Tensor:
        return recognize(with_parameters(variables.dist, named)).sample(1, generator).squeeze(0)

    if isinstance(variables, Discrete):
        given = variables.noise_for(sides["logits"].shape[1], generator)
        return type(variables)(sides["logits"], variables.event_ndim, variables.dtype).decide(given)
    if torch.compiler.is_dynamo_compiling():
        # A random state cannot be restored here. `vmap` can give both sides the same noise, if its shape is fixed.
        shared = variables.smooth or isinstance(variables, Structures | Solutions)
        both: Tensor = torch.func.vmap(draw, randomness="same" if shared else "different")(sides)
        return both
    with _rewound(generator):
        plus = draw({name: p[0] for name, p in sides.items()})
    return torch.stack((plus, draw({name: p[1] for name, p in sides.items()})))


@contextmanager
def _rewound(generator: Generator | None) -> Iterator[None]:
    """Restore the random state after the block."""
    if generator is None:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
        return
    state = generator.get_state()
    yield
    generator.set_state(state)
