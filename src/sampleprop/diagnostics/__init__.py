"""Numbers about gradients: is an estimator right on this problem, and which one is best on it?

Both questions are answered on the user's own f and distribution, by replicates: the parameters of the distribution are
copied R times along the batch, so that one call gives R independent estimates. Their mean against the exact gradient
is the bias, their spread the variance.
"""

from sampleprop.diagnostics.check import check as check
from sampleprop.diagnostics.compare import compare as compare
from sampleprop.diagnostics.comparison import Comparison as Comparison
from sampleprop.diagnostics.findings import Check as Check
from sampleprop.diagnostics.findings import Finding as Finding
from sampleprop.diagnostics.monitor import Monitor as Monitor
from sampleprop.diagnostics.recommend import recommend as recommend
from sampleprop.diagnostics.recommendation import Recommendation as Recommendation
from sampleprop.diagnostics.row import Row as Row
from sampleprop.diagnostics.row import Skipped as Skipped
from sampleprop.diagnostics.trajectory import Checkpoint as Checkpoint
from sampleprop.diagnostics.trajectory import trajectory as trajectory
