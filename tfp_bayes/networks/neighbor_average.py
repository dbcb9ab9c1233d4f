"""Features averaged over the most similar images of a pool."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.checks import check_finite_rows, check_integers


@keras.saving.register_keras_serializable("tfp_bayes")
class NeighborAverage(keras.layers.Layer):
    """Replace features by their average over the most similar images of a pool.

    Use it after self-supervised features if there are only a few labels per class and many
    unlabeled images: images with similar features mostly share a class, so the average is closer
    to the middle of the class than the features of a single image. Features are compared by the
    cosine of their angle. The pool is a weight of the layer, so it is saved and exported with the
    model.

    Do not use it to detect unusual images: their averages look like those of the pool.

    Args:
        num_neighbors: Number of images to average over. An image of the pool is its own first
            neighbor.
        num_images: Number of images in the pool, which `adapt` sets. It is part of the saved
            configuration.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of range, or the layer is called before `adapt`.

    Example:

    >>> pool = np.random.default_rng(0).normal(size=(100, 8))
    >>> average = tfp_bayes.networks.NeighborAverage(5)
    >>> average.adapt(pool)
    >>> average(pool[:3]).shape
    TensorShape([3, 8])
    """

    def __init__(self, num_neighbors: int = 15, num_images: int | None = None, **kwargs):
        super().__init__(**{"trainable": False, **kwargs})
        check_integers(1, num_neighbors=num_neighbors)
        if num_images is not None:
            check_integers(num_neighbors, num_images=num_images)
        self.num_neighbors = num_neighbors
        self.num_images = num_images

    def adapt(self, pool: np.ndarray) -> None:
        """Set the pool.

        Args:
            pool: Features (M, F) of at least `num_neighbors` images, as this layer would get them.

        Raises:
            ValueError: If they have another shape, or a number is not finite.
        """
        pool = check_finite_rows(np.asarray(pool), np.arange(len(pool)))
        if pool.ndim != 2 or len(pool) < self.num_neighbors:
            raise ValueError(
                f"Expected features (M, F) of at least {self.num_neighbors} images for `pool`. "
                f"Received: shape {pool.shape}. Hint: pass model.predict(images)."
            )
        if self.built and pool.shape != tuple(self.pool.shape):
            raise ValueError(
                f"Expected features of shape {tuple(self.pool.shape)}, as before, for `pool`. "
                f"Received: shape {pool.shape}. Hint: create a new layer for another pool."
            )
        self.num_images = len(pool)
        if not self.built:
            self.build((None, pool.shape[1]))
        self.pool.assign(keras.utils.normalize(pool.astype("float64")))

    def build(self, input_shape: tuple) -> None:
        """Create the weight that holds the pool."""
        if self.num_images is None:
            raise ValueError(
                f"Expected a pool before layer {self.name!r} is called. Received: none. "
                "Hint: call layer.adapt(features_of_the_pool) first."
            )
        # More axes would be averaged over as if they were neighbors.
        self.input_spec = keras.layers.InputSpec(ndim=2, axes={-1: input_shape[-1]})
        self.pool = self.add_weight(
            name="pool",
            shape=(self.num_images, input_shape[-1]),
            initializer=keras.initializers.Constant(math.nan),  # until somebody gives a pool
            trainable=False,
        )
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return averages (N, F) of length 1."""
        inputs = tf.math.l2_normalize(tf.cast(inputs, self.compute_dtype), axis=-1)
        pool = tf.convert_to_tensor(self.pool)
        similarity = tf.matmul(inputs, pool, transpose_b=True)  # (N, M)
        _, nearest = tf.math.top_k(similarity, self.num_neighbors, sorted=False)
        average = tf.math.l2_normalize(tf.reduce_mean(tf.gather(pool, nearest), axis=1), axis=-1)
        # NaN has neighbors like any other number, so without this it would not reach the outputs.
        return average + 0 * tf.reduce_sum(inputs, axis=-1, keepdims=True)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments as plain JSON."""
        return {
            **super().get_config(),
            "num_neighbors": self.num_neighbors,
            "num_images": self.num_images,
        }
