"""Named chains, one family a file; no arithmetic lives here."""

from .adam import adam as adam
from .adam import adamw as adamw
from .sgd import sgd as sgd
