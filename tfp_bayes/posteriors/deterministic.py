"""A single value."""

from collections.abc import Callable

import keras
from tensorflow_probability import distributions as tfd

from tfp_bayes.posteriors.posterior import Posterior


@keras.saving.register_keras_serializable("tfp_bayes>posteriors")
class Deterministic(Posterior):
    """All mass on one value: a maximum a posteriori (MAP) estimate under the layer's prior.

    Use it for the weights that need no uncertainty, as biases by default. Its KL divergence is
    -log p(w): up to a constant the L2 penalty of a Gaussian prior, the L1 of a Laplace prior.

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
        """Makes loc, of the weight's shape."""
        return {"loc": add_weight("loc", shape, initializer)}

    def distribution(self, variables: dict) -> tfd.Distribution:
        """Returns the distribution, whose density counts as 1 at its value."""
        return tfd.Deterministic(self.mean(variables))
