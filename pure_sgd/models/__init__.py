"""Pure models, each an ``init`` and an ``apply`` on one example; modules as pure functions."""

from .buffers import trainable as trainable
from .contract import Model as Model
from .convnet import convnet as convnet
from .linear import least_squares as least_squares
from .linear import linear as linear
from .linear import logistic as logistic
from .mlp import mlp as mlp
from .module import from_module as from_module
from .module import write_back as write_back
from .transformer import transformer as transformer
