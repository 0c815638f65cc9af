"""Score-function estimators: the gradient comes from log p_φ, so f may be a black box.

With the score s(x) = ∇_φ log p_φ(x), the identity ∇p = p ∇log p gives

    ∇_φ L = E[ f(x) s(x) ] + E[ ∂_φ f(x) ].

It needs a log-probability that is differentiable in φ, and a support that does not move with φ. The score has mean
zero, so any b that does not depend on x may be subtracted from f. Without a baseline b the variance grows with the
square of the mean of f. It also grows with the number of variables, because the score of every variable is multiplied
by the cost of all of them. A b(x) that depends on x may be subtracted, too, if its own gradient is added back:

    ∇_φ L = E[ (f(x) - b(x)) s(x) ] + ∇_φ E[b(x)] + E[ ∂_φ f(x) ].

`score_function.py` takes any distribution and any baseline (the folder `baselines`). It is right to any order, which is
the work of `dice.py`. The others are for discrete variables, and get more from each evaluation of f:

- A b(x) from the derivative of f: `muprop.py` takes the tangent of f at the mean E[x]; `double_cv.py` improves the
  leave-one-out baseline by tangents at the other samples.
- A b(x) whose mean is zero whatever is learned: `rodeo.py` takes what one step of Gibbs sampling changes in the mean of
  a function, because such a step does not change p_φ. The function is made of tangents, again. `control_variates.py`
  is what these three share.
- No state twice: `rao_blackwellized.py` sums over the most probable joint states and samples the rest,
  `unordered_set.py` draws without replacement.
- The difference that one bit makes: the derivative of L with respect to its logit is
  p (1 - p) E[f(x with 1) - f(x with 0)]. `bitflip.py` looks at one bit at a time; `ugc.py` does so where p is near 0
  or 1, and takes an antithetic pair (see the folder `coupled`) elsewhere.
"""
