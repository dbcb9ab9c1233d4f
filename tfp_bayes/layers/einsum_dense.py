"""Dense layers of any number of axes with random weights."""

import re

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import requested_weights
from tfp_bayes.layers import estimators
from tfp_bayes.layers.affine import AffineLayer


class _EinsumDense(AffineLayer, keras.layers.EinsumDense):
    """y = activation(einsum(equation, x, W) + b) with random W and b.

    Takes the arguments of `keras.layers.EinsumDense` and those of `VariationalLayer`.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the parameters of the posterior and what the prior learns."""
        plain = keras.layers.EinsumDense(
            self.equation,
            self.partial_output_shape,
            bias_axes=self.bias_axes,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
        )
        weights = requested_weights(plain, input_shape)  # here Keras reads the equation
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape))
        self.add_random_weights(kernel=weights["kernel"], bias=weights.get("bias"))
        self.built = True

    def linear_map(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return keras.ops.einsum(self.equation, inputs, kernel)

    def add_bias(self, outputs: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """Adds a bias of the outputs' dtype."""
        # As in the Keras layer, which takes another axis than broadcasting does for some shapes.
        return keras.ops.add(outputs, bias)

    @property
    def input_sign_axes(self) -> tuple[int, ...]:
        """Axes of the inputs that the kernel has too."""
        inputs, kernel, _ = _parts(self.equation)
        return _shared_axes(inputs, kernel)

    @property
    def output_sign_axes(self) -> tuple[int, ...]:
        """Axes of the outputs that the kernel has too, and the bias if there is one.

        Along another axis the bias is one number, which must not change its sign.
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
    """Splits "ab...,bc->ac..." into inputs, kernel and outputs, with "." for the ellipsis."""
    return re.split(",|->", equation.replace("...", ".").replace(" ", ""))


def _shared_axes(axes: str, kernel: str) -> tuple[int, ...]:
    # After an ellipsis, axes are counted from the end.
    start = -len(axes) if axes.startswith(".") else 0
    return tuple(start + i for i, axis in enumerate(axes) if axis in kernel)


@keras.saving.register_keras_serializable("tfp_bayes")
class EinsumDenseReparameterization(_EinsumDense):
    """Dense layer of any axes that trains with one draw of its weights for each batch.

    Use it with a posterior that is not mean-field; for a mean-field one, `EinsumDenseFlipout` has
    gradients of lower variance. See `VariationalLayer` and `estimators.reparameterization`.

    Example:

    >>> layer = EinsumDenseReparameterization("abc,cde->abde", (None, 2, 3), seed=0)
    >>> layer(np.ones((2, 5, 4)), training=True).shape
    TensorShape([2, 5, 2, 3])
    """

    estimator = estimators.reparameterization
    needs_factorized = False


@keras.saving.register_keras_serializable("tfp_bayes")
class EinsumDenseLocalReparameterization(_EinsumDense):
    """Dense layer of any axes that trains with noise on its outputs.

    Use it where gradients of low variance matter more than the correlation between positions that
    a shared kernel gives, which is lost in training. See `VariationalLayer` and
    `estimators.local_reparameterization`.

    Raises:
        ValueError: If the equation sums over an axis of the inputs that the kernel does not have:
            the variance of such a sum is not the sum of variances. Or see `VariationalLayer`.

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
    """Dense layer of any axes with a draw of its weights that signs turn for each example.

    The usual choice: examples are independent, and the positions of one example keep the
    correlation that their shared kernel gives. See `VariationalLayer` and `estimators.flipout`;
    signs are drawn for the axes that the kernel has.

    Example:

    >>> layer = EinsumDenseFlipout("abc,cd->abd", (None, 3), bias_axes="d", seed=0)
    >>> y = layer(np.ones((2, 5, 4)), training=True)
    >>> bool(np.all(y[0, 0] == y[0, 1])), bool(np.all(y[0] == y[1]))
    (True, False)
    """

    estimator = estimators.flipout
