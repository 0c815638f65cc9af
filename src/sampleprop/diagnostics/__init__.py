"""Is an estimator right on this problem, which one is best, and how good are the gradients while a model trains?

The questions are answered on the user's own f and distribution, by replicates: the parameters of the distribution are
copied R times along the batch, so that one call gives R independent estimates. The difference of their mean from the
exact gradient is the bias, their spread is the variance.

- `measuring` is the bottom: replicates, the exact gradient, the statistics. It imports no other wing.
- `checking`, `comparing` and `monitoring` answer one question each, and import `measuring` only.
- `auditing` asks what somebody's advantage or loss for sequences is the gradient of, by enumeration; it imports no
  other wing.
- `recommending` imports `measuring`, `checking` and `comparing`.

Nothing here needs an estimator's source or worked example, so that an estimator of the user's own is measured as any
other.
"""

from sampleprop.diagnostics.auditing.audit import Audit as Audit
from sampleprop.diagnostics.auditing.audit import audit as audit
from sampleprop.diagnostics.auditing.batch import Batch as Batch
from sampleprop.diagnostics.auditing.worlds import TOOLS as TOOLS
from sampleprop.diagnostics.auditing.worlds import WORLDS as WORLDS
from sampleprop.diagnostics.auditing.worlds import World as World
from sampleprop.diagnostics.auditing.worlds import world as world
from sampleprop.diagnostics.checking.check import check as check
from sampleprop.diagnostics.checking.findings import Check as Check
from sampleprop.diagnostics.checking.findings import Finding as Finding
from sampleprop.diagnostics.comparing.compare import compare as compare
from sampleprop.diagnostics.comparing.comparison import Comparison as Comparison
from sampleprop.diagnostics.comparing.row import Row as Row
from sampleprop.diagnostics.comparing.row import Skipped as Skipped
from sampleprop.diagnostics.comparing.trajectory import Checkpoint as Checkpoint
from sampleprop.diagnostics.comparing.trajectory import trajectory as trajectory
from sampleprop.diagnostics.monitoring.monitor import Monitor as Monitor
from sampleprop.diagnostics.recommending.recommend import recommend as recommend
from sampleprop.diagnostics.recommending.recommendation import Recommendation as Recommendation
