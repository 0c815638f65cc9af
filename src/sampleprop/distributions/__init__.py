"""What `torch.distributions` lacks: further distributions, and samplers of discrete structures.

A distribution in this folder is an ordinary `torch.distributions` object. Where it has `rsample`, this is a true
reparameterization, which is right in the mean for every smooth f. Nothing biased has that name.

The samplers `gumbel_max` and `gumbel_top_k` draw from logits, without a distribution object. With Gumbel noise G, the
sum φ + G has its maximum at class c with probability softmax(φ)_c. Its k largest entries, in order, are k draws without
replacement, each from the softmax over the classes that are left (Plackett-Luce). The map from φ to the result is
piecewise constant: its derivative is 0 wherever it exists, and says nothing about how the probabilities move. Therefore
a sampler gives no gradient, and refuses a backward pass. For gradients of expectations use `expect`.
"""

from sampleprop.distributions.beta import Beta as Beta
from sampleprop.distributions.dirichlet import Dirichlet as Dirichlet
from sampleprop.distributions.gamma import Gamma as Gamma
from sampleprop.distributions.generalized_extreme_value import GeneralizedExtremeValue as GeneralizedExtremeValue
from sampleprop.distributions.gumbel_max import gumbel_max as gumbel_max
from sampleprop.distributions.gumbel_max import gumbel_top_k as gumbel_top_k
from sampleprop.distributions.implicit import ImplicitReparameterization as ImplicitReparameterization
from sampleprop.distributions.k_subset import KSubset as KSubset
from sampleprop.distributions.linear_chain import LinearChain as LinearChain
from sampleprop.distributions.matching import Matching as Matching
from sampleprop.distributions.mixture_same_family import MixtureSameFamily as MixtureSameFamily
from sampleprop.distributions.plackett_luce import PlackettLuce as PlackettLuce
from sampleprop.distributions.spanning_tree import SpanningTree as SpanningTree
from sampleprop.distributions.truncated_normal import TruncatedNormal as TruncatedNormal
from sampleprop.distributions.von_mises import VonMises as VonMises
from sampleprop.distributions.von_mises_fisher import VonMisesFisher as VonMisesFisher
