"""What is certified: each variant of the register on every exact problem that it takes."""

from certificates.problems import PROBLEMS
from variants import VARIANTS

PAIRS = tuple((variant, problem) for variant in VARIANTS for problem in PROBLEMS if problem.supports(variant))
