"""Certificates: an estimator against the exact value and gradients of small problems, with a test of known power.

`problems` holds the expectations whose value and gradients are known exactly, `trial` the statistics of one of them,
`tails` the draws for outcomes too rare to be met by chance, `certifying` the function for all problems, and
`certification` what it returns.
"""

from sampleprop.certificates.certification import Certification as Certification
from sampleprop.certificates.certifying import certify as certify
from sampleprop.certificates.problems import PROBLEMS as PROBLEMS
from sampleprop.certificates.problems import Problem as Problem
from sampleprop.certificates.trial import Certificate as Certificate
from sampleprop.certificates.trial import Undecided as Undecided
