"""Exact and partly exact sums over the support: no noise where the support allows it.

The expectation of a discrete x is a finite sum, and so is its derivative:

    L = Σ_x p_φ(x) f(x),    ∇_φ L = Σ_x f(x) ∇_φ p_φ(x) + Σ_x p_φ(x) ∂_φ f(x).

`enumerate.py` adds up every term and lets autograd differentiate the sum, to any order. D variables of C classes have
C^D joint states. Therefore it serves small problems, and it is the reference for the tests of all other estimators.
`states.py` is what it shares with the estimators of the folder `score` that enumerate the probabilities, but not f.

Where the variables are independent, the derivative with respect to the parameters φ_v of one variable needs a sum over
that variable only:

    ∇_φ_v L = E[ Σ_c f(x with x_v = c) ∇_φ_v p_φ(x_v = c) ],

where the expectation is over the other variables. `local_expectation.py` takes one sample of them all, the pivot, and
changes one variable at a time. This takes 1 + Σ_v (C_v - 1) evaluations of f, because all sums share f at the pivot. Of
the noise of the score function only that of the other variables is left. No baseline is needed: Σ_c ∇p(x_v = c) = 0, so
whatever f has in common for all c cancels. `changes.py` makes the changed points.
"""
