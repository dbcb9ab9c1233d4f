"""Turns a Bayesian model back into an ordinary Keras one."""

import keras

from tfp_bayes import layers
from tfp_bayes.models.conversion import WITH_KERNEL, convert, leaves
from tfp_bayes.models.layer_factory import INFERENCES, is_variational, variational_class

_KERAS = {
    variational_class(name, inference): kind
    for kind, name in WITH_KERNEL.items()
    for inference in INFERENCES
    if is_variational(inference)
}
_KERAS |= {
    layers.MCDropout: keras.layers.Dropout,
    layers.MCSpatialDropout1D: keras.layers.SpatialDropout1D,
    layers.MCSpatialDropout2D: keras.layers.SpatialDropout2D,
    layers.MCSpatialDropout3D: keras.layers.SpatialDropout3D,
}
_OWN_ARGUMENTS = {"kernel_prior", "kernel_posterior", "bias_prior", "bias_posterior"}


def to_deterministic(model: keras.Model) -> keras.Model:
    """Returns a copy of a model with plain Keras layers, whose weights are the posterior means.

    Use it for a single pass at the mean weights, to quantize, or to hand a network to somebody
    without this library. Dropout is off at inference. The inverse of `to_bayesian`, except that a
    SeparableConv2D comes back as its two convolutions.

    Args:
        model: A built functional or Sequential model, a `BayesianModel` or not; not changed.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        ValueError: If the model has no graph.

    Example:

    >>> model = to_deterministic(BayesianCNN(inference="flipout"))
    >>> [type(layer).__name__ for layer in model.layers[2:4]]
    ['Conv2D', 'Conv2D']
    """

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if type(layer) not in _KERAS:
            return None
        config = layer.get_config()
        if isinstance(layer, layers.VariationalLayer):
            config = {k: v for k, v in config.items() if k not in {*_OWN_ARGUMENTS, "seed"}}
        else:
            del config["trainable"]  # Keras' spatial dropout does not take it
        return _KERAS[type(layer)].from_config(config)

    return convert(model, replace, _copy_means)


def refresh(twin: keras.Model, model: keras.Model) -> None:
    """Brings what `to_deterministic` made of a model up to date with the model's weights."""
    for old, new in zip(leaves(model), leaves(twin), strict=True):
        if type(old) in _KERAS:
            _copy_means(old, new)
        else:
            new.set_weights(old.get_weights())


def _copy_means(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    if isinstance(old, layers.VariationalLayer):
        new.set_weights([old.kernel] if old.bias is None else [old.kernel, old.bias])
