"""Projections: the nearest tree in a set, Euclidean, over all leaves together.

Functions of a tree and nothing else; they come before the transforms, of which ``project`` makes one of them.
"""

from .balls import projection_l1_ball as projection_l1_ball
from .balls import projection_l1_sphere as projection_l1_sphere
from .balls import projection_l2_ball as projection_l2_ball
from .balls import projection_l2_sphere as projection_l2_sphere
from .balls import projection_simplex as projection_simplex
from .box import projection_box as projection_box
from .box import projection_hypercube as projection_hypercube
from .box import projection_linf_ball as projection_linf_ball
from .box import projection_non_negative as projection_non_negative
from .planes import projection_halfspace as projection_halfspace
from .planes import projection_hyperplane as projection_hyperplane
from .planes import projection_vector as projection_vector
