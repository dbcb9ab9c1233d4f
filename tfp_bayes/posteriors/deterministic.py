"""A point estimate."""

from collections.abc import Callable

import keras
from tensorflow_probability import distributions as tfd

from tfp_bayes.posteriors.posterior import Posterior


@keras.saving.register_keras_serializable("tfp_bayes>posteriors")
class Deterministic(Posterior):
    """A point mass: the maximum a posteriori (MAP) estimate under the layer's prior.

    Use it for weights that need no uncertainty; it is the default for biases. Its KL divergence
    is -log p(w). Up to a constant that is an L2 penalty for a Gaussian prior and an L1 penalty
    for a Laplace prior.

    Reference:
        MacKay 1992, "A Practical Bayesian Framework for Backpropagation Networks".

    Example:

    >>> layer = DenseFlipout(3, bias_posterior="deterministic")  # the default
    >>> layer.build((None, 4))
    >>> [weight.name for weight in layer.trainable_weights]
    ['kernel_loc', 'kernel_untransformed_scale', 'bias_loc']
    """

    factorized = True

    def add_variables(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...], initializer
    ) -> dict:
        """Create loc, of the weight tensor's shape."""
        return {"loc": add_weight("loc", shape, initializer)}

    def distribution(self, variables: dict) -> tfd.Distribution:
        """Return the distribution; its density at its value is defined as 1."""
        return tfd.Deterministic(self.mean(variables))
