"""The Gaussian prior whose scale is learned."""

import math
from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.softplus import inverse_softplus
from tfp_bayes.priors.prior import Prior

_HYPERPRIORS = (None, "half_cauchy", "inverse_gamma")


@keras.saving.register_keras_serializable("tfp_bayes>priors")
class HierarchicalNormal(Prior):
    """Normal(0, scale) with one scale for the whole weight tensor, learned with the weights.

    Use it when the right scale is unknown and may differ between layers. With `hyperprior=None`
    the scale is trained to maximize the evidence lower bound (empirical Bayes). With a hyperprior
    the scale has a log-normal posterior, and its KL divergence is added to the layer's.

    Args:
        initial_scale: Initial value of the scale. With a hyperprior it is the initial median of
            the scale's posterior.
        hyperprior: None; "half_cauchy", a prior on the scale; or "inverse_gamma", a prior on the
            variance.
        hyperprior_scale: Scale parameter of the hyperprior.
        concentration: Concentration of the inverse gamma hyperprior.

    Raises:
        ValueError: If `hyperprior` is unknown, or another argument is not a positive number.

    Reference:
        MacKay 1992 (empirical Bayes); Louizos et al. 2017, "Bayesian Compression for Deep
        Learning", section 4, arXiv:1705.08665 (half-Cauchy).

    Example:

    >>> layer = DenseFlipout(10, kernel_prior="hierarchical_normal")
    >>> layer.build((None, 4))
    >>> round(float(layer.kernel_untransformed_prior_scale), 3)  # softplus of it is 1
    0.541
    """

    def __init__(
        self,
        initial_scale: float = 1.0,
        hyperprior: str | None = None,
        hyperprior_scale: float = 1.0,
        concentration: float = 2.0,
    ):
        check_positive(
            initial_scale=initial_scale,
            hyperprior_scale=hyperprior_scale,
            concentration=concentration,
        )
        if hyperprior not in _HYPERPRIORS:
            raise ValueError(
                f"Expected one of {_HYPERPRIORS} for `hyperprior`. "
                f"Received: hyperprior={hyperprior!r}. Hint: None is empirical Bayes."
            )
        self.initial_scale = initial_scale
        self.hyperprior = hyperprior
        self.hyperprior_scale = hyperprior_scale
        self.concentration = concentration

    def add_variables(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...]
    ) -> dict:
        """Create the scale, or the parameters of its log-normal posterior."""
        constant = keras.initializers.Constant
        if self.hyperprior is None:
            start = float(inverse_softplus(self.initial_scale))
            name = "untransformed_prior_scale"
            return {name: add_weight(name, (), constant(start))}
        return {
            "log_prior_scale_loc": add_weight(
                "log_prior_scale_loc", (), constant(math.log(self.initial_scale))
            ),
            "log_prior_scale_untransformed_scale": add_weight(
                "log_prior_scale_untransformed_scale", (), constant(float(inverse_softplus(0.1)))
            ),
        }

    def condition(
        self, variables: dict, seed: tf.Tensor, dtype: tf.DType
    ) -> tuple[tfd.Distribution, tf.Tensor]:
        """Return the prior given one draw of its scale, and the KL divergence of the scale."""
        if self.hyperprior is None:
            scale = tf.math.softplus(variables["untransformed_prior_scale"])
            return tfd.Normal(tf.zeros_like(scale), scale), tf.constant(0, dtype)
        loc = tf.convert_to_tensor(variables["log_prior_scale_loc"])
        spread = tf.math.softplus(variables["log_prior_scale_untransformed_scale"])
        # The square of a log-normal scale is log-normal too, so the posterior can be compared
        # with a hyperprior on the scale or on the variance.
        power = 1 if self.hyperprior == "half_cauchy" else 2
        posterior = tfd.LogNormal(power * loc, power * spread)
        number = tf.cast(self.hyperprior_scale, dtype)
        if self.hyperprior == "half_cauchy":
            hyperprior = tfd.HalfCauchy(tf.zeros_like(number), number)
        else:
            hyperprior = tfd.InverseGamma(tf.cast(self.concentration, dtype), number)
        draw = posterior.sample(seed=seed)
        kl = posterior.log_prob(draw) - hyperprior.log_prob(draw)
        return tfd.Normal(tf.zeros_like(draw), draw ** (1 / power)), kl
