"""What is random: layers that draw a function at every call."""

from tfp_bayes.layers.dropout import MCDropout
from tfp_bayes.layers.spatial_dropout import (
    MCSpatialDropout1D,
    MCSpatialDropout2D,
    MCSpatialDropout3D,
)
from tfp_bayes.layers.stochastic import StochasticLayer, stochastic_layers

__all__ = [
    "MCDropout",
    "MCSpatialDropout1D",
    "MCSpatialDropout2D",
    "MCSpatialDropout3D",
    "StochasticLayer",
    "stochastic_layers",
]
