"""Rules that find their own learning rate, one family a file."""

from .adam_distances import ScaleByDadaptAdamState as ScaleByDadaptAdamState
from .adam_distances import ScaleByProdigyState as ScaleByProdigyState
from .adam_distances import scale_by_dadapt_adam as scale_by_dadapt_adam
from .adam_distances import scale_by_prodigy as scale_by_prodigy
from .coin_betting import ScaleByCocobState as ScaleByCocobState
from .coin_betting import scale_by_cocob as scale_by_cocob
from .distances import ScaleByDistanceOverGradientsState as ScaleByDistanceOverGradientsState
from .distances import ScaleByDogState as ScaleByDogState
from .distances import ScaleByDowgState as ScaleByDowgState
from .distances import scale_by_distance_over_gradients as scale_by_distance_over_gradients
from .distances import scale_by_dog as scale_by_dog
from .distances import scale_by_dowg as scale_by_dowg
from .mechanic import MechanizeState as MechanizeState
from .mechanic import mechanize as mechanize
from .momentum_models import ScaleByMomoAdamState as ScaleByMomoAdamState
from .momentum_models import ScaleByMomoState as ScaleByMomoState
from .momentum_models import scale_by_momo as scale_by_momo
from .momentum_models import scale_by_momo_adam as scale_by_momo_adam
