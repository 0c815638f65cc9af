"""Pathwise estimators: the gradient comes from ∂f/∂x, through the sample.

Where x = g(φ, ε) with noise ε whose distribution does not depend on φ,

    ∇_φ E[f(x)] = E[ (∂g/∂φ)ᵀ ∇_x f(x) ].

The derivative with respect to each coordinate of x tells in which direction f falls, and a constant in f has none.
Therefore one sample is often as good as many samples of the score function. In return f must be continuous, and
differentiable almost everywhere. Where f jumps, a change of φ moves probability across the jump. ∂f/∂x does not see
this, so the gradient is biased, and nothing shows it.

- `pathwise.py` takes every distribution with `rsample`. There g is a formula, such as μ + σ ε, or it is known only
  through the distribution function F, as for Gamma variables: dx/dφ = -(∂F/∂φ) / (∂F/∂x).
- `sticking_the_landing.py` is for the ELBO, E[log p(x, z) - log q_φ(z)], where f depends on φ too. The derivative of
  log q with respect to its own parameters is a score, whose mean is zero. This estimator leaves it out.
- `path_derivative.py` has what the latter shares with the multi-sample bound's `doubly_reparameterized.py`.

For discrete x there is no such g: a step function has the derivative 0 wherever it has one. The exact gradient with
respect to the logits φ of one variable with probabilities π consists of differences of f between the classes,

    ∂L/∂φ_c = π_c Σ_j π_j (f(e_c) - f(e_j)).

Two estimators approximate each difference by derivatives at the sampled class:

- `straight_through.py` uses the tangent at the sample, ∇f(x)ᵀ (e_c - e_j), as if the sample had been its mean. It is
  unbiased for f that is linear in each variable, and biased otherwise.
- `reinmax.py` averages the derivatives at both ends of each difference: this is the trapezoid rule. It is unbiased for
  f that is quadratic in each variable (at temperature 1), and biased otherwise.

In both, f sees true samples only, so the value and the gradient for θ have no bias.
"""
