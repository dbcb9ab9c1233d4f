"""The table of Keras layers and their Bayesian twins.

A new twin needs one line here: `SameWeights` if the twin has the constructor and weights of its
Keras layer and only adds noise, `RandomWeights` if the weights themselves have a posterior, and
`LowRank` if a low-rank update of frozen weights has one.
"""

import keras

from tfp_bayes import layers as bayes
from tfp_bayes.models.layer_pair import (
    Bidirectional,
    InnerDropout,
    LayerPair,
    LearnedRate,
    Linear,
    RandomWeights,
    SameWeights,
    Separable,
    SpatialDropout1D,
)
from tfp_bayes.models.low_rank_pair import LowRank

_plain = keras.layers
_FLIPOUT, _LOCAL, _DRAW = "flipout", "local_reparameterization", "reparameterization"
_DEPTHWISE_FLIPOUT = RandomWeights(_plain.DepthwiseConv2D, bayes.DepthwiseConv2DFlipout, _FLIPOUT)
_DEPTHWISE_DRAW = RandomWeights(
    _plain.DepthwiseConv2D, bayes.DepthwiseConv2DReparameterization, _DRAW
)
_CONV_2D_FLIPOUT = RandomWeights(_plain.Conv2D, bayes.Conv2DFlipout, _FLIPOUT)
_CONV_2D_DRAW = RandomWeights(_plain.Conv2D, bayes.Conv2DReparameterization, _DRAW)

# Estimators differ in the variance of gradients, not in the posterior. A layer that has only one
# uses it for every requested estimator.
_ANY = (_FLIPOUT, _LOCAL, _DRAW)
_LSTM = RandomWeights(_plain.LSTM, bayes.LSTMReparameterization, *_ANY)
_GRU = RandomWeights(_plain.GRU, bayes.GRUReparameterization, *_ANY)
_MC_LSTM = InnerDropout(_plain.LSTM, bayes.MCLSTM, "mc_dropout")
_MC_GRU = InnerDropout(_plain.GRU, bayes.MCGRU, "mc_dropout")

PAIRS: tuple[LayerPair, ...] = (
    SameWeights(_plain.Dropout, bayes.MCDropout, "mc_dropout"),
    SpatialDropout1D(_plain.SpatialDropout1D, bayes.MCSpatialDropout1D, "mc_dropout"),
    SameWeights(_plain.SpatialDropout2D, bayes.MCSpatialDropout2D, "mc_dropout"),
    SameWeights(_plain.SpatialDropout3D, bayes.MCSpatialDropout3D, "mc_dropout"),
    LearnedRate(_plain.Dropout, bayes.MCConcreteDropout, "concrete_dropout"),
    LearnedRate(_plain.SpatialDropout1D, bayes.MCConcreteSpatialDropout1D, "concrete_dropout"),
    LearnedRate(_plain.SpatialDropout2D, bayes.MCConcreteSpatialDropout2D, "concrete_dropout"),
    SameWeights(_plain.Embedding, bayes.MCEmbedding),  # Keras' Embedding has no dropout rate
    _MC_LSTM,
    _MC_GRU,
    Bidirectional(_MC_LSTM),
    Bidirectional(_MC_GRU),
    RandomWeights(_plain.Embedding, bayes.EmbeddingReparameterization, *_ANY),
    _LSTM,
    _GRU,
    Bidirectional(_LSTM),
    Bidirectional(_GRU),
    RandomWeights(_plain.Dense, bayes.DenseFlipout, _FLIPOUT),
    RandomWeights(_plain.Dense, bayes.DenseLocalReparameterization, _LOCAL),
    RandomWeights(_plain.Dense, bayes.DenseReparameterization, _DRAW),
    InnerDropout(_plain.MultiHeadAttention, bayes.MCMultiHeadAttention, "mc_dropout"),
    RandomWeights(_plain.MultiHeadAttention, bayes.MultiHeadAttentionFlipout, _FLIPOUT),
    RandomWeights(
        _plain.MultiHeadAttention, bayes.MultiHeadAttentionLocalReparameterization, _LOCAL
    ),
    RandomWeights(_plain.MultiHeadAttention, bayes.MultiHeadAttentionReparameterization, _DRAW),
    RandomWeights(_plain.EinsumDense, bayes.EinsumDenseFlipout, _FLIPOUT),
    RandomWeights(_plain.EinsumDense, bayes.EinsumDenseLocalReparameterization, _LOCAL),
    RandomWeights(_plain.EinsumDense, bayes.EinsumDenseReparameterization, _DRAW),
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
    LowRank(_plain.Dense, bayes.LoRADense, "lora"),
    LowRank(_plain.EinsumDense, bayes.LoRAEinsumDense, "lora"),
    LowRank(_plain.MultiHeadAttention, bayes.LoRAMultiHeadAttention, "lora"),
    Linear(_plain.Dense, bayes.BayesianLinear),
)


def pair_of_keras(layer: keras.layers.Layer, inference: str) -> LayerPair | None:
    """Return the pair of a Keras layer for an inference, or None if it has no twin."""
    fitting = (p for p in PAIRS if inference in p.inferences and p.has_twin(layer))
    return next(fitting, None)


def pair_of_bayesian(layer: keras.layers.Layer) -> LayerPair | None:
    """Return the pair of a Bayesian layer, or None if it is not a twin."""
    return next((pair for pair in PAIRS if pair.is_twin(layer)), None)


def twin_class(kind: type, inference: str) -> type | None:
    """Return the Bayesian class of a Keras class for an inference, or None if it has none."""
    fitting = (p for p in PAIRS if p.keras_class is kind and inference in p.inferences)
    return next((pair.bayesian_class for pair in fitting), None)
