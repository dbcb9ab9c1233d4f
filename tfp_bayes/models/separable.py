"""A separable convolution whose two kernels are random."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfp_bayes")
class RandomSeparableConv2D(keras.layers.Layer):
    """A depthwise convolution followed by a 1x1 convolution, each with a random kernel.

    `to_bayesian` replaces a `keras.layers.SeparableConv2D` by this layer, and `to_deterministic`
    converts it back.

    Args:
        depthwise: A variational DepthwiseConv2D layer without bias, or its configuration.
        pointwise: A variational Conv2D layer with a kernel of size 1, or its configuration.
        **kwargs: Arguments of `keras.layers.Layer`.

    Randomness:
        Both inner layers draw their kernels.

    Losses:
        Both inner layers add their prior terms.
    """

    def __init__(
        self, depthwise: keras.layers.Layer | dict, pointwise: keras.layers.Layer | dict, **kwargs
    ):
        super().__init__(**kwargs)
        self.depthwise = _as_layer(depthwise)
        self.pointwise = _as_layer(pointwise)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Build both layers, unless they were built while loading a file."""
        for layer in (self.depthwise, self.pointwise):
            if not layer.built:
                layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Apply both convolutions to images."""
        return self.pointwise(self.depthwise(inputs, training=training), training=training)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Return the shape of the convolved images."""
        return self.pointwise.compute_output_shape(self.depthwise.compute_output_shape(input_shape))

    def get_config(self) -> dict:
        """Return the layer's constructor arguments as plain JSON."""
        parts = {name: getattr(self, name) for name in ("depthwise", "pointwise")}
        serialize = keras.saving.serialize_keras_object
        return {**super().get_config(), **{name: serialize(part) for name, part in parts.items()}}


def _as_layer(layer: keras.layers.Layer | dict) -> keras.layers.Layer:
    return keras.saving.deserialize_keras_object(layer) if isinstance(layer, dict) else layer
