"""Sampling orders, batches and small data sets."""

from .batches import BatchSource as BatchSource
from .batches import batch_source as batch_source
from .batches import take as take
from .batches import train_test_split as train_test_split
from .datasets import Split as Split
from .datasets import breast_cancer as breast_cancer
from .datasets import diabetes as diabetes
from .datasets import digits as digits
from .datasets import linear_regression as linear_regression
from .files import FileDataset as FileDataset
from .files import from_files as from_files
from .order import epoch_indices as epoch_indices
from .order import poisson_indices as poisson_indices
from .permutation import permute_index as permute_index
from .samplers import BatchSampler as BatchSampler
from .samplers import Sampler as Sampler
