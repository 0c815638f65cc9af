"""The register: one import line for each estimator. Certificates, tables and the command follow from it."""

from sampleprop.estimator import Estimator as _Estimator
from sampleprop.estimators.coupled.arm import ARM as ARM
from sampleprop.estimators.coupled.arms import ARMS as ARMS
from sampleprop.estimators.coupled.carms import CARMS as CARMS
from sampleprop.estimators.coupled.coupled_perturbation import CoupledPerturbation as CoupledPerturbation
from sampleprop.estimators.coupled.disarm import DisARM as DisARM
from sampleprop.estimators.coupled.go_gradient import GOGradient as GOGradient
from sampleprop.estimators.coupled.measure_valued import MeasureValued as MeasureValued
from sampleprop.estimators.exact.enumerate import Enumerate as Enumerate
from sampleprop.estimators.exact.local_expectation import LocalExpectation as LocalExpectation
from sampleprop.estimators.multisample.doubly_reparameterized import DoublyReparameterized as DoublyReparameterized
from sampleprop.estimators.multisample.importance_weighted import ImportanceWeighted as ImportanceWeighted
from sampleprop.estimators.multisample.reweighted_wake_sleep import ReweightedWakeSleep as ReweightedWakeSleep
from sampleprop.estimators.multisample.vimco import VIMCO as VIMCO
from sampleprop.estimators.pathwise.pathwise import Pathwise as Pathwise
from sampleprop.estimators.pathwise.reinmax import ReinMax as ReinMax
from sampleprop.estimators.pathwise.sticking_the_landing import StickingTheLanding as StickingTheLanding
from sampleprop.estimators.pathwise.straight_through import StraightThrough as StraightThrough
from sampleprop.estimators.relaxed.decoupled_gumbel_softmax import DecoupledGumbelSoftmax as DecoupledGumbelSoftmax
from sampleprop.estimators.relaxed.gapped_straight_through import GappedStraightThrough as GappedStraightThrough
from sampleprop.estimators.relaxed.gaussian_relaxed_bernoulli import (
    GaussianRelaxedBernoulli as GaussianRelaxedBernoulli,
)
from sampleprop.estimators.relaxed.generalized_gumbel_softmax import (
    GeneralizedGumbelSoftmax as GeneralizedGumbelSoftmax,
)
from sampleprop.estimators.relaxed.gumbel_rao import GumbelRao as GumbelRao
from sampleprop.estimators.relaxed.gumbel_softmax import GumbelSoftmax as GumbelSoftmax
from sampleprop.estimators.relaxed.hard_concrete import HardConcrete as HardConcrete
from sampleprop.estimators.relaxed.invertible_gaussian import InvertibleGaussian as InvertibleGaussian
from sampleprop.estimators.relaxed.lax import LAX as LAX
from sampleprop.estimators.relaxed.logistic_normal_softmax import LogisticNormalSoftmax as LogisticNormalSoftmax
from sampleprop.estimators.relaxed.rebar import REBAR as REBAR
from sampleprop.estimators.relaxed.relax import RELAX as RELAX
from sampleprop.estimators.relaxed.straight_through_gumbel import StraightThroughGumbel as StraightThroughGumbel
from sampleprop.estimators.score.bitflip import BitFlip as BitFlip
from sampleprop.estimators.score.double_cv import DoubleCV as DoubleCV
from sampleprop.estimators.score.muprop import MuProp as MuProp
from sampleprop.estimators.score.rao_blackwellized import RaoBlackwellized as RaoBlackwellized
from sampleprop.estimators.score.rodeo import RODEO as RODEO
from sampleprop.estimators.score.score_function import ScoreFunction as ScoreFunction
from sampleprop.estimators.score.ugc import UGC as UGC
from sampleprop.estimators.score.unordered_set import UnorderedSet as UnorderedSet
from sampleprop.estimators.smoothing.evolution_strategies import EvolutionStrategies as EvolutionStrategies
from sampleprop.estimators.smoothing.spsa import SPSA as SPSA
from sampleprop.estimators.structured.imle import IMLE as IMLE
from sampleprop.estimators.structured.perturbed_score import PerturbedScore as PerturbedScore

REGISTER = tuple(
    entry
    for entry in list(globals().values())
    if isinstance(entry, type) and issubclass(entry, _Estimator) and entry is not _Estimator
)
