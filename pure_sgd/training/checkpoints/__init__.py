"""Any tree on disk: each checkpoint whole or not there, and given back bit for bit."""

from .background import AsyncCheckpoints as AsyncCheckpoints
from .contents import CorruptCheckpointError as CorruptCheckpointError
from .directory import checkpoint_steps as checkpoint_steps
from .loading import checkpoint_metadata as checkpoint_metadata
from .loading import load_checkpoint as load_checkpoint
from .saving import save_checkpoint as save_checkpoint
