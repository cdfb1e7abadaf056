"""What per-example gradients tell: noise, signal, and where they point."""

from .covariance import CovarianceSpectrum as CovarianceSpectrum
from .covariance import covariance_spectrum as covariance_spectrum
from .covariance import covariance_vector_product as covariance_vector_product
from .covariance import gradient_gram_matrix as gradient_gram_matrix
from .directions import TopExamples as TopExamples
from .directions import per_example_cosines as per_example_cosines
from .directions import per_example_slopes as per_example_slopes
from .directions import top_examples as top_examples
from .minibatch import minibatch_variance as minibatch_variance
from .scale import NoiseScale as NoiseScale
from .scale import critical_batch_size as critical_batch_size
from .scale import noise_scale as noise_scale
from .scale import noise_scale_from_batch_sizes as noise_scale_from_batch_sizes
from .signal import SignalToNoise as SignalToNoise
from .signal import empirical_fisher_diagonal as empirical_fisher_diagonal
from .signal import gradient_diversity as gradient_diversity
from .signal import gradient_signal_to_noise as gradient_signal_to_noise
from .tracking import GradientStatistics as GradientStatistics
from .tracking import GradientStatisticsState as GradientStatisticsState
from .tracking import gradient_statistics as gradient_statistics
