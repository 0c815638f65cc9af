"""Smoothing estimators: the gradient comes from a finite perturbation of φ, for a p_φ that can only be sampled.

The score function needs log p_φ. The pathwise estimators need ∂x/∂φ. The measure-valued ones need to know of which
distributions ∇p_φ is the difference. A program that only draws samples, such as a simulator, has none of these. But it
can be run at other parameters. With a direction ε of mean zero and covariance one,

    E_ε[ (L(φ + σε) - L(φ - σε)) / 2σ · ε ] = ∇L(φ) + O(σ²)

for any L with three derivatives. The difference is the part of L that is odd along ε, and it is multiplied by ε again.
This costs two evaluations whatever the number of parameters. f at one sample may stand for L, because the mean is
linear. f and p may have jumps: L is smooth where f is not.

- `evolution_strategies.py` draws ε from a normal distribution. By Stein's identity the mean is then exactly the
  gradient of the smoothed E_ε[L(φ + σε)]. The bias is what this smoothing does to L.
- `spsa.py` draws signs. For L of at most second degree the mean is exactly ∇L.

Three things keep the variance low:

- The perturbation has two sides. Therefore the size of L, which is divided by σ, cancels.
- Both sides draw their samples from the same noise, so that the noise of x cancels too. Where x follows φ smoothly,
  noise of the order σ is left. Where x is discrete, the two sides are mostly the same point, and give zero.
- Parameters with a range, such as a scale or a probability, are perturbed in coordinates in which they have none
  (`perturbation.py`).

The variance that is left grows with the number of parameters, because the difference along ε contains the changes that
all of them make. Use these estimators for a few parameters, where nothing else can be used.

A jump in f can be smoothed without bias by noise that the model has already. Integrate f over one noise variable in
closed form, given the others. Then hand `expect` the resulting smooth function of the others.
"""
