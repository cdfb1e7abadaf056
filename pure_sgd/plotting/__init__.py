"""Pictures of runs, schedules, sweeps, gradient noise and theory; the only folder that needs matplotlib.

Each function returns the axes that it drew into, of a new figure of pyplot unless ``ax`` gives some: one
``Axes``, or a list where there are several panels.
"""

from .history import plot_history as plot_history
from .noise import plot_gradient_norms as plot_gradient_norms
from .noise import plot_minibatch_variance as plot_minibatch_variance
from .noise import plot_noise as plot_noise
from .schedules import plot_schedule as plot_schedule
from .schedules import plot_schedules as plot_schedules
from .sweeps import plot_sweep as plot_sweep
from .theory import Measured as Measured
from .theory import plot_best_methods as plot_best_methods
from .theory import plot_predictions as plot_predictions
from .theory import plot_risk as plot_risk
from .theory import plot_steps_to_target as plot_steps_to_target
