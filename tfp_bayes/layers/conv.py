"""Convolutions with random kernels: 1-D, 2-D, 3-D, transposed and depthwise."""

import keras
import tensorflow as tf

from tfp_bayes.layers import estimators
from tfp_bayes.layers.affine import AffineLayer


class _Conv(AffineLayer):
    """A convolution of any rank with random kernels.

    It takes the arguments of the Keras layer of the same rank and those of `VariationalLayer`.
    Strides, padding, dilation and groups work as in Keras. Inputs are (B, ..., C) and outputs
    (B, ..., filters); with data_format="channels_first" the channels are the second axis.
    """

    def kernel_shape(self, input_shape: tuple) -> tuple[int, ...]:
        channels = input_shape[self.channel_axis]
        if channels % self.groups:
            raise ValueError(
                "Expected the number of input channels to be a multiple of `groups`. Received: "
                f"groups={self.groups}, input shape {tuple(input_shape)}. "
                "Hint: groups=1 is an ordinary convolution."
            )
        return (*self.kernel_size, channels // self.groups, self.filters)

    def linear_map(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        padding = self.padding
        if padding == "causal":  # Conv1D only
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
    """1-D convolution that trains with one kernel draw per batch.

    Use it with a posterior that is not mean-field. For a mean-field posterior,
    `Conv1DFlipout` has gradients of lower variance. See `VariationalLayer` and
    `estimators.reparameterization`.

    Example:

    >>> layer = Conv1DReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 3)), training=True).shape
    TensorShape([2, 6, 4])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv1DLocalReparameterization(_Conv, keras.layers.Conv1D):
    """1-D convolution that trains with noise added to its outputs.

    Use it where low gradient variance matters more than the correlation between pixels that share
    a kernel, which this estimator ignores in training. See `VariationalLayer` and
    `estimators.local_reparameterization`.

    Example:

    >>> layer = Conv1DLocalReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 3)), training=True).shape
    TensorShape([2, 6, 4])
    """

    estimator = estimators.local_reparameterization


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv1DFlipout(_Conv, keras.layers.Conv1D):
    """1-D convolution that trains with Flipout.

    The usual choice: the noise of different examples is uncorrelated, and the pixels of one
    example keep the correlation that comes from their shared kernel. See `VariationalLayer` and
    `estimators.flipout`.

    Example:

    >>> layer = Conv1DFlipout(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 3)), training=True).shape
    TensorShape([2, 6, 4])
    """

    estimator = estimators.flipout


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv2DReparameterization(_Conv, keras.layers.Conv2D):
    """2-D convolution that trains with one kernel draw per batch.

    Use it with a posterior that is not mean-field. For a mean-field posterior,
    `Conv2DFlipout` has gradients of lower variance. See `VariationalLayer` and
    `estimators.reparameterization`.

    Example:

    >>> layer = Conv2DReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 6, 6, 4])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv2DLocalReparameterization(_Conv, keras.layers.Conv2D):
    """2-D convolution that trains with noise added to its outputs.

    Use it where low gradient variance matters more than the correlation between pixels that share
    a kernel, which this estimator ignores in training. See `VariationalLayer` and
    `estimators.local_reparameterization`.

    Example:

    >>> layer = Conv2DLocalReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 6, 6, 4])
    """

    estimator = estimators.local_reparameterization


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv2DFlipout(_Conv, keras.layers.Conv2D):
    """2-D convolution that trains with Flipout.

    The usual choice: the noise of different examples is uncorrelated, and the pixels of one
    example keep the correlation that comes from their shared kernel. See `VariationalLayer` and
    `estimators.flipout`.

    Example:

    >>> layer = Conv2DFlipout(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 6, 6, 4])
    """

    estimator = estimators.flipout


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv3DReparameterization(_Conv, keras.layers.Conv3D):
    """3-D convolution that trains with one kernel draw per batch.

    Use it with a posterior that is not mean-field. For a mean-field posterior,
    `Conv3DFlipout` has gradients of lower variance. See `VariationalLayer` and
    `estimators.reparameterization`.

    Example:

    >>> layer = Conv3DReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 4, 4, 4, 3)), training=True).shape
    TensorShape([2, 2, 2, 2, 4])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv3DLocalReparameterization(_Conv, keras.layers.Conv3D):
    """3-D convolution that trains with noise added to its outputs.

    Use it where low gradient variance matters more than the correlation between pixels that share
    a kernel, which this estimator ignores in training. See `VariationalLayer` and
    `estimators.local_reparameterization`.

    Example:

    >>> layer = Conv3DLocalReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 4, 4, 4, 3)), training=True).shape
    TensorShape([2, 2, 2, 2, 4])
    """

    estimator = estimators.local_reparameterization


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv3DFlipout(_Conv, keras.layers.Conv3D):
    """3-D convolution that trains with Flipout.

    The usual choice: the noise of different examples is uncorrelated, and the pixels of one
    example keep the correlation that comes from their shared kernel. See `VariationalLayer` and
    `estimators.flipout`.

    Example:

    >>> layer = Conv3DFlipout(4, 3, seed=0)
    >>> layer(np.ones((2, 4, 4, 4, 3)), training=True).shape
    TensorShape([2, 2, 2, 2, 4])
    """

    estimator = estimators.flipout


class _ConvTranspose(AffineLayer):
    """A transposed convolution with random kernels. See `_Conv`."""

    def kernel_shape(self, input_shape: tuple) -> tuple[int, ...]:
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
    """2-D transposed convolution that trains with one kernel draw per batch.

    Use it with a posterior that is not mean-field. For a mean-field posterior,
    `Conv2DTransposeFlipout` has gradients of lower variance. See `VariationalLayer` and
    `estimators.reparameterization`.

    Example:

    >>> layer = Conv2DTransposeReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 10, 10, 4])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv2DTransposeFlipout(_ConvTranspose, keras.layers.Conv2DTranspose):
    """2-D transposed convolution that trains with Flipout.

    The usual choice: the noise of different examples is uncorrelated, and the pixels of one
    example keep the correlation that comes from their shared kernel. See `VariationalLayer` and
    `estimators.flipout`.

    Example:

    >>> layer = Conv2DTransposeFlipout(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 10, 10, 4])
    """

    estimator = estimators.flipout


class _DepthwiseConv(AffineLayer):
    """A depthwise convolution with random kernels. See `_Conv`."""

    kernel_initializer_name = "depthwise_initializer"

    def kernel_shape(self, input_shape: tuple) -> tuple[int, ...]:
        return (*self.kernel_size, input_shape[self.channel_axis], self.depth_multiplier)

    def linear_map(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return keras.ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )


@keras.saving.register_keras_serializable("tfp_bayes")
class DepthwiseConv2DReparameterization(_DepthwiseConv, keras.layers.DepthwiseConv2D):
    """2-D depthwise convolution that trains with one kernel draw per batch.

    Use it with a posterior that is not mean-field. For a mean-field posterior,
    `DepthwiseConv2DFlipout` has gradients of lower variance. See `VariationalLayer` and
    `estimators.reparameterization`.

    Example:

    >>> layer = DepthwiseConv2DReparameterization(3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 6, 6, 3])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class DepthwiseConv2DFlipout(_DepthwiseConv, keras.layers.DepthwiseConv2D):
    """2-D depthwise convolution that trains with Flipout.

    The usual choice: the noise of different examples is uncorrelated, and the pixels of one
    example keep the correlation that comes from their shared kernel. See `VariationalLayer` and
    `estimators.flipout`.

    Example:

    >>> layer = DepthwiseConv2DFlipout(3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 6, 6, 3])
    """

    estimator = estimators.flipout
