"""Transposed convolutions with random kernels."""

import keras
import tensorflow as tf

from tfp_bayes.layers import estimators
from tfp_bayes.layers.affine import AffineLayer


class _ConvTranspose(AffineLayer):
    """The transpose of a convolution, which enlarges images."""

    def kernel_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int, ...]:
        return (*self.kernel_size, self.filters, input_shape[self.channel_axis])

    def linear_map(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return keras.ops.conv_transpose(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv2DTransposeReparameterization(_ConvTranspose, keras.layers.Conv2DTranspose):
    """2-D transposed convolution trained with one draw of its kernel for the batch.

    Use it with any posterior. For a mean-field one, `Conv2DTransposeFlipout` is less noisy.

    Args:
        *args: Of `keras.layers.Conv2DTranspose`: filters, kernel_size, strides, padding ....
        kernel_prior: String, dictionary, `tfp_bayes.priors.Prior`, or None for a flat prior.
        kernel_posterior: String, dictionary or `tfp_bayes.posteriors.Posterior`.
        bias_prior: As `kernel_prior`.
        bias_posterior: As `kernel_posterior`.
        seed: Integer or None.
        **kwargs: Of `keras.layers.Conv2DTranspose`. Inputs are (B, H, W, C).

    Losses:
        In training, KL(q || prior) in nats, summed over weights, times `kl_weight`.

    Randomness:
        `training=True`: one kernel and bias for the whole batch.
        `training=False`: one kernel and bias for the whole batch.

    Raises:
        ValueError: If an argument asks for what random weights cannot honour.

    Reference:
        Blundell et al. 2015, "Weight Uncertainty in Neural Networks", section 3.2,
        arXiv:1505.05424.

    Example:

    >>> layer = Conv2DTransposeReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 10, 10, 4])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv2DTransposeFlipout(_ConvTranspose, keras.layers.Conv2DTranspose):
    """2-D transposed convolution trained with a draw of its kernel that each example turns.

    The usual choice for convolutions: examples are independent, and pixels of one example keep the
    correlation that their shared kernel gives them.

    Args:
        *args: Of `keras.layers.Conv2DTranspose`: filters, kernel_size, strides, padding ....
        kernel_prior: String, dictionary, `tfp_bayes.priors.Prior`, or None for a flat prior.
        kernel_posterior: "mean_field_normal" or "deterministic".
        bias_prior: As `kernel_prior`.
        bias_posterior: As `kernel_posterior`.
        seed: Integer or None.
        **kwargs: Of `keras.layers.Conv2DTranspose`. Inputs are (B, H, W, C).

    Losses:
        In training, KL(q || prior) in nats, summed over weights, times `kl_weight`.

    Randomness:
        `training=True`: signs for each example and channel, constant over space.
        `training=False`: one kernel and bias for the whole batch.

    Raises:
        ValueError: If an argument asks for what random weights cannot honour.

    Reference:
        Wen et al. 2018, "Flipout: Efficient Pseudo-Independent Weight Perturbations on
        Mini-Batches", section 3.3, arXiv:1803.04386.

    Example:

    >>> layer = Conv2DTransposeFlipout(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 10, 10, 4])
    """

    estimator = estimators.flipout
