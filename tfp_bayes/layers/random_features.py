"""Random Fourier features, on which a linear model approximates a Gaussian process."""

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.seeds import as_seed


@keras.saving.register_keras_serializable("tfp_bayes")
class RandomFeatures(keras.layers.Layer):
    """Random Fourier features, whose inner products approximate a Gaussian kernel.

    Use it before the last Dense layer of a classifier, as SNGP does, or before a `BayesianLinear`.
    A linear layer with independent normal weights on these features is a Gaussian process of the
    inputs with kernel exp(-||h - h'||^2 / (2 l^2)), up to an error of order 1 / sqrt(D). Far from
    all training data its predictions return to the prior.

    The features are sqrt(2 / D) cos(W h / l + b). W consists of orthogonal blocks whose rows are
    standard normal vectors, and b is uniform on [0, 2 pi]. Both are drawn once when the layer is
    built, are never trained, and are saved with the model.

    Args:
        num_features: Number of features D.
        length_scale: Length scale l, the distance between inputs at which predictions start to
            differ. None uses sqrt(F) for F inputs, which suits inputs of standard deviation 1.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Randomness:
        None in a call. The features are drawn when the layer is built.

    Raises:
        ValueError: If `num_features` is not a positive integer, `length_scale` is not positive,
            `seed` is not an integer of at least 0, or the last axis of the inputs is unknown.

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
        """Draw W and b."""
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
                autocast=False,  # half precision would round the angles
                name=name,
            )
            setattr(self, name, weight)
        self._divisor = np.sqrt(size) if self.length_scale is None else self.length_scale

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return features (..., D) of inputs (..., F)."""
        kernel = tf.convert_to_tensor(self.kernel)
        angles = tf.tensordot(tf.cast(inputs, kernel.dtype) / self._divisor, kernel, 1)
        features = np.sqrt(2 / self.num_features) * tf.cos(angles + self.offset)
        return tf.cast(features, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Return the input shape with D in place of F."""
        return (*input_shape[:-1], self.num_features)

    def get_config(self) -> dict:
        """Return the layer's constructor arguments as plain JSON."""
        return {
            **super().get_config(),
            "num_features": self.num_features,
            "length_scale": self.length_scale,
            "seed": self.seed,
        }


def orthogonal_normal(rows: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """Draw standard normal vectors (rows, size) that are orthogonal within blocks of `size`.

    Their kernel estimates have a lower variance than those of independent vectors.
    """
    blocks = []
    for _ in range(-(-rows // size)):
        q, r = np.linalg.qr(generator.normal(size=(size, size)))
        blocks.append((q * np.sign(np.diag(r))).T)  # uniformly distributed orthogonal matrix
    lengths = np.sqrt(generator.chisquare(size, rows))
    return lengths[:, None] * np.concatenate(blocks)[:rows]
