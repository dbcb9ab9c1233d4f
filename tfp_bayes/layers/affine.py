"""The base class of layers with a random kernel and bias, such as dense layers and convolutions."""

import keras
import tensorflow as tf

from tfp_bayes._plumbing.seeds import fold_in
from tfp_bayes.layers.random_weight import Draw
from tfp_bayes.layers.variational import VariationalLayer


class AffineLayer(VariationalLayer):
    """A Keras layer whose affine map has a kernel and bias drawn from a posterior.

    A subclass defines

    - `kernel_shape(input_shape)` and `linear_map(inputs, kernel)`, the layer's linear algebra;
    - `estimator`, the function in `estimators` that computes the outputs in training.

    Arguments and errors are those of `VariationalLayer`.
    """

    needs_factorized = True
    kernel_initializer_name = "kernel_initializer"

    # Defined by subclasses.

    def kernel_shape(self, input_shape: tuple) -> tuple[int, ...]:
        """Return the shape of the kernel."""
        raise NotImplementedError

    def linear_map(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Apply a kernel to inputs of the same dtype, without bias or activation."""
        raise NotImplementedError

    def estimator(
        self, inputs: tf.Tensor, kernel: Draw, bias: Draw | None, seed: tf.Tensor
    ) -> tf.Tensor:
        """Compute the training outputs before the activation."""
        raise NotImplementedError

    # Common to all subclasses.

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in inputs and outputs."""
        return 1 if getattr(self, "data_format", None) == "channels_first" else -1

    @property
    def input_sign_axes(self) -> tuple[int, ...]:
        """Axes of the inputs along which Flipout draws signs, besides the batch axis."""
        return (self.channel_axis,)

    @property
    def output_sign_axes(self) -> tuple[int, ...]:
        """Axes of the outputs along which Flipout draws signs, besides the batch axis."""
        return (self.channel_axis,)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the parameters of the posteriors and of the priors."""
        output_shape = self.compute_output_shape(input_shape)  # Keras checks the shape here
        axis = self.channel_axis
        self.input_spec: keras.layers.InputSpec = keras.layers.InputSpec(
            min_ndim=self.input_spec.min_ndim, axes={axis: input_shape[axis]}
        )
        kernel_initializer = getattr(self, self.kernel_initializer_name)
        self.add_random_weights(
            kernel=(self.kernel_shape(input_shape), kernel_initializer),
            bias=((output_shape[axis],), self.bias_initializer) if self.use_bias else None,
        )
        self.built = True

    @property
    def kernel(self) -> tf.Tensor:
        """The mean of the kernel."""
        return self.random_kernel.mean()

    @property
    def bias(self) -> tf.Tensor | None:
        """The mean of the bias, or None if there is no bias."""
        return self.random_bias and self.random_bias.mean()

    def affine_map(self, inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
        """Apply a kernel and a bias in the dtype of the inputs."""
        outputs = self.linear_map(inputs, tf.cast(kernel, inputs.dtype))
        if bias is None:
            return outputs
        return self.add_bias(outputs, tf.cast(bias, outputs.dtype))

    def add_bias(self, outputs: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """Add a bias of the same dtype to the outputs."""
        shape = [1] * outputs.shape.rank
        shape[self.channel_axis] = -1
        return outputs + tf.reshape(bias, shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return outputs under one draw of the weights; in training, those of the estimator."""
        if not inputs.dtype.is_floating:  # kernels cast to an integer dtype would be truncated
            inputs = tf.cast(inputs, self.compute_dtype)
        seed = self.draw_seed(training)
        draws = self.draw_weights(seed)
        kernel, bias = draws["kernel"], draws.get("bias")
        if training:
            outputs = self.estimator(inputs, kernel, bias, fold_in(seed, len(self.beliefs)))
            self.add_kl(draws, seed)
        else:
            outputs = self.affine_map(inputs, kernel.value, bias and bias.value)
        return outputs if self.activation is None else self.activation(outputs)
