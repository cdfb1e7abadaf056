"""Pictures of runs, schedules, sweeps, gradient noise and theory; the only folder that needs matplotlib."""

from .noise import plot_gradient_norms as plot_gradient_norms
from .noise import plot_minibatch_variance as plot_minibatch_variance
from .noise import plot_noise_scale as plot_noise_scale
from .runs import plot_history as plot_history
from .runs import plot_schedule as plot_schedule
from .runs import plot_schedules as plot_schedules
from .sweeps import plot_sweep as plot_sweep
from .theory import Measured as Measured
from .theory import plot_best_methods as plot_best_methods
from .theory import plot_predictions as plot_predictions
from .theory import plot_risk as plot_risk
from .theory import plot_steps_to_target as plot_steps_to_target
