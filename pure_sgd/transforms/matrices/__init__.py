"""Rules that treat a leaf as a matrix, or as a tensor with a basis of its own along every axis."""

from .axes import GaLoreDimensionNumbers as GaLoreDimensionNumbers
from .axes import MuonDimensionNumbers as MuonDimensionNumbers
from .axes import as_matrix as as_matrix
from .axes import matrix_axes as matrix_axes
from .axes import partition_matrices as partition_matrices
from .fibres import along as along
from .fibres import fibre_covariance as fibre_covariance
from .galore import ScaleByGaLoreState as ScaleByGaLoreState
from .galore import scale_by_galore as scale_by_galore
from .muon import ScaleByMuonState as ScaleByMuonState
from .muon import scale_by_muon as scale_by_muon
from .muon import scale_by_shape as scale_by_shape
from .orthogonal import newton_schulz as newton_schulz
from .orthogonal import polynomials as polynomials
from .roots import eigen as eigen
from .roots import inverse_root as inverse_root
from .shampoo import ScaleByShampooState as ScaleByShampooState
from .shampoo import scale_by_shampoo as scale_by_shampoo
from .soap import ScaleBySoapState as ScaleBySoapState
from .soap import scale_by_soap as scale_by_soap
