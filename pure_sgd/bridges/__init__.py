"""Bridges to what people already use: ``torch.optim``, its state dicts, and loggers."""

from .loggers import csv_logger as csv_logger
from .loggers import json_lines_logger as json_lines_logger
from .loggers import tensorboard_logger as tensorboard_logger
from .torch_optimizer import to_torch_optimizer as to_torch_optimizer
from .torch_state import from_torch_state as from_torch_state
from .torch_state import to_torch_state as to_torch_state
