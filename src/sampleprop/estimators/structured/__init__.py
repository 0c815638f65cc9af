"""Gradients through a solver: the solutions of a user's own solver at perturbed scores, `PerturbAndMAP`.

Structures with a log-probability (subsets, rankings, chains, trees, matchings) need nothing from here: the score
function, enumeration and their kin take them, and so do the estimators that use the mean.

A solver only says which solution is best. Its output is piecewise constant in the scores θ, so its derivative is 0
wherever it exists. With noise, y = solver(θ + σ Z), the expectation of f(y) is smooth in θ.

- `perturbed_score.py` multiplies the cost by the score of the noise, which is known although that of y is not. It is
  unbiased and f may be a black box. The noise has as many dimensions as there are scores, and all of them count:
  expect several times the variance of a score function for a distribution that knows its log-probability.
- `imle.py` moves the scores against the derivative of f, solves once more, and takes the difference of the solutions.
  It has little variance and a bias, which shrinks the gradient.
"""
