"""The same step over many processes."""

from .checkpoints import load_checkpoint as load_checkpoint
from .checkpoints import save_checkpoint as save_checkpoint
from .data_parallel import data_parallel as data_parallel
from .moments import clipped_mean_grads as clipped_mean_grads
from .moments import gradient_moments as gradient_moments
from .moments import merge_moments as merge_moments
from .moments import value_grad_and_noise as value_grad_and_noise
from .sharded import gather as gather
from .sharded import on_shards as on_shards
from .sharded import shard as shard
from .sweeps import sweep as sweep
