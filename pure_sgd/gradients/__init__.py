"""Empirical risk, and the gradients of a batch and of its examples."""

from .per_example import per_example_grads as per_example_grads
from .risk import RiskEstimate as RiskEstimate
from .risk import empirical_risk as empirical_risk
from .risk import population_risk as population_risk
from .value_and_grad import value_and_grad as value_and_grad
