"""Convolutions with random kernels: of one, two and three dimensions, transposed and depthwise."""

import keras
import tensorflow as tf

from tfp_bayes.layers import estimators
from tfp_bayes.layers.affine import AffineLayer


class _Conv(AffineLayer):
    """A convolution of any rank with random kernels.

    Takes the arguments of the Keras layer of its rank, whose strides, padding, dilation and groups
    it keeps, and those of `VariationalLayer`. Inputs are (B, ..., C), outputs (B, ..., filters),
    and with data_format="channels_first" the channels come second.
    """

    def kernel_shape(self, input_shape: tuple) -> tuple[int, ...]:
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
    """1-D convolution with one draw of its kernel for each batch.

    Use it with a posterior that is not mean-field; for a mean-field one, `Conv1DFlipout` has
    gradients of lower variance. See `VariationalLayer` and `estimators.reparameterization`.

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

    Use it where gradients of low variance matter more than the correlation between pixels that
    a shared kernel gives, which is lost in training. See `VariationalLayer` and
    `estimators.local_reparameterization`.

    Example:

    >>> layer = Conv1DLocalReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 3)), training=True).shape
    TensorShape([2, 6, 4])
    """

    estimator = estimators.local_reparameterization


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv1DFlipout(_Conv, keras.layers.Conv1D):
    """1-D convolution with a draw of its kernel that signs turn for each example.

    The usual choice: examples are independent, and the pixels of one example keep the
    correlation that their shared kernel gives. See `VariationalLayer` and
    `estimators.flipout`.

    Example:

    >>> layer = Conv1DFlipout(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 3)), training=True).shape
    TensorShape([2, 6, 4])
    """

    estimator = estimators.flipout


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv2DReparameterization(_Conv, keras.layers.Conv2D):
    """2-D convolution with one draw of its kernel for each batch.

    Use it with a posterior that is not mean-field; for a mean-field one, `Conv2DFlipout` has
    gradients of lower variance. See `VariationalLayer` and `estimators.reparameterization`.

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

    Use it where gradients of low variance matter more than the correlation between pixels that
    a shared kernel gives, which is lost in training. See `VariationalLayer` and
    `estimators.local_reparameterization`.

    Example:

    >>> layer = Conv2DLocalReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 6, 6, 4])
    """

    estimator = estimators.local_reparameterization


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv2DFlipout(_Conv, keras.layers.Conv2D):
    """2-D convolution with a draw of its kernel that signs turn for each example.

    The usual choice: examples are independent, and the pixels of one example keep the
    correlation that their shared kernel gives. See `VariationalLayer` and
    `estimators.flipout`.

    Example:

    >>> layer = Conv2DFlipout(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 6, 6, 4])
    """

    estimator = estimators.flipout


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv3DReparameterization(_Conv, keras.layers.Conv3D):
    """3-D convolution with one draw of its kernel for each batch.

    Use it with a posterior that is not mean-field; for a mean-field one, `Conv3DFlipout` has
    gradients of lower variance. See `VariationalLayer` and `estimators.reparameterization`.

    Example:

    >>> layer = Conv3DReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 4, 4, 4, 3)), training=True).shape
    TensorShape([2, 2, 2, 2, 4])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv3DLocalReparameterization(_Conv, keras.layers.Conv3D):
    """3-D convolution that trains with noise on its outputs.

    Use it where gradients of low variance matter more than the correlation between pixels that
    a shared kernel gives, which is lost in training. See `VariationalLayer` and
    `estimators.local_reparameterization`.

    Example:

    >>> layer = Conv3DLocalReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 4, 4, 4, 3)), training=True).shape
    TensorShape([2, 2, 2, 2, 4])
    """

    estimator = estimators.local_reparameterization


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv3DFlipout(_Conv, keras.layers.Conv3D):
    """3-D convolution with a draw of its kernel that signs turn for each example.

    The usual choice: examples are independent, and the pixels of one example keep the
    correlation that their shared kernel gives. See `VariationalLayer` and
    `estimators.flipout`.

    Example:

    >>> layer = Conv3DFlipout(4, 3, seed=0)
    >>> layer(np.ones((2, 4, 4, 4, 3)), training=True).shape
    TensorShape([2, 2, 2, 2, 4])
    """

    estimator = estimators.flipout


class _ConvTranspose(AffineLayer):
    """The transpose of a convolution, which enlarges images. See `_Conv`."""

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
    """2-D transposed convolution with one draw of its kernel for each batch.

    Use it with a posterior that is not mean-field; for a mean-field one, `Conv2DTransposeFlipout`
    has gradients of lower variance. See `VariationalLayer` and `estimators.reparameterization`.

    Example:

    >>> layer = Conv2DTransposeReparameterization(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 10, 10, 4])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class Conv2DTransposeFlipout(_ConvTranspose, keras.layers.Conv2DTranspose):
    """2-D transposed convolution with a draw of its kernel that signs turn for each example.

    The usual choice: examples are independent, and the pixels of one example keep the
    correlation that their shared kernel gives. See `VariationalLayer` and
    `estimators.flipout`.

    Example:

    >>> layer = Conv2DTransposeFlipout(4, 3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 10, 10, 4])
    """

    estimator = estimators.flipout


class _DepthwiseConv(AffineLayer):
    """A convolution of each channel by itself. See `_Conv`."""

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
    """2-D depthwise convolution with one draw of its kernel for each batch.

    Use it with a posterior that is not mean-field; for a mean-field one, `DepthwiseConv2DFlipout`
    has gradients of lower variance. See `VariationalLayer` and `estimators.reparameterization`.

    Example:

    >>> layer = DepthwiseConv2DReparameterization(3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 6, 6, 3])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class DepthwiseConv2DFlipout(_DepthwiseConv, keras.layers.DepthwiseConv2D):
    """2-D depthwise convolution with a draw of its kernel that signs turn for each example.

    The usual choice: examples are independent, and the pixels of one example keep the
    correlation that their shared kernel gives. See `VariationalLayer` and
    `estimators.flipout`.

    Example:

    >>> layer = DepthwiseConv2DFlipout(3, seed=0)
    >>> layer(np.ones((2, 8, 8, 3)), training=True).shape
    TensorShape([2, 6, 6, 3])
    """

    estimator = estimators.flipout
