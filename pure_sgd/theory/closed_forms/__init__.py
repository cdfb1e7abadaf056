"""What theory says by hand of SGD and its variants in one direction of a quadratic.

In a direction of curvature h the gradient is h * w + xi, where xi has mean 0 and variance c: the noise of one
example, divided by the batch size. One step is ``w = w - learning_rate * gradient`` unless a function says
otherwise. Arguments are numbers or tensors that broadcast, results float64 tensors of the common shape, and
all can be differentiated. Where a method is not stable its variance is infinite.
"""

from .averages import MeanEstimationRisk as MeanEstimationRisk
from .averages import ema_variance_factor as ema_variance_factor
from .averages import mean_estimation_risk as mean_estimation_risk
from .averages import polyak_variance as polyak_variance
from .conditioning import preconditioned_convergence_rate as preconditioned_convergence_rate
from .conditioning import preconditioned_variance_factor as preconditioned_variance_factor
from .conditioning import weight_decay_condition_number as weight_decay_condition_number
from .conditioning import weight_decay_optimum as weight_decay_optimum
from .descent import inverse_time_decay_variance as inverse_time_decay_variance
from .descent import noise_ball_radius as noise_ball_radius
from .descent import sgd_convergence_rate as sgd_convergence_rate
from .descent import sgd_variance as sgd_variance
from .momentum import momentum_convergence_rate as momentum_convergence_rate
from .momentum import momentum_variance_bound as momentum_variance_bound
from .momentum import momentum_variance_factor as momentum_variance_factor
from .momentum import overdamped_convergence_rate as overdamped_convergence_rate
