"""State, step, compilation and the loop."""

from .compiled import compile_step as compile_step
from .compiled import compile_when_it_pays as compile_when_it_pays
from .loop import FitResult as FitResult
from .loop import fit as fit
from .replayed import replay_step as replay_step
from .scanned import scan as scan
from .scanned import scan_indices as scan_indices
from .state import TrainState as TrainState
from .state import init_train_state as init_train_state
from .step import make_step as make_step
from .stopping import early_stopping as early_stopping
from .swept import SweepResult as SweepResult
from .swept import sweep as sweep
from .unrolled import unroll as unroll
