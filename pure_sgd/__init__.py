"""Stochastic gradient descent as pure functions, for PyTorch."""

from importlib.metadata import PackageNotFoundError, version

from . import data as data
from . import losses as losses
from . import models as models
from . import plotting as plotting
from . import random as random
from . import tree as tree
from .data import epoch_indices as epoch_indices
from .errors import PureSGDError as PureSGDError
from .gradients import RiskEstimate as RiskEstimate
from .gradients import empirical_risk as empirical_risk
from .gradients import per_example_grads as per_example_grads
from .gradients import population_risk as population_risk
from .gradients import value_and_grad as value_and_grad
from .models import from_module as from_module
from .models import write_back as write_back
from .optimizers import adam as adam
from .optimizers import adamw as adamw
from .optimizers import sgd as sgd
from .schedules import Schedule as Schedule
from .schedules import constant_schedule as constant_schedule
from .schedules import cosine_decay_schedule as cosine_decay_schedule
from .schedules import exponential_decay as exponential_decay
from .schedules import inverse_time_decay_schedule as inverse_time_decay_schedule
from .schedules import join_schedules as join_schedules
from .schedules import linear_schedule as linear_schedule
from .schedules import piecewise_constant_schedule as piecewise_constant_schedule
from .schedules import polynomial_schedule as polynomial_schedule
from .schedules import step_schedule as step_schedule
from .schedules import warmup_constant_schedule as warmup_constant_schedule
from .schedules import warmup_cosine_decay_schedule as warmup_cosine_decay_schedule
from .schedules import warmup_exponential_decay_schedule as warmup_exponential_decay_schedule
from .training import FitResult as FitResult
from .training import TrainState as TrainState
from .training import compile_step as compile_step
from .training import early_stopping as early_stopping
from .training import fit as fit
from .training import init_train_state as init_train_state
from .training import make_step as make_step
from .training import replay_step as replay_step
from .transforms import EmptyState as EmptyState
from .transforms import GradientTransformation as GradientTransformation
from .transforms import Hyperparameter as Hyperparameter
from .transforms import ParamsEmaState as ParamsEmaState
from .transforms import ReduceOnPlateauState as ReduceOnPlateauState
from .transforms import ScaleByAdamState as ScaleByAdamState
from .transforms import ScaleByLearningRateState as ScaleByLearningRateState
from .transforms import ScaleByScheduleState as ScaleByScheduleState
from .transforms import ScheduledState as ScheduledState
from .transforms import TraceState as TraceState
from .transforms import add_decayed_weights as add_decayed_weights
from .transforms import apply_updates as apply_updates
from .transforms import chain as chain
from .transforms import clip_by_global_norm as clip_by_global_norm
from .transforms import eval_params as eval_params
from .transforms import identity as identity
from .transforms import learning_rate as learning_rate
from .transforms import named_chain as named_chain
from .transforms import params_ema as params_ema
from .transforms import reduce_on_plateau as reduce_on_plateau
from .transforms import scale as scale
from .transforms import scale_by_adam as scale_by_adam
from .transforms import scale_by_learning_rate as scale_by_learning_rate
from .transforms import scale_by_preconditioner as scale_by_preconditioner
from .transforms import scale_by_schedule as scale_by_schedule
from .transforms import stateless as stateless
from .transforms import stateless_with_tree_map as stateless_with_tree_map
from .transforms import trace as trace
from .transforms import transformation as transformation

try:
    __version__ = version("pure_sgd")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
