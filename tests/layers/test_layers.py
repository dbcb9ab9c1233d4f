"""Run the checks of the harness on every public stochastic layer."""

import dataclasses
import functools
import inspect

import harness
import keras
import numpy as np
import pytest

from tfp_bayes import layers, posteriors


@dataclasses.dataclass(frozen=True)
class Case:
    layer: type
    arguments: dict
    input_shape: tuple
    output_shape: tuple
    bad_arguments: list
    num_words: int | None = None  # vocabulary size if inputs are words, None for real numbers
    num_inputs: int = 1
    prior_scale: float | None = None  # of a BayesianModel, if the layer needs one

    @property
    def make(self):
        return functools.partial(self.layer, **self.arguments)


BAD_RATES = [
    ({"rate": 1.0}, r"\[0, 1\).*Received: rate=1.0"),
    ({"rate": -0.1}, "Received: rate=-0.1"),
    ({"rate": float("nan")}, "Received: rate=nan"),
    ({"rate": "half"}, "Received: rate='half'"),
    ({"rate": True}, "Received: rate=True"),
]
BAD_SPATIAL = [*BAD_RATES, ({"rate": 0.5, "data_format": "NHWC"}, "data_format='NHWC'")]


def spatial(layer, shape):
    return Case(layer, {"rate": 0.4}, shape, shape, BAD_SPATIAL)


def concrete(layer, shape):
    bad = [({"initial_rate": 0.0}, r"Received: initial_rate=0\.0"), ({"temperature": 0}, "=0")]
    for arguments, message in BAD_SPATIAL if layer.spatial_rank else BAD_RATES:
        arguments = {k.replace("rate", "initial_rate"): v for k, v in arguments.items()}
        bad.append((arguments, message.replace(r"\[0, 1\)", "").replace("rate=", "initial_rate=")))
    return Case(layer, {"initial_rate": 0.4}, shape, shape, bad, prior_scale=1.0)


# Arguments that every variational layer refuses. `variational` adds those of some layers.
BAD_WEIGHTS = [
    ({"kernel_constraint": "non_neg"}, "draws of the weights would break it"),
    ({"kernel_prior": "gauss"}, "Received: kernel_prior='gauss'"),
    ({"kernel_prior": None}, "Expected a `kernel_prior`"),
    ({"kernel_posterior": "normal"}, "Received: kernel_posterior='normal'"),
    ({"bias_posterior": "mean_field_normal"}, "Expected a `bias_prior`"),
]
BAD_FACTORIZED = [({"kernel_posterior": "low_rank_normal"}, "Expected independent normals")]


def variational(layer, arguments, input_shape, output_shape, initializer="kernel_initializer"):
    arguments = {
        **arguments,
        initializer: keras.initializers.GlorotUniform(0),
        # Wide enough to show noise in half precision.
        "kernel_posterior": posteriors.MeanFieldNormal(initial_scale=0.1),
    }
    bad = BAD_WEIGHTS + (BAD_FACTORIZED if layer.needs_factorized else [])
    kind = initializer.split("_")[0]
    bad = [({k.replace("kernel_c", f"{kind}_c"): v for k, v in a.items()}, m) for a, m in bad]
    bad.append(({f"{kind}_regularizer": "l2"}, "a penalty on weights is their prior"))
    bad = [({**arguments, **changed}, message) for changed, message in bad]
    return Case(layer, arguments, input_shape, output_shape, bad)


CONV_2D = {"filters": 4, "kernel_size": 3}
VARIATIONAL = {
    name: variational(layer, arguments, *shapes)
    for keras_name, arguments, *shapes in (
        ("Dense", {"units": 4}, (5,), (4,)),
        (
            "EinsumDense",
            {"equation": "abc,cde->abde", "output_shape": (3, 2, 4), "bias_axes": "de"},
            *((3, 5), (3, 2, 4)),
        ),
        ("Conv1D", {"filters": 4, "kernel_size": 3}, (6, 2), (4, 4)),
        ("Conv2D", CONV_2D, (5, 5, 2), (3, 3, 4)),
        ("Conv3D", {"filters": 2, "kernel_size": 2}, (3, 3, 3, 2), (2, 2, 2, 2)),
        ("DepthwiseConv2D", {"kernel_size": 3}, (5, 5, 2), (3, 3, 2), "depthwise_initializer"),
        ("Conv2DTranspose", {"filters": 2, "kernel_size": 2, "strides": 2}, (2, 2, 3), (4, 4, 2)),
    )
    for estimator in ("Reparameterization", "LocalReparameterization", "Flipout")
    if (layer := getattr(layers, name := keras_name + estimator, None))
}
VARIATIONAL |= {
    "DenseFlipout, sequence": variational(layers.DenseFlipout, {"units": 4}, (3, 5), (3, 4)),
    "Conv1DFlipout, causal": variational(
        layers.Conv1DFlipout, {"filters": 4, "kernel_size": 3, "padding": "causal"}, (6, 2), (6, 4)
    ),
    "Conv2DFlipout, groups": variational(
        layers.Conv2DFlipout, {**CONV_2D, "groups": 2, "dilation_rate": 2}, (6, 6, 4), (2, 2, 4)
    ),
}

BAD_LINEAR = [
    ({"units": 0}, "Received: units=0"),
    ({"prior_scale": -1.0}, r"Received: prior_scale=-1\.0"),
    ({"noise_scale": float("nan")}, "Received: noise_scale=nan"),
    ({"posterior": "laplace"}, "Received: posterior='laplace'"),
    ({"output_covariance": "wishart"}, "Received: output_covariance='wishart'"),
    ({"output_covariance": [[1, 2], [2, 1]]}, "symmetric positive definite"),
    ({"output_covariance": "inverse_wishart", "per_output": True}, "for independent outputs"),
    ({"output_covariance": [[1]], "posterior": "mean_field"}, "for independent outputs"),
]


def linear(**arguments):
    arguments = {"units": 4, **arguments}
    bad = [({"units": 2, **changed}, message) for changed, message in BAD_LINEAR]
    return Case(layers.BayesianLinear, arguments, (5,), (4,), bad)


SEEDED = {
    "kernel_initializer": keras.initializers.GlorotUniform(0),
    "recurrent_initializer": keras.initializers.Orthogonal(seed=0),
}
BAD_RECURRENT = [
    ({"units": 2, "dropout": 1.0}, r"\[0, 1\) for `dropout`.*Received: dropout=1.0"),
    ({"units": 2, "recurrent_dropout": -0.1}, "Received: recurrent_dropout=-0.1"),
    ({"units": 2, "dropout": 0.1, "stateful": True, "name": "lstm"}, "stateful=False for 'lstm'"),
]


def recurrent(layer, **arguments):
    arguments = {"units": 20, **SEEDED, **arguments}
    return Case(layer, arguments, (4, 3), (20,), BAD_RECURRENT)


WIDE = posteriors.MeanFieldNormal(initial_scale=0.1)
RANDOM_EMBEDDING = {
    "input_dim": 30,
    "output_dim": 5,
    "embeddings_initializer": keras.initializers.RandomUniform(seed=0),
    "embeddings_posterior": WIDE,
}
BAD_RANDOM_RECURRENT = [
    BAD_RECURRENT[-1],
    ({"units": 2, "recurrent_regularizer": "l2"}, "a penalty on weights is their prior"),
    ({"units": 2, "recurrent_constraint": "non_neg"}, "draws of the weights would break it"),
    ({"units": 2, "recurrent_kernel_prior": None}, "Expected a `recurrent_kernel_prior`"),
]


def random_recurrent(layer):
    posterior = {"kernel_posterior": WIDE, "recurrent_kernel_posterior": WIDE}
    return dataclasses.replace(recurrent(layer, **posterior), bad_arguments=BAD_RANDOM_RECURRENT)


ATTENTION = {
    "num_heads": 2,
    "key_dim": 4,
    "kernel_initializer": keras.initializers.GlorotUniform(0),
}


def attention(layer, bad, **arguments):
    bad = [({"num_heads": 2, "key_dim": 4, **changed}, message) for changed, message in bad]
    return Case(layer, {**ATTENTION, **arguments}, (3, 8), (3, 8), bad, num_inputs=2)


BAD_LORA = [
    ({"rank": 0}, "Received: rank=0"),
    ({"rank": True}, "Received: rank=True"),
    ({"alpha": 0}, "Received: alpha=0"),
    ({"a_prior": "gauss"}, "Received: a_prior='gauss'"),
    ({"a_prior": None, "a_posterior": "mean_field_normal"}, "Expected an `a_prior` together with"),
    ({"a_posterior": "low_rank_normal"}, "Expected independent normals"),
    ({"kernel_constraint": "non_neg"}, "the kernel and its update would break it"),
    ({"lora_rank": 2}, "a kernel has one update"),
]


def lora(layer, arguments, input_shape, output_shape, num_inputs=1):
    bad = [({**arguments, **changed}, message) for changed, message in BAD_LORA]
    if num_inputs > 1:
        bad = bad[:-1]  # attention in Keras has no argument `lora_rank`
    arguments = {
        **arguments,
        "rank": 2,
        "kernel_initializer": keras.initializers.GlorotUniform(0),
        "a_initializer": keras.initializers.HeUniform(1),
        "b_initializer": keras.initializers.GlorotUniform(2),  # with zeros there would be no noise
        "a_posterior": WIDE,
    }
    return Case(layer, arguments, input_shape, output_shape, bad, num_inputs=num_inputs)


MC_EMBEDDING = {"input_dim": 30, "output_dim": 5, "rate": 0.4}

CASES = {
    **VARIATIONAL,
    "BayesianLinear": linear(),
    "BayesianLinear, mean field": linear(posterior="mean_field", per_output=True),
    "BayesianLinear, inverse Wishart": linear(output_covariance="inverse_wishart"),
    "MCDropout": Case(layers.MCDropout, {"rate": 0.4}, (20,), (20,), BAD_RATES),
    "MCDropout, image": Case(layers.MCDropout, {"rate": 0.4}, (3, 3, 4), (3, 3, 4), BAD_RATES),
    "MCDropout, noise_shape": Case(
        layers.MCDropout, {"rate": 0.4, "noise_shape": (None, 1, 20)}, (3, 20), (3, 20), BAD_RATES
    ),
    "MCConcreteDropout": concrete(layers.MCConcreteDropout, (20,)),
    "MCConcreteSpatialDropout1D": concrete(layers.MCConcreteSpatialDropout1D, (3, 20)),
    "MCConcreteSpatialDropout2D": concrete(layers.MCConcreteSpatialDropout2D, (3, 3, 20)),
    "MCMultiHeadAttention": attention(
        layers.MCMultiHeadAttention, [({"dropout": 1.0}, "Received: dropout=1.0")], dropout=0.4
    ),
    **{
        layer.__name__: attention(
            layer,
            BAD_WEIGHTS
            + [({"kernel_regularizer": "l2"}, "a penalty on weights is their prior")]
            + (BAD_FACTORIZED if layer.projection.needs_factorized else []),
            kernel_posterior=WIDE,
        )
        for layer in (
            layers.MultiHeadAttentionFlipout,
            layers.MultiHeadAttentionLocalReparameterization,
            layers.MultiHeadAttentionReparameterization,
        )
    },
    "MCEmbedding": Case(
        layers.MCEmbedding,
        {**MC_EMBEDDING, "embeddings_initializer": keras.initializers.RandomUniform(seed=0)},
        (20,),
        (20, 5),
        [({**MC_EMBEDDING, **changed}, message) for changed, message in BAD_RATES],
        num_words=30,
    ),
    "EmbeddingReparameterization": Case(
        layers.EmbeddingReparameterization,
        RANDOM_EMBEDDING,
        (4,),
        (4, 5),
        [
            ({**RANDOM_EMBEDDING, "embeddings_regularizer": "l2"}, "is their prior"),
            ({**RANDOM_EMBEDDING, "embeddings_prior": None}, "Expected a `embeddings_prior`"),
            ({**RANDOM_EMBEDDING, "weights": np.ones((30, 5))}, "Constant.table"),
        ],
        num_words=30,
    ),
    "LoRADense": lora(layers.LoRADense, {"units": 4}, (5,), (4,)),
    "LoRADense, sequence": lora(layers.LoRADense, {"units": 4}, (3, 5), (3, 4)),
    "LoRAEinsumDense, which attention projects with": lora(
        layers.LoRAEinsumDense,
        {"equation": "abc,cde->abde", "output_shape": (3, 2, 4), "bias_axes": "de"},
        *((3, 5), (3, 2, 4)),
    ),
    "LoRAMultiHeadAttention": lora(
        layers.LoRAMultiHeadAttention, {"num_heads": 2, "key_dim": 4}, (3, 8), (3, 8), num_inputs=2
    ),
    "LSTMReparameterization": random_recurrent(layers.LSTMReparameterization),
    "GRUReparameterization": random_recurrent(layers.GRUReparameterization),
    "MCLSTM": recurrent(layers.MCLSTM, dropout=0.4, recurrent_dropout=0.2),
    "MCGRU": recurrent(layers.MCGRU, dropout=0.4, recurrent_dropout=0.2),
    "MCSpatialDropout1D": spatial(layers.MCSpatialDropout1D, (3, 20)),
    "MCSpatialDropout2D": spatial(layers.MCSpatialDropout2D, (3, 3, 20)),
    "MCSpatialDropout3D": spatial(layers.MCSpatialDropout3D, (2, 2, 2, 20)),
}


def test_every_layer_has_a_case():
    public = {each for name in layers.__all__ if inspect.isclass(each := getattr(layers, name))} - {
        layers.StochasticLayer,
        layers.VariationalLayer,
        layers.Predictive,
        # Not random. See tests/test_regression.py and tests/networks/test_basis_regression.py.
        layers.NormalParameters,
        layers.ClassProbabilities,
        # See tests/layers/test_random_features.py and tests/layers/test_spectral_norm.py.
        layers.RandomFeatures,
        layers.SpectralNormConstraint,
    }
    assert public == {case.layer for case in CASES.values()}


@pytest.mark.parametrize("check", harness.CHECKS)
@pytest.mark.parametrize("case", CASES)
def test_layer(case, check):
    harness.CHECKS[check](CASES[case])


# Modules whose layers are tested in one model, in one setting of each layer.
GROUPS = {
    "weights": ("dense", "einsum_dense", "conv", "bayesian_linear", "lora"),
    "dropout": ("dropout", "spatial_dropout", "concrete_dropout", "embedding"),
    "sequences": ("attention", "recurrent"),
}


def cases_of(group):
    modules = {f"tfp_bayes.layers.{module}" for module in GROUPS[group]}
    return {
        name: case
        for name, case in CASES.items()
        if case.layer.__module__ in modules and "," not in name
    }


def test_every_module_is_in_a_group():
    grouped = [name for group in GROUPS for name in cases_of(group)]
    assert sorted(grouped) == sorted(name for name in CASES if "," not in name)


@pytest.mark.parametrize("check", harness.CHECKS_OF_MODELS)
@pytest.mark.parametrize("group", GROUPS)
def test_model_with_several_layers(group, check, tmp_path):
    harness.CHECKS_OF_MODELS[check](cases_of(group), tmp_path)
