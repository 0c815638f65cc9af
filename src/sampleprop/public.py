"""The public names that need torch. The package itself gets them here when one of them is first asked for."""

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
from sampleprop.estimator import Estimator as Estimator
from sampleprop.estimators import *  # noqa: F403  every estimator of the register
from sampleprop.estimators import REGISTER as REGISTER
from sampleprop.estimators.multisample.bound import importance_weighted_bound as importance_weighted_bound
from sampleprop.expectation import expect as expect
from sampleprop.functional.importance_ratio import importance_ratio as importance_ratio
from sampleprop.functional.leave_one_out import leave_one_out as leave_one_out
from sampleprop.functional.reward_to_go import reward_to_go as reward_to_go
from sampleprop.functional.score_function_loss import score_function_loss as score_function_loss
from sampleprop.functional.sequence_log_prob import sequence_log_prob as sequence_log_prob
from sampleprop.functional.token_log_prob import token_log_prob as token_log_prob
from sampleprop.kl import kl_surrogate as kl_surrogate
from sampleprop.parallel import rank_generator as rank_generator
from sampleprop.program import program as program
from sampleprop.schedule import ExponentialTemperature as ExponentialTemperature
