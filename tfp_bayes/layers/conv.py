"""Convolutions of one, two and three dimensions with random kernels."""

import keras
import tensorflow as tf

from tfp_bayes.layers import estimators
from tfp_bayes.layers.affine import AffineLayer


class _Conv(AffineLayer):
    """A convolution of any rank; its Keras layer knows strides, padding, dilation and groups."""

    def kernel_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int, ...]:
        channels = input_shape[self.channel_axis]
        if channels % self.groups:
            raise ValueError(
                f"Expected input channels that `groups` divides. Received: groups={self.groups}, "
                f"input shape {tuple(input_shape)}. Hint: groups=1 is an ordinary convolution."
            )
        return (*self.kernel_size, channels // self.groups, self.filters)

    def linear_map(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        padding = self.padding
        if padding == "causal":  # of one dimension only
            inputs = keras.ops.pad(inputs, self._compute_causal_padding())
            padding = "valid"
        return keras.ops.conv(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv1DReparameterization(_Conv, keras.layers.Conv1D):
    """1-D convolution trained with one draw of its kernel for the batch.

    Use it with any posterior. For a mean-field one, `Conv1DFlipout` has less gradient variance.

    Args:
        *args: Of `keras.layers.Conv1D`: filters, kernel_size, strides, padding ....
        kernel_prior: String, dictionary, `tfp_bayes.priors.Prior`, or None for a flat prior.
        kernel_posterior: String, dictionary or `tfp_bayes.posteriors.Posterior`.
        bias_prior: As `kernel_prior`.
        bias_posterior: As `kernel_posterior`.
        seed: Integer or None.
        **kwargs: Of `keras.layers.Conv1D`. Inputs are (B, T, C).

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

    >>> layer = Conv1DReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 3)), training=True).shape
    TensorShape([2, 6, 4])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv1DLocalReparameterization(_Conv, keras.layers.Conv1D):
    """1-D convolution that trains with noise on its outputs.

    Use it where gradients of low variance matter more than the correlation that a shared kernel
    gives the outputs over space: in training that is lost, each output is right on its own.

    Args:
        *args: Of `keras.layers.Conv1D`: filters, kernel_size, strides, padding ....
        kernel_prior: String, dictionary, `tfp_bayes.priors.Prior`, or None for a flat prior.
        kernel_posterior: "mean_field_normal" or "deterministic".
        bias_prior: As `kernel_prior`.
        bias_posterior: As `kernel_posterior`.
        seed: Integer or None.
        **kwargs: Of `keras.layers.Conv1D`. Inputs are (B, T, C).

    Losses:
        In training, KL(q || prior) in nats, summed over weights, times `kl_weight`.

    Randomness:
        `training=True`: noise for each output element.
        `training=False`: one kernel and bias for the whole batch.

    Raises:
        ValueError: If an argument asks for what random weights cannot honour.

    Reference:
        Kingma, Salimans and Welling 2015, "Variational Dropout and the Local
        Reparameterization Trick", equation 6, arXiv:1506.02557.

    Example:

    >>> layer = Conv1DLocalReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 3)), training=True).shape
    TensorShape([2, 6, 4])
    """

    estimator = estimators.local_reparameterization


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv1DFlipout(_Conv, keras.layers.Conv1D):
    """1-D convolution trained with a draw of its kernel that each example turns.

    The usual choice for convolutions: examples are independent, and pixels of one example keep the
    correlation that their shared kernel gives them.

    Args:
        *args: Of `keras.layers.Conv1D`: filters, kernel_size, strides, padding ....
        kernel_prior: String, dictionary, `tfp_bayes.priors.Prior`, or None for a flat prior.
        kernel_posterior: "mean_field_normal" or "deterministic".
        bias_prior: As `kernel_prior`.
        bias_posterior: As `kernel_posterior`.
        seed: Integer or None.
        **kwargs: Of `keras.layers.Conv1D`. Inputs are (B, T, C).

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

    >>> layer = Conv1DFlipout(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 3)), training=True).shape
    TensorShape([2, 6, 4])
    """

    estimator = estimators.flipout


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv2DReparameterization(_Conv, keras.layers.Conv2D):
    """2-D convolution trained with one draw of its kernel for the batch.

    Use it with any posterior. For a mean-field one, `Conv2DFlipout` has less gradient variance.

    Args:
        *args: Of `keras.layers.Conv2D`: filters, kernel_size, strides, padding ....
        kernel_prior: String, dictionary, `tfp_bayes.priors.Prior`, or None for a flat prior.
        kernel_posterior: String, dictionary or `tfp_bayes.posteriors.Posterior`.
        bias_prior: As `kernel_prior`.
        bias_posterior: As `kernel_posterior`.
        seed: Integer or None.
        **kwargs: Of `keras.layers.Conv2D`. Inputs are (B, H, W, C).

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

    >>> layer = Conv2DReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 6, 6, 4])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv2DLocalReparameterization(_Conv, keras.layers.Conv2D):
    """2-D convolution that trains with noise on its outputs.

    Use it where gradients of low variance matter more than the correlation that a shared kernel
    gives the outputs over space: in training that is lost, each output is right on its own.

    Args:
        *args: Of `keras.layers.Conv2D`: filters, kernel_size, strides, padding ....
        kernel_prior: String, dictionary, `tfp_bayes.priors.Prior`, or None for a flat prior.
        kernel_posterior: "mean_field_normal" or "deterministic".
        bias_prior: As `kernel_prior`.
        bias_posterior: As `kernel_posterior`.
        seed: Integer or None.
        **kwargs: Of `keras.layers.Conv2D`. Inputs are (B, H, W, C).

    Losses:
        In training, KL(q || prior) in nats, summed over weights, times `kl_weight`.

    Randomness:
        `training=True`: noise for each output element.
        `training=False`: one kernel and bias for the whole batch.

    Raises:
        ValueError: If an argument asks for what random weights cannot honour.

    Reference:
        Kingma, Salimans and Welling 2015, "Variational Dropout and the Local
        Reparameterization Trick", equation 6, arXiv:1506.02557.

    Example:

    >>> layer = Conv2DLocalReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 6, 6, 4])
    """

    estimator = estimators.local_reparameterization


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv2DFlipout(_Conv, keras.layers.Conv2D):
    """2-D convolution trained with a draw of its kernel that each example turns.

    The usual choice for convolutions: examples are independent, and pixels of one example keep the
    correlation that their shared kernel gives them.

    Args:
        *args: Of `keras.layers.Conv2D`: filters, kernel_size, strides, padding ....
        kernel_prior: String, dictionary, `tfp_bayes.priors.Prior`, or None for a flat prior.
        kernel_posterior: "mean_field_normal" or "deterministic".
        bias_prior: As `kernel_prior`.
        bias_posterior: As `kernel_posterior`.
        seed: Integer or None.
        **kwargs: Of `keras.layers.Conv2D`. Inputs are (B, H, W, C).

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

    >>> layer = Conv2DFlipout(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 6, 6, 4])
    """

    estimator = estimators.flipout


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv3DReparameterization(_Conv, keras.layers.Conv3D):
    """3-D convolution trained with one draw of its kernel for the batch.

    Use it with any posterior. For a mean-field one, `Conv3DFlipout` has less gradient variance.

    Args:
        *args: Of `keras.layers.Conv3D`: filters, kernel_size, strides, padding ....
        kernel_prior: String, dictionary, `tfp_bayes.priors.Prior`, or None for a flat prior.
        kernel_posterior: String, dictionary or `tfp_bayes.posteriors.Posterior`.
        bias_prior: As `kernel_prior`.
        bias_posterior: As `kernel_posterior`.
        seed: Integer or None.
        **kwargs: Of `keras.layers.Conv3D`. Inputs are (B, D, H, W, C).

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

    >>> layer = Conv3DReparameterization(4, 3, seed=0)
    >>> layer(np.ones((1, 5, 5, 5, 2)), training=True).shape
    TensorShape([1, 3, 3, 3, 4])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv3DLocalReparameterization(_Conv, keras.layers.Conv3D):
    """3-D convolution that trains with noise on its outputs.

    Use it where gradients of low variance matter more than the correlation that a shared kernel
    gives the outputs over space: in training that is lost, each output is right on its own.

    Args:
        *args: Of `keras.layers.Conv3D`: filters, kernel_size, strides, padding ....
        kernel_prior: String, dictionary, `tfp_bayes.priors.Prior`, or None for a flat prior.
        kernel_posterior: "mean_field_normal" or "deterministic".
        bias_prior: As `kernel_prior`.
        bias_posterior: As `kernel_posterior`.
        seed: Integer or None.
        **kwargs: Of `keras.layers.Conv3D`. Inputs are (B, D, H, W, C).

    Losses:
        In training, KL(q || prior) in nats, summed over weights, times `kl_weight`.

    Randomness:
        `training=True`: noise for each output element.
        `training=False`: one kernel and bias for the whole batch.

    Raises:
        ValueError: If an argument asks for what random weights cannot honour.

    Reference:
        Kingma, Salimans and Welling 2015, "Variational Dropout and the Local
        Reparameterization Trick", equation 6, arXiv:1506.02557.

    Example:

    >>> layer = Conv3DLocalReparameterization(4, 3, seed=0)
    >>> layer(np.ones((1, 5, 5, 5, 2)), training=True).shape
    TensorShape([1, 3, 3, 3, 4])
    """

    estimator = estimators.local_reparameterization


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv3DFlipout(_Conv, keras.layers.Conv3D):
    """3-D convolution trained with a draw of its kernel that each example turns.

    The usual choice for convolutions: examples are independent, and pixels of one example keep the
    correlation that their shared kernel gives them.

    Args:
        *args: Of `keras.layers.Conv3D`: filters, kernel_size, strides, padding ....
        kernel_prior: String, dictionary, `tfp_bayes.priors.Prior`, or None for a flat prior.
        kernel_posterior: "mean_field_normal" or "deterministic".
        bias_prior: As `kernel_prior`.
        bias_posterior: As `kernel_posterior`.
        seed: Integer or None.
        **kwargs: Of `keras.layers.Conv3D`. Inputs are (B, D, H, W, C).

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

    >>> layer = Conv3DFlipout(4, 3, seed=0)
    >>> layer(np.ones((1, 5, 5, 5, 2)), training=True).shape
    TensorShape([1, 3, 3, 3, 4])
    """

    estimator = estimators.flipout
