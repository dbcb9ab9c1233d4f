"""Dense layers with random weights."""

import keras
import tensorflow as tf

from tfp_bayes.layers import estimators
from tfp_bayes.layers.affine import AffineLayer


class _Dense(AffineLayer, keras.layers.Dense):
    """y = activation(x W + b) with random W and b.

    It takes the arguments of `keras.layers.Dense` and those of `VariationalLayer`. Inputs are
    (B, ..., F) and outputs (B, ..., units).
    """

    def kernel_shape(self, input_shape: tuple) -> tuple[int, ...]:
        return (input_shape[-1], self.units)

    def linear_map(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return keras.ops.matmul(inputs, kernel)


@keras.saving.register_keras_serializable("tfp_bayes")
class DenseReparameterization(_Dense):
    """Dense layer that trains with one draw of its weights per batch (Bayes by Backprop).

    Use it with a posterior that is not mean-field. For a mean-field posterior, `DenseFlipout` has
    gradients of lower variance, and `DenseLocalReparameterization` has the lowest. See
    `VariationalLayer` and `estimators.reparameterization`.

    Example:

    >>> layer = DenseReparameterization(3, kernel_posterior="low_rank_normal", seed=0)
    >>> layer(np.ones((2, 4)), training=True).shape
    TensorShape([2, 3])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class DenseLocalReparameterization(_Dense):
    """Dense layer that trains with noise added to its outputs.

    Use it for mean-field dense networks: its gradients have the lowest variance. See
    `VariationalLayer` and `estimators.local_reparameterization`.

    Example:

    >>> layer = DenseLocalReparameterization(3, activation="relu", seed=0)
    >>> layer(np.ones((2, 4)), training=True).shape
    TensorShape([2, 3])
    """

    estimator = estimators.local_reparameterization


@keras.saving.register_keras_serializable("tfp_bayes")
class DenseFlipout(_Dense):
    """Dense layer that trains with Flipout: one draw of its weights, random signs per example.

    Use it where dense layers and convolutions of a model should have the same estimator. See
    `VariationalLayer` and `estimators.flipout`.

    Example:

    >>> layer = DenseFlipout(3, kernel_prior="scale_mixture", seed=0)
    >>> y = layer(np.ones((2, 4)), training=False)  # one kernel: equal rows stay equal
    >>> bool(np.all(y[0] == y[1]))
    True
    """

    estimator = estimators.flipout
