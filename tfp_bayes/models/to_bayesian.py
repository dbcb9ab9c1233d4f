"""Turns any Keras model into a Bayesian one."""

from collections.abc import Sequence

import keras
import numpy as np

from tfp_bayes import layers as stochastic
from tfp_bayes import posteriors, priors
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes.layers.variational import check_honoured
from tfp_bayes.models.bayesian_model import BayesianModel
from tfp_bayes.models.conversion import WITH_KERNEL, check_graph, convert, count_types, leaves
from tfp_bayes.models.layer_factory import check_inference, is_variational, variational_class

_DROPOUT = {
    keras.layers.Dropout: stochastic.MCDropout,
    keras.layers.SpatialDropout1D: stochastic.MCSpatialDropout1D,
    keras.layers.SpatialDropout2D: stochastic.MCSpatialDropout2D,
    keras.layers.SpatialDropout3D: stochastic.MCSpatialDropout3D,
}
# A MOPED scale is a fraction of its weight; a weight of zero must not get a scale of zero, whose
# KL is infinite.
SMALLEST_SCALE = 1e-6


def to_bayesian(
    model: keras.Model,
    inference: str = "flipout",
    *,
    prior: str | dict | priors.Prior | None = "normal",
    layers: Sequence[str] | None = None,
    moped_delta: float | None = None,
    last_layer_only: bool = False,
    likelihood: str = "categorical",
    num_samples: int = 100,
    verbose: bool = True,
) -> BayesianModel:
    """Returns a Bayesian copy of a functional or Sequential model, with its weights as means.

    Dense, Conv1D, Conv2D, Conv3D, DepthwiseConv2D, SeparableConv2D and Conv2DTranspose layers
    get random kernels, or, with "mc_dropout", dropout layers stay on at inference. Everything
    else, batch normalization among it, is copied. Shared layers, skips and nested models stay.

    Args:
        model: A built model whose outputs are probabilities; it is not changed.
        inference: "flipout", "local_reparameterization", "reparameterization" or "mc_dropout".
            Depthwise convolutions have no local reparameterization and are left there.
        prior: On kernels, see `tfp_bayes.priors`. For "mc_dropout" a `priors.Normal` around 0, or
            None for a flat prior.
        layers: Names of the layers to convert; None is all that can be.
        moped_delta: If given, the standard deviation of each weight is this fraction of its
            size, instead of the posterior's own start.
        last_layer_only: Whether to convert the last of these layers only.
        likelihood: What the outputs mean, see `Predictor`.
        num_samples: S of `predict` and `evaluate`.
        verbose: Whether to print what was converted and what was left.

    Returns:
        A `BayesianModel`, not compiled.

    Raises:
        ValueError: If the model has no graph, nothing in it can be converted, a name in `layers`
            is not there or cannot be converted, or a layer has a regularizer or constraint.

    Reference:
        Krishnan, Subedar and Tickoo 2020, "Specifying Weight Priors in Bayesian Deep Neural
        Networks with Empirical Bayes", equation 5, arXiv:1906.05323 (MOPED).

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3, "softmax")])
    >>> bayesian = to_bayesian(model, moped_delta=0.1)
    Converted to flipout: Dense 2. Left, with their weights: nothing.
    >>> bayesian.predict_uncertainty(np.ones((2, 4)), seed=0).mutual_information.shape
    (2,)
    """
    check_graph(model)
    check_inference(inference)
    if inference == "deterministic":
        raise ValueError(
            "Expected a Bayesian `inference`. Received: inference='deterministic'. "
            "Hint: the inverse of this function is tfp_bayes.to_deterministic(model)."
        )
    if moped_delta is not None:
        check_positive(moped_delta=moped_delta)
    prior_object = priors.get(prior)
    every = leaves(model)
    able = [layer for layer in every if _can_convert(layer, inference)]
    chosen = _choose(able, every, layers, last_layer_only, inference)

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer | None:
        return _twin(layer, inference, prior_object) if layer in chosen else None

    def set_weights(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
        parts = new.layers if isinstance(new, keras.Sequential) else [new]
        values = old.get_weights()
        for part in parts:
            if isinstance(part, stochastic.VariationalLayer):
                part.kernel_loc.assign(values.pop(0))
                if moped_delta is not None:
                    scale = np.maximum(moped_delta * np.abs(part.kernel_loc), SMALLEST_SCALE)
                    part.kernel_untransformed_scale.assign(np.log(np.expm1(scale)))
                if part.use_bias:
                    part.bias_loc.assign(values.pop(0))

    copy = convert(model, replace, set_weights)
    result = BayesianModel(
        copy.input,
        copy.output,
        name=model.name,
        likelihood=likelihood,
        prior_scale=_scale(prior_object) if inference == "mc_dropout" else None,
        num_samples=num_samples,
    )
    if verbose:
        left = [layer for layer in every if layer not in chosen and layer.weights]
        print(
            f"Converted to {inference}: {count_types(chosen)}. "
            f"Left, with their weights: {count_types(left) or 'nothing'}."
        )
    return result


def _can_convert(layer: keras.layers.Layer, inference: str) -> bool:
    kind = type(layer)
    if not is_variational(inference):
        return kind in _DROPOUT
    if kind is keras.layers.SeparableConv2D:
        return variational_class("DepthwiseConv2D", inference) is not None
    return kind in WITH_KERNEL and variational_class(WITH_KERNEL[kind], inference) is not None


def _choose(able: list, every: list, names: Sequence[str] | None, last: bool, inference: str):
    """Returns the layers to convert, or says why there are none."""
    if names is not None:
        found = {layer.name: layer for layer in every}
        for name in names:
            if found.get(name) not in able:
                kind = type(found[name]).__name__ if name in found else "no such layer"
                raise ValueError(
                    f"Expected names of layers that {inference!r} can convert for `layers`. "
                    f"Received: {name!r}, {kind}. Hint: {[layer.name for layer in able]} can be."
                )
        able = [found[name] for name in names]
    if not able:
        what = "Dropout" if inference == "mc_dropout" else "Dense or convolution"
        raise ValueError(
            f"Expected a `model` with {what} layers for inference={inference!r}. "
            f"Received: {count_types(every)}. Hint: another inference, or add such layers."
        )
    return able[-1:] if last else able


def _twin(
    layer: keras.layers.Layer, inference: str, prior: priors.Prior | None
) -> keras.layers.Layer:
    """Makes the layer in the place of another, not built yet."""
    config = layer.get_config()
    if type(layer) in _DROPOUT:
        return _DROPOUT[type(layer)].from_config(config)
    if type(layer) is keras.layers.SeparableConv2D:
        return _separable_twin(layer, inference, prior)
    twin = variational_class(WITH_KERNEL[type(layer)], inference)
    return _variational(twin, config, prior)


def _variational(twin: type, config: dict, prior: priors.Prior | None) -> keras.layers.Layer:
    # A prior of None is flat, under which only a point estimate makes sense.
    posterior = posteriors.Deterministic() if prior is None else posteriors.MeanFieldNormal()
    check_honoured(f"layer {config['name']!r}", config)
    config = {name: value for name, value in config.items() if value is not None}
    return twin.from_config({**config, "kernel_prior": prior, "kernel_posterior": posterior})


def _separable_twin(
    layer: keras.layers.SeparableConv2D, inference: str, prior: priors.Prior | None
) -> keras.Sequential:
    """A separable convolution is a depthwise and a 1x1 one, each with a kernel of its own."""
    config = layer.get_config()
    shared = {name: config[name] for name in ("data_format", "trainable", "dtype")}
    depthwise = {
        **shared,
        "name": f"{layer.name}_depthwise",
        "use_bias": False,
        **{
            name: config[name]
            for name in (
                "kernel_size",
                "strides",
                "padding",
                "dilation_rate",
                "depth_multiplier",
                "depthwise_initializer",
                "depthwise_regularizer",
                "depthwise_constraint",
            )
        },
    }
    pointwise = {
        **shared,
        "name": f"{layer.name}_pointwise",
        "kernel_size": 1,
        "kernel_initializer": config["pointwise_initializer"],
        "kernel_regularizer": config["pointwise_regularizer"],
        "kernel_constraint": config["pointwise_constraint"],
        **{
            name: config[name]
            for name in (
                "filters",
                "activation",
                "use_bias",
                "bias_initializer",
                "bias_regularizer",
                "bias_constraint",
            )
        },
    }
    return keras.Sequential(
        [
            _variational(variational_class("DepthwiseConv2D", inference), depthwise, prior),
            _variational(variational_class("Conv2D", inference), pointwise, prior),
        ],
        name=layer.name,
    )


def _scale(prior: priors.Prior | None) -> float | None:
    """Returns the `prior_scale` of dropout."""
    if prior is not None and (not isinstance(prior, priors.Normal) or prior.loc != 0):
        raise ValueError(
            "Expected priors.Normal around 0, or None, for `prior` with inference='mc_dropout'. "
            f"Received: prior={prior!r}. Hint: other priors need random kernels, as 'flipout' has."
        )
    return None if prior is None else prior.scale
