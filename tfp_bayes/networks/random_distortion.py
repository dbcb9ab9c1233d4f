"""Random distortions of images, to which self-supervised features become invariant."""

import math
from numbers import Real
from typing import Any

import keras
import tensorflow as tf

from tfp_bayes._plumbing.checks import check_integers


@keras.saving.register_keras_serializable("tfp_bayes")
class RandomDistortion(keras.layers.Layer):
    """Transform each image by a random affine map, and change its contrast and brightness.

    `contrastive_features` uses it to create two views of an image. Choose distortions that do not
    change the class: photographs can be flipped, digits cannot. The layer returns images unchanged
    unless it is called with `training=True`.

    Args:
        rotation: Largest rotation in either direction, in degrees.
        zoom: Largest magnification. The smallest one is its inverse.
        stretch: Largest ratio of horizontal to vertical magnification. The smallest one is its
            inverse.
        shear: Largest horizontal shear in either direction, in pixels per pixel of height.
        shift: Largest translation in each direction, as a fraction of the side.
        contrast: Largest factor of the difference between an image and its mean. The smallest one
            is its inverse.
        brightness: Largest offset added to or subtracted from an image, as a fraction of its
            largest absolute value.
        flip: Whether to mirror half of the images left to right, at random.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of range, or inputs are not (N, H, W, C).

    Example:

    >>> distort = tfp_bayes.networks.RandomDistortion(rotation=15, flip=True, seed=0)
    >>> distort(np.ones([2, 28, 28, 1]), training=True).shape
    TensorShape([2, 28, 28, 1])
    """

    def __init__(
        self,
        rotation: float = 20.0,
        zoom: float = 1.35,
        stretch: float = 1.15,
        shear: float = 0.3,
        shift: float = 0.1,
        *,
        contrast: float = 1.0,
        brightness: float = 0.0,
        flip: bool = False,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _check_least(0, rotation=rotation, shear=shear, shift=shift, brightness=brightness)
        _check_least(1, zoom=zoom, stretch=stretch, contrast=contrast)
        if seed is not None:
            check_integers(0, seed=seed)
        self._config: dict[str, Any] = {
            "rotation": float(rotation),
            "zoom": float(zoom),
            "stretch": float(stretch),
            "shear": float(shear),
            "shift": float(shift),
            "contrast": float(contrast),
            "brightness": float(brightness),
            "flip": bool(flip),
            "seed": seed,
        }
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: tuple) -> None:
        """Check that inputs are images."""
        if len(input_shape) != 4:
            raise ValueError(
                f"Expected images (N, H, W, C) for {self.name!r}. Received: shape "
                f"{tuple(input_shape)}. Hint: gray images need a last axis of 1."
            )
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return images (N, H, W, C), each with its own distortion during training."""
        inputs = tf.cast(inputs, self.compute_dtype)
        if not training:
            return inputs
        images = tf.cast(inputs, "float32")  # the op does not support bfloat16
        images = self._fade(self._move(images))
        return tf.cast(images, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Return the input shape."""
        return input_shape

    def get_config(self) -> dict:
        """Return the layer's constructor arguments as plain JSON."""
        return {**super().get_config(), **self._config}

    def _move(self, images: tf.Tensor) -> tf.Tensor:
        """Resample each image at affinely mapped positions, repeating its border outside."""
        config, size = self._config, tf.shape(images)
        count, height, width = size[0], size[1], size[2]
        angle = self._uniform(count, math.radians(config["rotation"]))
        zoom = tf.exp(-self._uniform(count, math.log(config["zoom"])))
        stretch = tf.exp(self._uniform(count, math.log(config["stretch"]) / 2))
        shear = self._uniform(count, config["shear"])
        mirror = 1.0
        if config["flip"]:
            mirror = tf.sign(self._uniform(count, 1.0))
        # The map from output pixels to input pixels: mirror, shear, stretch, then rotate.
        cos, sin = tf.cos(angle) * zoom, tf.sin(angle) * zoom
        xx, yx = cos * stretch * mirror, sin * stretch * mirror
        xy, yy = cos * stretch * shear - sin / stretch, sin * stretch * shear + cos / stretch
        middle_x, middle_y = _middle(width), _middle(height)
        move_x = self._uniform(count, config["shift"]) * tf.cast(width, "float32")
        move_y = self._uniform(count, config["shift"]) * tf.cast(height, "float32")
        zero = tf.zeros([count])
        rows = [
            xx,
            xy,
            middle_x + move_x - xx * middle_x - xy * middle_y,
            yx,
            yy,
            middle_y + move_y - yx * middle_x - yy * middle_y,
            zero,
            zero,
        ]
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=tf.stack(rows, axis=1),
            output_shape=[height, width],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="NEAREST",
        )

    def _fade(self, images: tf.Tensor) -> tf.Tensor:
        count = tf.shape(images)[0]
        contrast, brightness = self._config["contrast"], self._config["brightness"]
        if contrast > 1:
            mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
            factor = tf.exp(self._uniform(count, math.log(contrast)))
            images = mean + (images - mean) * factor[:, None, None, None]
        if brightness > 0:
            largest = tf.reduce_max(tf.abs(images), axis=[1, 2, 3], keepdims=True)
            images += largest * self._uniform(count, brightness)[:, None, None, None]
        return images

    def _uniform(self, count: tf.Tensor, largest: float) -> tf.Tensor:
        """Draw numbers (N,) uniformly between -largest and largest."""
        return keras.random.uniform([count], -largest, largest, seed=self.seed_generator)


def _middle(side: tf.Tensor) -> tf.Tensor:
    return (tf.cast(side, "float32") - 1) / 2


def _check_least(least: float, **arguments: float) -> None:
    """Raise ValueError unless every argument is a finite number of at least `least`."""
    for name, value in arguments.items():
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not least <= value < math.inf:
            raise ValueError(
                f"Expected a number of at least {least} for `{name}`. "
                f"Received: {name}={value!r}. Hint: {name}={least} has no effect on images."
            )
