"""Is this estimator right for this f and this distribution?

This wing tests f first, since no estimator is right for an f that mixes rows or ignores x, and then the gradient. It
imports `measuring` only.

- `check`: the function that users call; it runs all tests and says what could not be tested.
- `cost`: tests of f alone: randomness, mixing of rows, costs that ignore x, jumps.
- `solver`: tests of the solver of `PerturbAndMAP`: that it is deterministic, and that it maximizes.
- `program`: the same tests for a program, whose reference is every path of outcomes.
- `objective`: whether f contains log q, which estimators of bounds subtract themselves.
- `findings`: what was found, as an object with a text and an HTML form.
"""
