"""Einsum dense layers with random weights."""

import re

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import requested_weights
from tfp_bayes.layers import estimators
from tfp_bayes.layers.affine import AffineLayer


class _EinsumDense(AffineLayer, keras.layers.EinsumDense):
    """y = activation(einsum(equation, x, W) + b) with random W and b.

    It takes the arguments of `keras.layers.EinsumDense` and those of `VariationalLayer`.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the parameters of the posteriors and of the priors."""
        plain = keras.layers.EinsumDense(
            self.equation,
            self.partial_output_shape,
            bias_axes=self.bias_axes,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
        )
        weights = requested_weights(plain, input_shape)  # Keras parses the equation here
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape))
        self.add_random_weights(kernel=weights["kernel"], bias=weights.get("bias"))
        self.built = True

    def linear_map(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return keras.ops.einsum(self.equation, inputs, kernel)

    def add_bias(self, outputs: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """Add a bias of the same dtype to the outputs."""
        # As in the Keras layer, where the bias weight already has the shape to broadcast.
        return keras.ops.add(outputs, bias)

    @property
    def input_sign_axes(self) -> tuple[int, ...]:
        """Axes that inputs and kernel share, by position in the inputs."""
        inputs, kernel, _ = _parts(self.equation)
        return _shared_axes(inputs, kernel)

    @property
    def output_sign_axes(self) -> tuple[int, ...]:
        """Axes that outputs, kernel and any bias share, by position in the outputs.

        Along other axes a bias is constant, so its sign must not vary there.
        """
        _, kernel, outputs = _parts(self.equation)
        if self.use_bias:
            kernel = "".join(axis for axis in kernel if axis in self.bias_axes)
        return _shared_axes(outputs, kernel)

    @property
    def use_bias(self) -> bool:
        """Whether there is a bias."""
        return self.bias_axes is not None


def _parts(equation: str) -> list[str]:
    """Split "ab...,bc->ac..." into inputs, kernel and outputs, with "." for each ellipsis."""
    return re.split(",|->", equation.replace("...", ".").replace(" ", ""))


def _shared_axes(axes: str, kernel: str) -> tuple[int, ...]:
    # After an ellipsis, count axes from the end.
    start = -len(axes) if axes.startswith(".") else 0
    return tuple(start + i for i, axis in enumerate(axes) if axis in kernel)


@keras.saving.register_keras_serializable("tfp_bayes")
class EinsumDenseReparameterization(_EinsumDense):
    """Einsum dense layer that trains with one draw of its weights per batch.

    Use it with a posterior that is not mean-field. For a mean-field posterior,
    `EinsumDenseFlipout` has gradients of lower variance. See `VariationalLayer` and
    `estimators.reparameterization`.

    Example:

    >>> layer = EinsumDenseReparameterization("abc,cde->abde", (None, 2, 3), seed=0)
    >>> layer(np.ones((2, 5, 4)), training=True).shape
    TensorShape([2, 5, 2, 3])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class EinsumDenseLocalReparameterization(_EinsumDense):
    """Einsum dense layer that trains with noise added to its outputs.

    Use it where low gradient variance matters more than the correlation between positions that
    share a kernel, which this estimator ignores in training. See `VariationalLayer` and
    `estimators.local_reparameterization`.

    Raises:
        ValueError: If the equation sums over an axis of the inputs that the kernel does not have,
            because the variance of such a sum is not the sum of the variances. See also
            `VariationalLayer`.

    Example:

    >>> layer = EinsumDenseLocalReparameterization("...b,bc->...c", 3, bias_axes="c", seed=0)
    >>> layer(np.ones((2, 4)), training=True).shape
    TensorShape([2, 3])
    """

    estimator = estimators.local_reparameterization

    def __init__(self, equation: str, *args, seed: int | None = None, **kwargs):
        super().__init__(equation, *args, seed=seed, **kwargs)
        inputs, kernel, outputs = _parts(equation)
        summed = sorted(set(inputs) - set(kernel) - set(outputs))
        if summed:
            raise ValueError(
                f"Expected an `equation` for {self.name!r} that sums over axes of the kernel only. "
                f"Received: equation={equation!r}, which sums the inputs over {summed}. "
                "Hint: use EinsumDenseFlipout, or sum before the layer."
            )


@keras.saving.register_keras_serializable("tfp_bayes")
class EinsumDenseFlipout(_EinsumDense):
    """Einsum dense layer that trains with Flipout: one weight draw, random signs per example.

    The usual choice: the noise of different examples is uncorrelated, and the positions of one
    example keep the correlation that comes from their shared kernel. Signs are drawn along the
    axes of the kernel. See `VariationalLayer` and `estimators.flipout`.

    Example:

    >>> layer = EinsumDenseFlipout("abc,cd->abd", (None, 3), bias_axes="d", seed=0)
    >>> y = layer(np.ones((2, 5, 4)), training=True)
    >>> bool(np.all(y[0, 0] == y[0, 1])), bool(np.all(y[0] == y[1]))
    (True, False)
    """

    estimator = estimators.flipout
