"""How to measure one estimator: many independent estimates, an exact gradient, and tests of their difference.

This wing is the bottom of the diagnostics, and all other wings build on it. It imports estimators and distributions of
the library, but no other wing.

- `replicates`: copies the parameters of the distribution R times along the batch, so that one call of f gives R
  independent estimates of value and gradient. It also trains an estimator's own parameters.
- `attached`: the same for a distribution that cannot be copied, with respect to the tensors that it holds.
- `programs`: the same for a program.
- `enumeration`: the exact value and gradient over all joint states of a small discrete distribution.
- `reference`: the gradient against which a bias is measured, exact or a long run of an unbiased estimator.
- `tally`: collects the replicates of one estimator in 32 groups, and times it.
- `statistics`: the bias, its test, and the bias that would have been seen.
"""
