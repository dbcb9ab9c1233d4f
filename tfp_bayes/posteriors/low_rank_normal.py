"""A multivariate normal with a low-rank covariance."""

import math
from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes.posteriors.posterior import INITIAL_SCALE, Posterior
from tfp_bayes.posteriors.scale import from_scale, to_scale


@keras.saving.register_keras_serializable("tfp_bayes>posteriors")
class LowRankNormal(Posterior):
    """A normal with covariance diag(scale^2) + factor factor^T over one weight tensor.

    Use it where the uncertainty of weights is correlated, which a mean-field posterior cannot
    express; an example is uncertainty about the scale of a whole kernel. It needs the
    Reparameterization layers.

    Args:
        rank: Number of columns of the factor.
        initial_scale: Initial standard deviation of the diagonal part.

    Raises:
        ValueError: If `rank` is not a positive integer or `initial_scale` is not positive.

    Reference:
        Ong, Nott and Smith 2018, "Gaussian Variational Approximation With a Factor Covariance
        Structure", equation 4, arXiv:1701.03208.

    Example:

    >>> layer = DenseReparameterization(3, kernel_posterior="low_rank_normal")
    >>> layer.build((None, 4))
    >>> tuple(layer.kernel_factor.shape)
    (12, 1)
    """

    def __init__(self, rank: int = 1, initial_scale: float = INITIAL_SCALE):
        check_positive(initial_scale=initial_scale)
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ValueError(
                f"Expected a positive integer for `rank`. Received: rank={rank!r}. "
                "Hint: without covariance, use posteriors.MeanFieldNormal."
            )
        self.rank = rank
        self.initial_scale = initial_scale

    def add_variables(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...], initializer
    ) -> dict:
        """Create loc and untransformed_scale, of the weight's shape, and factor (size, rank)."""
        start = keras.initializers.Constant(float(from_scale(self.initial_scale)))
        # Not zeros: there the factor's gradient vanishes by symmetry.
        factor = keras.initializers.RandomNormal(stddev=self.initial_scale / math.sqrt(self.rank))
        return {
            "loc": add_weight("loc", shape, initializer),
            "untransformed_scale": add_weight("untransformed_scale", shape, start),
            "factor": add_weight("factor", (math.prod(shape), self.rank), factor),
        }

    def distribution(self, variables: dict) -> tfd.Distribution:
        """Return the distribution, whose event shape is that of the weight tensor."""
        loc = self.mean(variables)
        scale = to_scale(variables["untransformed_scale"])
        flat = tfd.MultivariateNormalDiagPlusLowRankCovariance(
            loc=tf.reshape(loc, [-1]),
            cov_diag_factor=tf.reshape(tf.square(scale), [-1]),
            cov_perturb_factor=tf.convert_to_tensor(variables["factor"]),
        )
        return tfd.TransformedDistribution(flat, tfb.Reshape(loc.shape))
