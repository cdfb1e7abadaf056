"""Searching along a direction, and finding a good one: line searches and L-BFGS."""

from .backtracking import BacktrackingLinesearchInfo as BacktrackingLinesearchInfo
from .backtracking import ScaleByBacktrackingLinesearchState as ScaleByBacktrackingLinesearchState
from .backtracking import scale_by_backtracking_linesearch as scale_by_backtracking_linesearch
from .lbfgs import ScaleByLbfgsState as ScaleByLbfgsState
from .lbfgs import scale_by_lbfgs as scale_by_lbfgs
from .stored import value_and_grad_from_state as value_and_grad_from_state
from .zoom import ScaleByZoomLinesearchState as ScaleByZoomLinesearchState
from .zoom import ZoomLinesearchInfo as ZoomLinesearchInfo
from .zoom import scale_by_zoom_linesearch as scale_by_zoom_linesearch
