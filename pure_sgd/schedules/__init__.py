"""Schedules: pure functions from the step to a value, one kind a file."""

from .cyclic import cosine_annealing_warm_restarts_schedule as cosine_annealing_warm_restarts_schedule
from .cyclic import cyclic_schedule as cyclic_schedule
from .cyclic import sgdr_schedule as sgdr_schedule
from .decay import constant_schedule as constant_schedule
from .decay import cosine_decay_schedule as cosine_decay_schedule
from .decay import exponential_decay as exponential_decay
from .decay import inverse_time_decay_schedule as inverse_time_decay_schedule
from .decay import linear_schedule as linear_schedule
from .decay import multiplicative_schedule as multiplicative_schedule
from .decay import polynomial_schedule as polynomial_schedule
from .decay import step_schedule as step_schedule
from .interpolation import cosine_onecycle_schedule as cosine_onecycle_schedule
from .interpolation import linear_onecycle_schedule as linear_onecycle_schedule
from .interpolation import one_cycle_schedule as one_cycle_schedule
from .interpolation import piecewise_interpolate_schedule as piecewise_interpolate_schedule
from .joining import inverse_sqrt_schedule as inverse_sqrt_schedule
from .joining import join_schedules as join_schedules
from .joining import piecewise_constant_schedule as piecewise_constant_schedule
from .joining import warmup_constant_schedule as warmup_constant_schedule
from .joining import warmup_cosine_decay_schedule as warmup_cosine_decay_schedule
from .joining import warmup_exponential_decay_schedule as warmup_exponential_decay_schedule
from .joining import wsd_schedule as wsd_schedule
from .schedule import Schedule as Schedule
from .schedule import as_real as as_real
from .schedule import value_at as value_at
