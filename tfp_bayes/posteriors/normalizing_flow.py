"""A normal transformed by invertible networks."""

import math
from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes.posteriors.posterior import INITIAL_SCALE, Posterior
from tfp_bayes.posteriors.scale import from_scale, to_scale

MEAN_SAMPLES = 1000


@keras.saving.register_keras_serializable("tfp_bayes>posteriors")
class NormalizingFlow(Posterior):
    """A diagonal normal transformed by affine coupling layers (RealNVP).

    Its density can be skewed, curved or multimodal. Use it on small layers (a last layer, a small
    regression network) where the true posterior is far from a normal. It needs the
    Reparameterization layers. Before training it equals a `MeanFieldNormal`. Its mean has no
    closed form and is computed as the average of 1,000 fixed draws.

    Args:
        num_couplings: Number of affine coupling layers. Each one transforms half of the weights
            given the other half.
        hidden_units: Number of hidden units of the network inside each coupling layer.
        initial_scale: Initial standard deviation of every weight.

    Raises:
        ValueError: If `num_couplings` or `hidden_units` is not a positive integer,
            `initial_scale` is not positive, or the weight tensor has a single element, which
            cannot be split into halves.

    Reference:
        Dinh et al. 2017, "Density Estimation Using Real NVP", equation 7, arXiv:1605.08803;
        Louizos and Welling 2017, arXiv:1703.01961, for flows over weights.

    Example:

    >>> layer = DenseReparameterization(3, kernel_posterior="normalizing_flow")
    >>> layer(np.ones((2, 4))).shape
    TensorShape([2, 3])
    """

    def __init__(
        self, num_couplings: int = 4, hidden_units: int = 16, initial_scale: float = INITIAL_SCALE
    ):
        check_integers(1, num_couplings=num_couplings, hidden_units=hidden_units)
        check_positive(initial_scale=initial_scale)
        self.num_couplings = num_couplings
        self.hidden_units = hidden_units
        self.initial_scale = initial_scale

    def add_variables(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...], initializer
    ) -> dict:
        """Create loc, untransformed_scale and the weights of each coupling network."""
        size = math.prod(shape)
        if size < 2:
            raise ValueError(
                "Expected a weight tensor of two or more elements for a NormalizingFlow. "
                f"Received: shape={tuple(shape)}. Hint: use MeanFieldNormal there."
            )
        start = keras.initializers.Constant(float(from_scale(self.initial_scale)))
        variables = {
            "loc": add_weight("loc", shape, initializer),
            "untransformed_scale": add_weight("untransformed_scale", shape, start),
        }
        given, moved, hidden = size // 2, size - size // 2, self.hidden_units
        for i in range(self.num_couplings):
            for name, parts, start in (
                (f"coupling_{i}_hidden", (given, hidden), keras.initializers.GlorotUniform()),
                (f"coupling_{i}_bias", (hidden,), "zeros"),
                # With zeros each coupling layer starts as the identity.
                (f"coupling_{i}_out", (hidden, 2 * moved), "zeros"),
            ):
                variables[name] = add_weight(name, parts, start)
        return variables

    def distribution(self, variables: dict) -> tfd.Distribution:
        """Return the distribution, whose event shape is that of the weight tensor."""
        loc = tf.convert_to_tensor(variables["loc"])
        scale = to_scale(variables["untransformed_scale"])
        size = math.prod(loc.shape)
        # Couplings act before shift and scale, so they see standardized numbers of size one.
        bijectors = [tfb.Reshape(loc.shape), tfb.Shift(tf.reshape(loc, [-1]))]
        bijectors.append(tfb.Scale(tf.reshape(scale, [-1])))
        for i in range(self.num_couplings):
            bijectors.append(tfb.RealNVP(size // 2, shift_and_log_scale_fn=_coupling(variables, i)))
            bijectors.append(tfb.Permute(list(range(size))[::-1]))
        base = tfd.MultivariateNormalDiag(scale_diag=tf.ones([size], loc.dtype))
        return tfd.TransformedDistribution(base, tfb.Chain(bijectors))

    def mean(self, variables: dict) -> tf.Tensor:
        """Return the average of 1,000 draws that are the same in every call."""
        return tf.reduce_mean(self.distribution(variables).sample(MEAN_SAMPLES, seed=[0, 0]), 0)


def _coupling(variables: dict, i: int) -> Callable:
    """Return the network of coupling `i`, from the fixed half to shift and log scale."""

    def shift_and_log_scale(given: tf.Tensor, num_moved: int, **_) -> tuple[tf.Tensor, tf.Tensor]:
        hidden = tf.tanh(
            tf.linalg.matvec(variables[f"coupling_{i}_hidden"], given, transpose_a=True)
            + variables[f"coupling_{i}_bias"]
        )
        out = tf.linalg.matvec(variables[f"coupling_{i}_out"], hidden, transpose_a=True)
        shift, log_scale = tf.split(out, [num_moved, num_moved], axis=-1)
        return shift, tf.tanh(log_scale)  # bounded, so a coupling scales by at most e

    return shift_and_log_scale
