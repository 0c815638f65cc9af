"""Your estimator in one line, with its name in the literature.

What a pull request to the arena contains, and nothing else:

1. This file, as src/sampleprop/lab/arena/entrants/<name>.py, with one line in `ENTRANTS` of the __init__.py there. Its
   docstring has the derivation, the source, and what differs from it. What it says of itself (`unbiased`,
   `exact_forward`, `needs`) is certified.
2. The file that `sampleprop arena <Name> --out src/sampleprop/lab/arena/standard` writes: the whole suite, all seeds,
   untrained and, where it learns, trained. Nothing is tuned for a problem.
3. docs/arena.md as `sampleprop arena --write docs/arena.md` leaves it, and its picture, which
   `python -m pictures arena --measure` draws in the folder docs.

Before that, try it: `sampleprop arena --add this_file.py:Mine --quick`, and then without --quick. It is certified
first, and the table shows it beside the others. The tests measure the quick form again, and compare it with the file.
"""

from typing import NamedTuple

from torch import Generator, Tensor

import sampleprop as sp
from sampleprop.costs import Costs
from sampleprop.families import Bernoullis
from sampleprop.surrogate import surrogate


class Draw(NamedTuple):
    """Where f is evaluated."""

    points: Tensor  # [k, *batch, *event], detached
    probes: None = None


class Mine(sp.Estimator[Bernoullis, Draw]):
    """The score function with the mean cost of the other samples as the baseline, on bits."""

    unbiased, exact_forward, needs = True, True, "black box"
    samples_least = 2

    def __init__(self, samples: int = 2) -> None:
        super().__init__()
        self.samples = samples

    def draw(self, variables: Bernoullis, generator: Generator | None) -> Draw:
        """Draw the samples."""
        return Draw(variables.sample(self.draws, generator))

    def estimate(self, variables: Bernoullis, draw: Draw, costs: Costs) -> Tensor:
        """Weight each score by its cost less the mean of the other costs."""
        fixed = costs.fixed  # [k, *batch]
        others = (fixed.sum(0) - fixed) / (self.draws - 1)
        gradient = variables.gradient_for_logits(draw.points, costs.shared(fixed - others))
        return surrogate(self.name, costs.mean(), (variables.logits,), (gradient,))
