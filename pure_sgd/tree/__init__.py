"""Trees of tensors: a tensor, or a dict, list, tuple or NamedTuple of trees; ``None`` is an empty tree.

Here as everywhere, ``P`` stands for a leaf's own axes and ``B`` for a leading axis of examples.
"""

from .arithmetic import cast_like as cast_like
from .arithmetic import norm as norm
from .arithmetic import sum as sum
from .arithmetic import vdot as vdot
from .arithmetic import wide as wide
from .arithmetic import widened as widened
from .arithmetic import zeros_like as zeros_like
from .checks import batch_length as batch_length
from .checks import check_like as check_like
from .checks import check_real as check_real
from .checks import select as select
from .described import describe as describe
from .differences import check_tensors as check_tensors
from .together import elementwise as elementwise
from .traversal import flatten as flatten
from .traversal import leaves as leaves
from .traversal import map as map
from .traversal import named_leaves as named_leaves
from .traversal import structure as structure
from .traversal import walk as walk
