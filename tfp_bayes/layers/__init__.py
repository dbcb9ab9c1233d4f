"""Stochastic layers, and layers that work with them.

At inference each call of a stochastic layer draws one function.
"""

from tfp_bayes.layers.attention import (
    MCMultiHeadAttention,
    MultiHeadAttentionFlipout,
    MultiHeadAttentionLocalReparameterization,
    MultiHeadAttentionReparameterization,
)
from tfp_bayes.layers.bayesian_linear import BayesianLinear
from tfp_bayes.layers.concrete_dropout import (
    MCConcreteDropout,
    MCConcreteSpatialDropout1D,
    MCConcreteSpatialDropout2D,
)
from tfp_bayes.layers.conv import (
    Conv1DFlipout,
    Conv1DLocalReparameterization,
    Conv1DReparameterization,
    Conv2DFlipout,
    Conv2DLocalReparameterization,
    Conv2DReparameterization,
    Conv2DTransposeFlipout,
    Conv2DTransposeReparameterization,
    Conv3DFlipout,
    Conv3DLocalReparameterization,
    Conv3DReparameterization,
    DepthwiseConv2DFlipout,
    DepthwiseConv2DReparameterization,
)
from tfp_bayes.layers.dense import (
    DenseFlipout,
    DenseLocalReparameterization,
    DenseReparameterization,
)
from tfp_bayes.layers.dropout import MCDropout
from tfp_bayes.layers.einsum_dense import (
    EinsumDenseFlipout,
    EinsumDenseLocalReparameterization,
    EinsumDenseReparameterization,
)
from tfp_bayes.layers.embedding import EmbeddingReparameterization, MCEmbedding
from tfp_bayes.layers.linear_posterior import Predictive
from tfp_bayes.layers.lora import LoRADense, LoRAEinsumDense, LoRAMultiHeadAttention
from tfp_bayes.layers.outputs import ClassProbabilities, NormalParameters
from tfp_bayes.layers.random_features import RandomFeatures
from tfp_bayes.layers.recurrent import MCGRU, MCLSTM, GRUReparameterization, LSTMReparameterization
from tfp_bayes.layers.spatial_dropout import (
    MCSpatialDropout1D,
    MCSpatialDropout2D,
    MCSpatialDropout3D,
)
from tfp_bayes.layers.spectral_norm import SpectralNormConstraint
from tfp_bayes.layers.stochastic import StochasticLayer, stochastic_layers
from tfp_bayes.layers.variational import VariationalLayer, variational_layers

# The names that `tfp.layers` uses.
Convolution1DReparameterization = Conv1DReparameterization
Convolution1DLocalReparameterization = Conv1DLocalReparameterization
Convolution1DFlipout = Conv1DFlipout
Convolution2DReparameterization = Conv2DReparameterization
Convolution2DLocalReparameterization = Conv2DLocalReparameterization
Convolution2DFlipout = Conv2DFlipout
Convolution3DReparameterization = Conv3DReparameterization
Convolution3DLocalReparameterization = Conv3DLocalReparameterization
Convolution3DFlipout = Conv3DFlipout

__all__ = [
    "MCGRU",
    "MCLSTM",
    "BayesianLinear",
    "ClassProbabilities",
    "Conv1DFlipout",
    "Conv1DLocalReparameterization",
    "Conv1DReparameterization",
    "Conv2DFlipout",
    "Conv2DLocalReparameterization",
    "Conv2DReparameterization",
    "Conv2DTransposeFlipout",
    "Conv2DTransposeReparameterization",
    "Conv3DFlipout",
    "Conv3DLocalReparameterization",
    "Conv3DReparameterization",
    "Convolution1DFlipout",
    "Convolution1DLocalReparameterization",
    "Convolution1DReparameterization",
    "Convolution2DFlipout",
    "Convolution2DLocalReparameterization",
    "Convolution2DReparameterization",
    "Convolution3DFlipout",
    "Convolution3DLocalReparameterization",
    "Convolution3DReparameterization",
    "DenseFlipout",
    "DenseLocalReparameterization",
    "DenseReparameterization",
    "DepthwiseConv2DFlipout",
    "DepthwiseConv2DReparameterization",
    "EinsumDenseFlipout",
    "EinsumDenseLocalReparameterization",
    "EinsumDenseReparameterization",
    "EmbeddingReparameterization",
    "GRUReparameterization",
    "LSTMReparameterization",
    "LoRADense",
    "LoRAEinsumDense",
    "LoRAMultiHeadAttention",
    "MCConcreteDropout",
    "MCConcreteSpatialDropout1D",
    "MCConcreteSpatialDropout2D",
    "MCDropout",
    "MCEmbedding",
    "MCMultiHeadAttention",
    "MCSpatialDropout1D",
    "MCSpatialDropout2D",
    "MCSpatialDropout3D",
    "MultiHeadAttentionFlipout",
    "MultiHeadAttentionLocalReparameterization",
    "MultiHeadAttentionReparameterization",
    "NormalParameters",
    "Predictive",
    "RandomFeatures",
    "SpectralNormConstraint",
    "StochasticLayer",
    "VariationalLayer",
    "stochastic_layers",
    "variational_layers",
]
