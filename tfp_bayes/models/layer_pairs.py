"""The one table of Keras layers and their Bayesian twins.

A new twin is one line: `SameWeights` where the twin has the constructor and the weights of its
Keras layer and adds noise, `RandomWeights` where the weights themselves have a posterior.
"""

import keras

from tfp_bayes import layers as bayes
from tfp_bayes.models.layer_pair import (
    LayerPair,
    Linear,
    RandomWeights,
    SameWeights,
    Separable,
    SpatialDropout1D,
)

_plain = keras.layers
_FLIPOUT, _LOCAL, _DRAW = "flipout", "local_reparameterization", "reparameterization"
_DEPTHWISE_FLIPOUT = RandomWeights(_plain.DepthwiseConv2D, bayes.DepthwiseConv2DFlipout, _FLIPOUT)
_DEPTHWISE_DRAW = RandomWeights(
    _plain.DepthwiseConv2D, bayes.DepthwiseConv2DReparameterization, _DRAW
)
_CONV_2D_FLIPOUT = RandomWeights(_plain.Conv2D, bayes.Conv2DFlipout, _FLIPOUT)
_CONV_2D_DRAW = RandomWeights(_plain.Conv2D, bayes.Conv2DReparameterization, _DRAW)

PAIRS: tuple[LayerPair, ...] = (
    SameWeights(_plain.Dropout, bayes.MCDropout, "mc_dropout"),
    SpatialDropout1D(_plain.SpatialDropout1D, bayes.MCSpatialDropout1D, "mc_dropout"),
    SameWeights(_plain.SpatialDropout2D, bayes.MCSpatialDropout2D, "mc_dropout"),
    SameWeights(_plain.SpatialDropout3D, bayes.MCSpatialDropout3D, "mc_dropout"),
    RandomWeights(_plain.Dense, bayes.DenseFlipout, _FLIPOUT),
    RandomWeights(_plain.Dense, bayes.DenseLocalReparameterization, _LOCAL),
    RandomWeights(_plain.Dense, bayes.DenseReparameterization, _DRAW),
    RandomWeights(_plain.Conv1D, bayes.Conv1DFlipout, _FLIPOUT),
    RandomWeights(_plain.Conv1D, bayes.Conv1DLocalReparameterization, _LOCAL),
    RandomWeights(_plain.Conv1D, bayes.Conv1DReparameterization, _DRAW),
    _CONV_2D_FLIPOUT,
    RandomWeights(_plain.Conv2D, bayes.Conv2DLocalReparameterization, _LOCAL),
    _CONV_2D_DRAW,
    RandomWeights(_plain.Conv3D, bayes.Conv3DFlipout, _FLIPOUT),
    RandomWeights(_plain.Conv3D, bayes.Conv3DLocalReparameterization, _LOCAL),
    RandomWeights(_plain.Conv3D, bayes.Conv3DReparameterization, _DRAW),
    RandomWeights(_plain.Conv2DTranspose, bayes.Conv2DTransposeFlipout, _FLIPOUT),
    RandomWeights(_plain.Conv2DTranspose, bayes.Conv2DTransposeReparameterization, _DRAW),
    _DEPTHWISE_FLIPOUT,
    _DEPTHWISE_DRAW,
    Separable(_DEPTHWISE_FLIPOUT, _CONV_2D_FLIPOUT),
    Separable(_DEPTHWISE_DRAW, _CONV_2D_DRAW),
    Linear(_plain.Dense, bayes.BayesianLinear),
)


def pair_of_keras(kind: type, inference: str) -> LayerPair | None:
    """Returns the pair of a Keras class for one inference, None where it has no twin."""
    fitting = (p for p in PAIRS if p.keras_class is kind and inference in p.inferences)
    return next(fitting, None)


def pair_of_bayesian(kind: type) -> LayerPair | None:
    """Returns the pair of a Bayesian class, None where it is not a twin."""
    return next((pair for pair in PAIRS if pair.bayesian_class is kind), None)
