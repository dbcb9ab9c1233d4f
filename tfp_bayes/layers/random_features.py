"""Random Fourier features: a linear model of them is a Gaussian process."""

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.seeds import as_seed


@keras.saving.register_keras_serializable("tfp_bayes")
class RandomFeatures(keras.layers.Layer):
    """Random Fourier features, whose inner products are a Gaussian kernel.

    Use it before the last Dense layer of a classifier, as SNGP does, or before a `BayesianLinear`:
    a linear layer with independent normal weights on these features is a Gaussian process of the
    inputs with kernel exp(-||h - h'||^2 / (2 l^2)), up to an error of order 1 / sqrt(D). Far from
    all training data its predictions return to the prior.

    Features are sqrt(2 / D) cos(W h / l + b). W has standard normal entries in orthogonal blocks,
    b is uniform on [0, 2 pi]; both are drawn once, fixed, and saved with the model.

    Args:
        num_features: Integer D.
        length_scale: l, the distance of inputs at which predictions start to differ; None takes
            the square root of the number F of inputs, for inputs that are each about 1 in size.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Randomness:
        None when called: features are drawn when the layer is built.

    Raises:
        ValueError: If an argument is none of these, or the last axis of inputs is unknown.

    Reference:
        Rahimi and Recht 2007, "Random Features for Large-Scale Kernel Machines", algorithm 1; Yu
        et al. 2016, "Orthogonal Random Features", section 3, arXiv:1610.09072; Liu et al. 2020,
        "Simple and Principled Uncertainty Estimation" (SNGP), equation 7, arXiv:2006.10108.

    Example:

    >>> phi = RandomFeatures(4096, length_scale=1.0, seed=0)(np.array([[0.0, 0.0], [1.0, 0.0]]))
    >>> np.round(phi @ keras.ops.transpose(phi), 1)  # off the diagonal exp(-1/2)
    array([[1. , 0.6],
           [0.6, 1. ]], dtype=float32)
    """

    def __init__(
        self,
        num_features: int = 1024,
        length_scale: float | None = None,
        *,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_integers(1, num_features=num_features)
        if length_scale is not None:
            check_positive(length_scale=length_scale)
        if seed is not None:
            check_integers(0, seed=seed)
        self.num_features = int(num_features)
        self.length_scale = length_scale
        self.seed = seed
        self.supports_masking = True

    def build(self, input_shape: tuple) -> None:
        """Draws the features."""
        size = input_shape[-1]
        if size is None:
            raise ValueError(
                f"Expected inputs whose last axis is known for layer {self.name!r}. Received: "
                f"shape {tuple(input_shape)}. Hint: keras.Input((num_inputs,))."
            )
        generator = np.random.default_rng(as_seed(self.seed).view("uint32"))
        weights = orthogonal_normal(self.num_features, size, generator)
        offsets = generator.uniform(0, 2 * np.pi, self.num_features)
        for name, values in (("kernel", weights.T), ("offset", offsets)):
            weight = self.add_weight(
                shape=values.shape,
                initializer=lambda shape, dtype, v=values: tf.cast(v, dtype),
                trainable=False,
                autocast=False,  # half precision would round angles
                name=name,
            )
            setattr(self, name, weight)
        self._divisor = np.sqrt(size) if self.length_scale is None else self.length_scale

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns features (..., D) of inputs (..., F)."""
        kernel = tf.convert_to_tensor(self.kernel)
        angles = tf.tensordot(tf.cast(inputs, kernel.dtype) / self._divisor, kernel, 1)
        features = np.sqrt(2 / self.num_features) * tf.cos(angles + self.offset)
        return tf.cast(features, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the input's shape with D in the place of F."""
        return (*input_shape[:-1], self.num_features)

    def get_config(self) -> dict:
        """Returns the layer's constructor arguments, plain JSON."""
        return {
            **super().get_config(),
            "num_features": self.num_features,
            "length_scale": self.length_scale,
            "seed": self.seed,
        }


def orthogonal_normal(rows: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """Draws vectors (rows, size) that are standard normal each and orthogonal `size` at a time.

    Their kernels have a smaller variance than those of independent ones.
    """
    blocks = []
    for _ in range(-(-rows // size)):
        q, r = np.linalg.qr(generator.normal(size=(size, size)))
        blocks.append((q * np.sign(np.diag(r))).T)  # uniform over all rotations
    lengths = np.sqrt(generator.chisquare(size, rows))
    return lengths[:, None] * np.concatenate(blocks)[:rows]
