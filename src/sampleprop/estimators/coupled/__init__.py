"""Coupled estimators: the gradient comes from differences of f between dependent samples.

Leave-one-out with two independent samples is ½ (f(x) - f(x')) (s - s') with the scores s and s'. A variable gets a
gradient only where the samples differ in it, and often they do not. Therefore the samples are made dependent: each one
follows p_φ, but variable by variable they are drawn together from common noise, so that they differ more often. With P
the joint probability of the two values of one variable,

    ∇_φ_v L = E[ ½ (f(x) - f(x')) r_v (x_v - x'_v) ],    r_v = p(x_v) p(x'_v) / P(x_v, x'_v),

for one-hot variables or bits with logits φ. This is unbiased for three reasons. Given x_v and x'_v, the mean of f(x) is
a function g(x_v) of its own value, because the variables are independent of each other. The weight r turns the joint
distribution of the pair into that of two independent samples. For independent samples
E[½ (g(x_v) - g(x'_v)) (x_v - x'_v)] is the covariance of g(x_v) and x_v, which is the gradient with respect to the
logits. The condition is that P is positive for any two different values that are possible. A pair that never occurs
cannot be weighted, and the bias is silent. Nothing is learned, and f may be a black box.

- `antithetic.py` draws pairs of bits from u and 1 - u. There r = max(p, 1 - p), which gives `disarm.py`. Its
  predecessor `arm.py` has the noise u - 1/2 in the place of the weight.
- `copulas.py` draws any number of uniform numbers, every two of them negatively correlated. `arms.py` makes bits of
  them, and `carms.py` makes one-hot vectors by breaking sticks. Both average over all pairs.
- `comparable.py` refuses batch elements in which too few costs are kept for a difference.

Three more estimators compare f at a sample and at a point that is coupled to it:

- `measure_valued.py` writes the derivative of p with respect to one parameter as c (p⁺ - p⁻) with two probability
  distributions. The gradient of that parameter is c (f(x⁺) - f(x⁻)). `weak_derivatives.py` knows c and both
  distributions for each parameter. `diagonal_normal.py` makes independent variables of a MultivariateNormal.
- `coupled_perturbation.py` keeps the noise behind x. It asks at which rate a change of φ makes x jump to a neighbouring
  outcome. The gradient is this rate times the difference of f. One coordinate jumps, drawn in proportion to its rate.
- `go_gradient.py` lets each coordinate jump in turn, so it draws none of them. `jumps.py` knows the rates for both.
"""
