"""Random numbers as a pure function of a key, bit for bit those of JAX.

A key is an int64 tensor of shape (2,) that holds two 32-bit words. The same key always gives the
same numbers: use each key once, and make new ones with :func:`split` or :func:`fold_in`. All is
plain arithmetic on tensors, so eager, compiled and ``torch.func.vmap``-ed code draw the same, on
the device of the key.

The generator is Threefry 2x32 with 20 rounds, and the numbers are those of JAX 0.5 and later, whose
``jax_threefry_partitionable`` is on by default. Salmon, Moraes, Dror and Shaw 2011, Parallel random
numbers: as easy as 1, 2, 3, doi:10.1145/2063384.2063405.
"""

from .draws import bernoulli as bernoulli
from .draws import bits as bits
from .draws import normal as normal
from .draws import permutation as permutation
from .draws import uniform as uniform
from .keys import fold_in as fold_in
from .keys import key as key
from .keys import split as split
