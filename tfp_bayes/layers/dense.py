"""Dense layers with random weights."""

import keras
import tensorflow as tf

from tfp_bayes.layers import estimators
from tfp_bayes.layers.affine import AffineLayer


class _Dense(AffineLayer, keras.layers.Dense):
    """y = activation(x W + b) with random W and b."""

    def kernel_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int, ...]:
        return (input_shape[-1], self.units)

    def linear_map(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return keras.ops.matmul(inputs, kernel)


@keras.saving.register_keras_serializable("tfp_bayes")
class DenseReparameterization(_Dense):
    """Dense layer that trains with one draw of its weights for the batch (Bayes by Backprop).

    Use it with any posterior; for a mean-field one, `DenseFlipout` has gradients of lower
    variance and `DenseLocalReparameterization` of lower still.

    Args:
        *args: Of `keras.layers.Dense`: units, activation, use_bias, initializers.
        kernel_prior: String, dictionary, `tfp_bayes.priors.Prior`, or None for a flat prior.
        kernel_posterior: String, dictionary or `tfp_bayes.posteriors.Posterior`.
        bias_prior: As `kernel_prior`.
        bias_posterior: As `kernel_posterior`.
        seed: Integer or None.
        **kwargs: Of `keras.layers.Dense`. Inputs are (B, ..., F), outputs (B, ..., units).

    Losses:
        In training, KL(q || prior) in nats, summed over weights, times `kl_weight`.

    Randomness:
        `training=True` and `training=False`: one kernel and bias for the whole batch.

    Raises:
        ValueError: If an argument asks for what random weights cannot honour.

    Reference:
        Blundell et al. 2015, "Weight Uncertainty in Neural Networks", section 3.2,
        arXiv:1505.05424.

    Example:

    >>> layer = DenseReparameterization(3, kernel_posterior="low_rank_normal", seed=0)
    >>> layer(np.ones((2, 4)), training=True).shape
    TensorShape([2, 3])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class DenseLocalReparameterization(_Dense):
    """Dense layer that trains with noise on its outputs: the lowest variance for a dense layer.

    Use it for mean-field dense networks.

    Args:
        *args: Of `keras.layers.Dense`: units, activation, use_bias, initializers.
        kernel_prior: String, dictionary, `tfp_bayes.priors.Prior`, or None for a flat prior.
        kernel_posterior: "mean_field_normal" or "deterministic".
        bias_prior: As `kernel_prior`.
        bias_posterior: As `kernel_posterior`.
        seed: Integer or None.
        **kwargs: Of `keras.layers.Dense`. Inputs are (B, ..., F), outputs (B, ..., units).

    Losses:
        In training, KL(q || prior) in nats, summed over weights, times `kl_weight`.

    Randomness:
        `training=True`: noise for each output element. `training=False`: one kernel and bias for
        the whole batch.

    Raises:
        ValueError: If an argument asks for what random weights cannot honour.

    Reference:
        Kingma, Salimans and Welling 2015, "Variational Dropout and the Local
        Reparameterization Trick", equation 6, arXiv:1506.02557.

    Example:

    >>> layer = DenseLocalReparameterization(3, activation="relu", seed=0)
    >>> layer(np.ones((2, 4)), training=True).shape
    TensorShape([2, 3])
    """

    estimator = estimators.local_reparameterization


@keras.saving.register_keras_serializable("tfp_bayes")
class DenseFlipout(_Dense):
    """Dense layer that trains with one draw of its weights, turned by signs for each example.

    Use it where layers of one model should share an estimator with convolutions.

    Args:
        *args: Of `keras.layers.Dense`: units, activation, use_bias, initializers.
        kernel_prior: String, dictionary, `tfp_bayes.priors.Prior`, or None for a flat prior.
        kernel_posterior: "mean_field_normal" or "deterministic".
        bias_prior: As `kernel_prior`.
        bias_posterior: As `kernel_posterior`.
        seed: Integer or None.
        **kwargs: Of `keras.layers.Dense`. Inputs are (B, ..., F), outputs (B, ..., units).

    Losses:
        In training, KL(q || prior) in nats, summed over weights, times `kl_weight`.

    Randomness:
        `training=True`: signs for each example, constant over axes between the first and the
        last. `training=False`: one kernel and bias for the whole batch.

    Raises:
        ValueError: If an argument asks for what random weights cannot honour.

    Reference:
        Wen et al. 2018, "Flipout: Efficient Pseudo-Independent Weight Perturbations on
        Mini-Batches", equation 4, arXiv:1803.04386.

    Example:

    >>> layer = DenseFlipout(3, kernel_prior="scale_mixture", seed=0)
    >>> y = layer(np.ones((2, 4)), training=False)  # one kernel: equal rows stay equal
    >>> bool(np.all(y[0] == y[1]))
    True
    """

    estimator = estimators.flipout
