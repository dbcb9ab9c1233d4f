"""A weight constraint that bounds the spectral norm of a kernel."""

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.configured import check_positive

_NUM_SQUARINGS = 8  # computes the 256th power of W^T W


@keras.saving.register_keras_serializable("tfp_bayes")
class SpectralNormConstraint(keras.constraints.Constraint):
    """A constraint that keeps the spectral norm of a kernel at or below a bound.

    Use it as `kernel_constraint` of Dense layers and convolutions so that distances between
    features reflect distances between inputs, as SNGP and `FeatureDensity` need. In residual
    networks with a bound below 1, different inputs also keep different features. A kernel whose
    norm exceeds the bound after an optimizer step is scaled down, W <- W min(1, bound / norm).
    Other kernels do not change. `keras.layers.SpectralNormalization` always divides by the norm
    and therefore enlarges small kernels.

    The bound is guaranteed, because an upper bound takes the place of the norm:

    - For a kernel (F, U) of a Dense layer, `norm_bound` is at most min(F, U)^(1/512) times the
      norm. With 1,024 units it is at most 1.4% too large, and usually the error is much smaller.
    - For a kernel (..., F, U) of a convolution with k positions (9 for 3 x 3), the norm of the
      convolution of images of any size, with zero padding and any stride, is at most sqrt(k) times
      that of the kernel reshaped to a matrix with U columns or with F columns. The smaller of the
      two is used. If k > 1 it can be too large by up to sqrt(k). Use a larger bound than for Dense
      layers to compensate.

    The constraint does not cover activations and normalization layers, which also scale their
    inputs. It does not hold for kernels of EinsumDense and attention layers: their axes look like
    those of a convolution, but they are different maps.

    Args:
        bound: Upper bound of the norm, a positive number such as 0.95.

    Raises:
        ValueError: If `bound` is not positive, or a weight has fewer than two axes.

    Reference:
        Liu et al. 2020, equation 10, arXiv:2006.10108; Delattre et al. 2023, "Efficient Bound of
        Lipschitz Constant for Convolutional Layers by Gram Iteration", theorem 1,
        arXiv:2305.16173; Singla and Feizi 2021, theorem 1, arXiv:1911.10258.

    Example:

    >>> layer = keras.layers.Dense(3, kernel_constraint=SpectralNormConstraint(0.95))
    >>> kernel = SpectralNormConstraint(0.5)(np.diag([4.0, 2.0]))
    >>> np.round(kernel, 3)
    array([[0.5 , 0.  ],
           [0.  , 0.25]])
    """

    def __init__(self, bound: float = 0.95):
        check_positive(bound=bound)
        self.bound = float(bound)

    def __call__(self, w: tf.Tensor) -> tf.Tensor:
        """Return the kernel, scaled down if its norm exceeds the bound."""
        w = keras.ops.convert_to_tensor(w)
        factor = tf.minimum(1.0, self.bound / self.norm_bound(w))
        return w * tf.cast(factor, w.dtype)

    def norm_bound(self, w: tf.Tensor) -> tf.Tensor:
        """Return an upper bound of the spectral norm of a kernel, a float32 scalar."""
        shape = tuple(w.shape)
        if len(shape) < 2:
            raise ValueError(
                "Expected a kernel, with at least two axes, to constrain. Received: shape "
                f"{shape}. Hint: kernel_constraint=, not bias_constraint=."
            )
        kernel = tf.cast(keras.ops.convert_to_tensor(w), tf.float32)
        by_output = _matrix_norm(tf.reshape(kernel, (-1, shape[-1])))
        if len(shape) == 2:
            return by_output
        by_input = _matrix_norm(tf.reshape(tf.linalg.matrix_transpose(kernel), (-1, shape[-2])))
        return tf.minimum(by_output, by_input) * float(np.sqrt(np.prod(shape[:-2])))

    def get_config(self) -> dict:
        """Return the constructor arguments as plain JSON."""
        return {"bound": self.bound}


def _matrix_norm(matrix: tf.Tensor) -> tf.Tensor:
    """Return trace((W^T W)^p)^(1 / (2 p)), p = 256, a bound of the largest singular value."""
    rows, columns = matrix.shape
    gram = tf.matmul(matrix, matrix, transpose_a=rows >= columns, transpose_b=rows < columns)
    trace = tf.linalg.trace(gram)
    is_zero = trace < np.finfo("float32").tiny  # squares underflow, so a norm of 1e-19 counts as 0
    result = tf.sqrt(trace)
    for i in range(1, _NUM_SQUARINGS + 1):
        gram /= trace
        gram = gram @ gram
        trace = tf.linalg.trace(gram)
        result *= trace ** (0.5 ** (i + 1))
    return tf.where(is_zero, 0.0, result)
