"""Smoothing estimators: the gradient comes from a finite perturbation of φ, for a p_φ that can only be sampled.

The score function needs log p_φ, the pathwise estimators need ∂x/∂φ, the measure-valued ones need to know of which laws
∇p_φ is the difference. What only draws samples, a simulator say, has none of these. But it can be run at other
parameters, and with a direction ε of mean zero and covariance one,

    E_ε[ (L(φ + σε) - L(φ - σε)) / 2σ · ε ] = ∇L(φ) + O(σ²)

for any L with three derivatives: the odd part of L along ε, taken back along ε. It costs two evaluations whatever the
number of parameters, L may be replaced by f at one sample, since the mean goes through, and f and p may have jumps: L
is smooth where f is not.

- `evolution_strategies.py` draws ε from a normal law. By Stein's identity the mean is then exactly the gradient of the
  smoothed E_ε[L(φ + σε)]. The bias is what this smoothing does to L.
- `spsa.py` draws signs. For L of at most second degree the mean is exactly ∇L.

Three things keep the variance in hand. The perturbation has two sides, so that the size of L, which is divided by σ,
cancels. Both sides draw their samples from the same noise, so that the noise of x cancels too: it is left in the order
σ where x follows φ smoothly, and where x is discrete most pairs are the same point and give zero. And parameters with
a range, a scale or a probability, are perturbed in the coordinates in which they have none (`perturbation.py`).

What remains grows with the number of parameters: every coordinate of ε hears the difference that all of them make. These
are the estimators for a few parameters and no other way.

Smoothing by a noise that the model has already, which has no bias, is the answer to a jump in f: integrate f over one
noise variable in closed form, given the others, and hand `expect` the resulting smooth function of the others.
"""
