"""What the library knows of `torch.distributions`.

`recognize.py` looks at a distribution once and returns a `Variables` object (`variables.py`), which is all that an
estimator or a baseline may ask. `discrete.py` has the families that are known in full: Bernoulli variables, one-hot
vectors and integers. `structured.py` has the base class of structures, such as subsets and trees, and what they are to
an estimator; `enumerable.py` is what both share. `solutions.py` is the same for solutions of a solver. For every other
distribution, `laws.py` says whether its methods belong together, `samplers.py` draws samples with a generator,
`densities.py` and `rounding.py` are about log-probabilities, and `parameters.py` finds the parameters and rebuilds the
distribution with others. `reparameterized.py` is the base class of the distributions in `sampleprop.distributions`.

This room may import `noise`, `tracing`, `surrogate` and `graph`; it knows nothing of costs and estimators.
"""

from sampleprop.families.discrete import Bernoullis as Bernoullis
from sampleprop.families.discrete import Discrete as Discrete
from sampleprop.families.discrete import Integers as Integers
from sampleprop.families.discrete import OneHots as OneHots
from sampleprop.families.discrete import one_hot as one_hot
from sampleprop.families.enumerable import Enumerable as Enumerable
from sampleprop.families.laws import unwrap as unwrap
from sampleprop.families.parameters import with_parameters as with_parameters
from sampleprop.families.recognize import Normals as Normals
from sampleprop.families.recognize import Other as Other
from sampleprop.families.recognize import recognize as recognize
from sampleprop.families.solutions import Solutions as Solutions
from sampleprop.families.structured import LogLinears as LogLinears
from sampleprop.families.structured import Structures as Structures
from sampleprop.families.variables import Variables as Variables
