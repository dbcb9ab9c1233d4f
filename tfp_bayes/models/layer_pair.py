"""Conversion between a Keras layer and its Bayesian twin."""

import inspect
from collections.abc import Callable

import keras
import numpy as np

from tfp_bayes import posteriors, priors
from tfp_bayes._plumbing.keras_internals import input_ranks
from tfp_bayes.layers.random_weight import RandomWeight
from tfp_bayes.layers.variational import check_honoured, variational_layers
from tfp_bayes.models.separable import RandomSeparableConv2D
from tfp_bayes.posteriors.scale import from_scale

K = keras.layers
# MOPED sets a scale to a fraction of its weight. For a weight of 0 that would be a scale of 0, with
# infinite KL.
SMALLEST_SCALE = 1e-6


class LayerPair:
    """A Keras layer and its Bayesian twin.

    Args:
        keras_class: Class of the Keras layer.
        bayesian_class: Class of the twin.
        *inferences: Values of `inference` for which `to_bayesian` creates the twin. Without any,
            only `to_deterministic` uses the pair.
    """

    def __init__(
        self, keras_class: type[keras.Layer], bayesian_class: type[keras.Layer], *inferences: str
    ):
        self.keras_class = keras_class
        self.bayesian_class = bayesian_class
        self.inferences = inferences

    def has_twin(self, layer: keras.layers.Layer) -> bool:
        """Return whether this pair can create a twin of a Keras layer."""
        return type(layer) is self.keras_class

    def is_twin(self, layer: keras.layers.Layer) -> bool:
        """Return whether a layer is a twin of the kind that this pair creates."""
        return type(layer) is self.bayesian_class

    def make_bayesian(
        self, layer: keras.layers.Layer, prior: priors.Prior | None
    ) -> keras.layers.Layer:
        """Create the twin of a Keras layer, not built yet."""
        raise NotImplementedError

    def fill_bayesian(
        self, old: keras.layers.Layer, new: keras.layers.Layer, moped_delta: float | None
    ) -> None:
        """Set the means of a built twin from a Keras layer, and for MOPED its scales too."""
        for weight, value in zip(_random_weights(new), old.get_weights(), strict=True):
            _set_mean(weight, value, moped_delta)

    def make_keras(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """Create the Keras layer of a twin, not built yet."""
        return self.keras_class.from_config(accepted(self.keras_class, layer.get_config()))

    def fill_keras(self, old: keras.layers.Layer, new: keras.layers.Layer) -> None:
        """Set the weights of a built Keras layer to the means of a twin."""
        new.set_weights([np.asarray(weight.mean()) for weight in _random_weights(old)])


class SameWeights(LayerPair):
    """A twin with the same constructor and weights as its Keras layer, but random at inference."""

    def make_bayesian(
        self, layer: keras.layers.Layer, prior: priors.Prior | None
    ) -> keras.layers.Layer:
        """See `LayerPair.make_bayesian`."""
        return self.bayesian_class.from_config(layer.get_config())

    def fill_bayesian(
        self, old: keras.layers.Layer, new: keras.layers.Layer, moped_delta: float | None
    ) -> None:
        """See `LayerPair.fill_bayesian`."""
        _copy_weights(old, new)

    def fill_keras(self, old: keras.layers.Layer, new: keras.layers.Layer) -> None:
        """See `LayerPair.fill_keras`."""
        _copy_weights(old, new)


class InnerDropout(SameWeights):
    """A layer with internal dropout, which has a twin if one of its rates is positive."""

    def has_twin(self, layer: keras.layers.Layer) -> bool:
        """See `LayerPair.has_twin`."""
        rates = layer.get_config()
        dropped = rates.get("dropout", 0) > 0 or rates.get("recurrent_dropout", 0) > 0
        return super().has_twin(layer) and dropped


class SpatialDropout1D(SameWeights):
    """A pair whose twin supports "channels_first", which Keras' layer does not."""

    def make_keras(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """See `LayerPair.make_keras`."""
        return _plain_dropout(self.keras_class, layer.get_config())


class LearnedRate(LayerPair):
    """Dropout of the units that the next kernel reads, and a twin that learns the rate."""

    def has_twin(self, layer: keras.layers.Layer) -> bool:
        """See `LayerPair.has_twin`."""
        if not super().has_twin(layer) or not 0 < layer.rate < 1:
            return False
        # On images and sequences, Keras' Dropout draws per pixel instead of per kernel row.
        of_units = layer.noise_shape is None and input_ranks(layer) <= {2}
        return of_units if self.keras_class is K.Dropout else True

    def make_bayesian(
        self, layer: keras.layers.Layer, prior: priors.Prior | None
    ) -> keras.layers.Layer:
        """See `LayerPair.make_bayesian`."""
        config = {**layer.get_config(), "initial_rate": layer.rate}
        return self.bayesian_class.from_config(accepted(self.bayesian_class, config))

    def fill_bayesian(
        self, old: keras.layers.Layer, new: keras.layers.Layer, moped_delta: float | None
    ) -> None:
        """See `LayerPair.fill_bayesian`. Nothing to do: the constructor sets the rate."""

    def make_keras(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """See `LayerPair.make_keras`."""
        return _plain_dropout(self.keras_class, {**layer.get_config(), "rate": layer.rate})

    def fill_keras(self, old: keras.layers.Layer, new: keras.layers.Layer) -> None:
        """See `LayerPair.fill_keras`."""
        new.rate = old.rate


class RandomWeights(LayerPair):
    """A variational twin whose random weights are in the order of the Keras layer's weights.

    Weights that have a posterior by default (kernels) get the prior given to `to_bayesian`. The
    others (biases) stay point estimates.
    """

    def make_bayesian(
        self, layer: keras.layers.Layer, prior: priors.Prior | None
    ) -> keras.layers.Layer:
        """See `LayerPair.make_bayesian`."""
        return self.from_keras_config(layer.get_config(), prior)

    def from_keras_config(self, config: dict, prior: priors.Prior | None) -> keras.layers.Layer:
        """Create the twin from the configuration of a Keras layer."""
        check_honoured(f"layer {config['name']!r}", config)
        # None is a flat prior, under which only a point estimate makes sense.
        posterior = posteriors.Deterministic() if prior is None else posteriors.MeanFieldNormal()
        config = {name: value for name, value in config.items() if value is not None}
        for name, belief in self.bayesian_class.beliefs.items():
            if belief.prior is not None:
                config |= {f"{name}_prior": prior, f"{name}_posterior": posterior}
        return self.bayesian_class.from_config(config)


class Bidirectional(LayerPair):
    """A bidirectional wrapper, in which both recurrent layers are replaced by their twins."""

    _DIRECTIONS = {"layer": "forward_layer", "backward_layer": "backward_layer"}

    def __init__(self, recurrent: LayerPair):
        super().__init__(K.Bidirectional, K.Bidirectional, *recurrent.inferences)
        self.recurrent = recurrent

    def _inside(self, layer: keras.layers.Layer) -> list[keras.layers.Layer]:
        return [getattr(layer, name) for name in self._DIRECTIONS.values()]

    def has_twin(self, layer: keras.layers.Layer) -> bool:
        """See `LayerPair.has_twin`."""
        return super().has_twin(layer) and all(map(self.recurrent.has_twin, self._inside(layer)))

    def is_twin(self, layer: keras.layers.Layer) -> bool:
        """See `LayerPair.is_twin`."""
        return super().is_twin(layer) and all(map(self.recurrent.is_twin, self._inside(layer)))

    def make_bayesian(
        self, layer: keras.layers.Layer, prior: priors.Prior | None
    ) -> keras.layers.Layer:
        """See `LayerPair.make_bayesian`."""
        return self._wrap(layer, lambda each: self.recurrent.make_bayesian(each, prior))

    def make_keras(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """See `LayerPair.make_keras`."""
        return self._wrap(layer, self.recurrent.make_keras)

    def _wrap(self, layer: keras.layers.Layer, make: Callable) -> keras.layers.Layer:
        new = dict(zip(self._DIRECTIONS, map(make, self._inside(layer))))
        serialize = keras.saving.serialize_keras_object
        config = {name: serialize(each) for name, each in new.items()}
        return K.Bidirectional.from_config({**layer.get_config(), **config})

    def fill_bayesian(
        self, old: keras.layers.Layer, new: keras.layers.Layer, moped_delta: float | None
    ) -> None:
        """See `LayerPair.fill_bayesian`."""
        for a, b in zip(self._inside(old), self._inside(new)):
            self.recurrent.fill_bayesian(a, b, moped_delta)

    def fill_keras(self, old: keras.layers.Layer, new: keras.layers.Layer) -> None:
        """See `LayerPair.fill_keras`."""
        for a, b in zip(self._inside(old), self._inside(new)):
            self.recurrent.fill_keras(a, b)


class Separable(LayerPair):
    """A separable convolution, whose twin consists of two layers."""

    def __init__(self, depthwise: RandomWeights, pointwise: RandomWeights):
        super().__init__(K.SeparableConv2D, RandomSeparableConv2D, *depthwise.inferences)
        self.depthwise = depthwise
        self.pointwise = pointwise

    _SHARED = ("data_format", "dtype")
    _DEPTHWISE = ("kernel_size", "strides", "padding", "dilation_rate", "depth_multiplier")
    _POINTWISE = (
        *("filters", "activation", "use_bias"),
        *("bias_initializer", "bias_regularizer", "bias_constraint"),
    )
    _KERNEL = ("initializer", "regularizer", "constraint")

    def make_bayesian(
        self, layer: keras.layers.Layer, prior: priors.Prior | None
    ) -> keras.layers.Layer:
        """See `LayerPair.make_bayesian`."""
        config = layer.get_config()
        depthwise = {name: config[name] for name in (*self._SHARED, *self._DEPTHWISE)}
        pointwise = {name: config[name] for name in (*self._SHARED, *self._POINTWISE)}
        depthwise |= {"name": f"{layer.name}_depthwise", "use_bias": False}
        pointwise |= {"name": f"{layer.name}_pointwise", "kernel_size": 1}
        for name in self._KERNEL:
            depthwise[f"depthwise_{name}"] = config[f"depthwise_{name}"]
            pointwise[f"kernel_{name}"] = config[f"pointwise_{name}"]
        return RandomSeparableConv2D(
            self.depthwise.from_keras_config(depthwise, prior),
            self.pointwise.from_keras_config(pointwise, prior),
            name=layer.name,
            dtype=config["dtype"],
        )

    def make_keras(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """See `LayerPair.make_keras`."""
        depthwise, pointwise = layer.depthwise.get_config(), layer.pointwise.get_config()
        config = {name: depthwise[name] for name in (*self._SHARED, *self._DEPTHWISE)}
        config |= {name: pointwise.get(name) for name in self._POINTWISE}
        config["depthwise_initializer"] = depthwise["depthwise_initializer"]
        config["pointwise_initializer"] = pointwise["kernel_initializer"]
        return K.SeparableConv2D.from_config({**config, "name": layer.name})


class Linear(LayerPair):
    """A closed-form linear layer, which is only converted back, since its data are not at hand."""

    def make_keras(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """See `LayerPair.make_keras`."""
        config = layer.get_config()
        units = layer.units * (2 if layer.include_noise else 1)
        base = {name: config[name] for name in ("name", "trainable", "dtype")}
        return K.Dense(units, use_bias=layer.use_bias or layer.include_noise, **base)

    def fill_keras(self, old: keras.layers.Layer, new: keras.layers.Layer) -> None:
        """See `LayerPair.fill_keras`."""
        kernel, bias = old.kernel_loc.numpy(), old.bias_loc.numpy()
        if old.include_noise:  # zero kernel columns, since the noise depends on no input
            kernel = np.pad(kernel, ((0, 0), (0, old.units)))
            bias = np.concatenate([bias, np.sqrt(old.noise_variances.numpy())])
        new.set_weights([kernel, bias] if new.use_bias else [kernel])


def _plain_dropout(keras_class: type[keras.Layer], config: dict) -> keras.layers.Layer:
    if keras_class is K.SpatialDropout1D and config["data_format"] == "channels_first":
        keras_class, config = K.Dropout, {**config, "noise_shape": (None, None, 1)}
    return keras_class.from_config(accepted(keras_class, config))


def accepted(keras_class: type, config: dict) -> dict:
    """Return the entries of a configuration that the constructor of a Keras class accepts."""
    known = set()
    for kind in keras_class.__mro__:
        # mypy warns because `__init__` of an instance may differ; `kind` is a class.
        parameters = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
        known |= set(parameters)
        if all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
            break  # this constructor passes no further arguments to its base class
    return {name: value for name, value in config.items() if name in known}


def _copy_weights(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    for a, b in zip(old.weights, new.weights, strict=True):
        b.assign(a)
        b.trainable = a.trainable


def _random_weights(layer: keras.layers.Layer) -> list[RandomWeight]:
    """List the random weights of a layer, in the order of the Keras layer's weights."""
    return [w for each in variational_layers(layer) for w in each.random_weights.values()]


def _set_mean(weight: RandomWeight, value: np.ndarray, moped_delta: float | None) -> None:
    weight.variables["loc"].assign(value)
    if moped_delta is not None and "untransformed_scale" in weight.variables:
        scale = np.maximum(moped_delta * np.abs(value), SMALLEST_SCALE)
        weight.variables["untransformed_scale"].assign(from_scale(scale))
