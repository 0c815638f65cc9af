"""The autograd graph: what the costs can be followed back to, and which operations on the way have no derivative.

- `operations.py` lists torch's operations whose derivative is zero everywhere, or undefined. A sweep over all of
  torch's operations (`tests/graph/sweep.py`) finds them again.
- `walk.py` follows a graph to given nodes, however deep it is.
"""

from __future__ import annotations

from sampleprop.graph.walk import Found as Found
from sampleprop.graph.walk import clear as clear
from sampleprop.graph.walk import leaves as leaves
from sampleprop.graph.walk import look as look
from sampleprop.graph.walk import node_of as node_of
from sampleprop.graph.walk import search as search
