"""Backpropagation through samples: gradients of L(θ, φ) = E_{x ~ p_φ}[f_θ(x)] for continuous and discrete x."""

import importlib
from typing import TYPE_CHECKING, Any

from sampleprop.baselines.baseline import Baseline as Baseline
from sampleprop.baselines.constant import Constant as Constant
from sampleprop.baselines.known_mean import KnownMean as KnownMean
from sampleprop.baselines.learned import LearnedBaseline as LearnedBaseline
from sampleprop.baselines.leave_one_out import LeaveOneOut as LeaveOneOut
from sampleprop.baselines.moving_average import MovingAverage as MovingAverage
from sampleprop.baselines.optimal_coefficient import OptimalCoefficient as OptimalCoefficient
from sampleprop.baselines.self_critical import SelfCritical as SelfCritical
from sampleprop.bibliography import Source as Source
from sampleprop.distributions.gumbel_max import gumbel_max as gumbel_max
from sampleprop.distributions.gumbel_max import gumbel_top_k as gumbel_top_k
from sampleprop.distributions.k_subset import KSubset as KSubset
from sampleprop.distributions.plackett_luce import PlackettLuce as PlackettLuce
from sampleprop.estimator import Estimator as Estimator
from sampleprop.estimators import *  # noqa: F403  every estimator of the register
from sampleprop.estimators import REGISTER as REGISTER
from sampleprop.estimators.multisample.bound import importance_weighted_bound as importance_weighted_bound
from sampleprop.expectation import expect as expect
from sampleprop.functional.aggregate import aggregate as aggregate
from sampleprop.functional.aggregate import count as count
from sampleprop.functional.generalized_advantage import generalized_advantage as generalized_advantage
from sampleprop.functional.importance_ratio import importance_ratio as importance_ratio
from sampleprop.functional.in_chunks import in_chunks as in_chunks
from sampleprop.functional.kl_surrogate import kl_surrogate as kl_surrogate
from sampleprop.functional.leave_one_out import leave_one_out as leave_one_out
from sampleprop.functional.mismatch import mismatch as mismatch
from sampleprop.functional.reward_to_go import reward_to_go as reward_to_go
from sampleprop.functional.score_function_loss import score_function_loss as score_function_loss
from sampleprop.functional.sequence_log_prob import sequence_log_prob as sequence_log_prob
from sampleprop.functional.shrinkage import shrinkage as shrinkage
from sampleprop.functional.token_log_prob import token_log_prob as token_log_prob
from sampleprop.functional.token_terms import token_terms as token_terms
from sampleprop.functional.whiten import whiten as whiten
from sampleprop.parallel import rank_generator as rank_generator
from sampleprop.programs.coupled_replay import CoupledReplay as CoupledReplay
from sampleprop.programs.program import program as program
from sampleprop.programs.site import charge as charge
from sampleprop.programs.site import checkpointed as checkpointed
from sampleprop.programs.site import sample as sample
from sampleprop.schedule import ExponentialTemperature as ExponentialTemperature

if TYPE_CHECKING:
    from sampleprop.certificates.certifying import certify as certify
    from sampleprop.diagnostics.auditing.audit import audit as audit
    from sampleprop.diagnostics.checking.check import check as check
    from sampleprop.diagnostics.comparing.compare import compare as compare
    from sampleprop.diagnostics.monitoring.monitor import Monitor as Monitor
    from sampleprop.diagnostics.recommending.recommend import recommend as recommend

__version__ = "0.1.0"

_DIAGNOSTICS = ("audit", "check", "compare", "recommend", "Monitor")


def __getattr__(name: str) -> Any:
    """Import the diagnostics and certificates where they are first asked for: a training script seldom does."""
    if name == "certify":
        return importlib.import_module("sampleprop.certificates").certify
    if name == "diagnostics" or name in _DIAGNOSTICS:
        module = importlib.import_module("sampleprop.diagnostics")
        return module if name == "diagnostics" else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "certify", "diagnostics", *_DIAGNOSTICS})
