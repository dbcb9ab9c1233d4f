"""A weight tensor of a layer that has a distribution instead of a value."""

from typing import NamedTuple

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_bayes.layers.prior_term import total
from tfp_bayes.posteriors import Posterior
from tfp_bayes.priors import Prior


class Draw(NamedTuple):
    """One sample of a weight tensor, and the distribution that it came from."""

    value: tf.Tensor
    distribution: tfd.Distribution

    @property
    def is_point(self) -> bool:
        """Whether the distribution is a point mass."""
        return isinstance(self.distribution, tfd.Deterministic)


class RandomWeight:
    """A random weight tensor with a posterior q and a prior p.

    Its parameters are weights of the layer, named `{name}_loc`, `{name}_untransformed_scale` and
    so on. They are also attributes of the layer.

    Args:
        layer: Layer that owns the weight; its `build` constructs this object.
        name: Name of the weight, such as "kernel" or "bias".
        shape: Shape of the weight tensor.
        initializer: Initializer of loc.
        posterior: Variational family of q.
        prior: Prior p, or None for a flat prior, which needs a point estimate as posterior.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        name: str,
        shape: tuple[int, ...],
        initializer: keras.initializers.Initializer,
        posterior: Posterior,
        prior: Prior | None,
    ):
        def add_weight(
            part: str, shape: tuple[int, ...], initializer, trainable: bool = True
        ) -> keras.Variable:
            # Never cast to half precision: a scale of 0.0067 and sums of logarithms need float32.
            variable = layer.add_weight(
                name=f"{name}_{part}",
                shape=shape,
                initializer=initializer,
                trainable=trainable,
                autocast=False,
            )
            setattr(layer, variable.name, variable)
            return variable

        self.shape = tuple(shape)
        self.posterior = posterior
        self.prior = prior
        self.variables = posterior.add_variables(add_weight, self.shape, initializer)
        self.prior_variables = {} if prior is None else prior.add_variables(add_weight, self.shape)

    def distribution(self) -> tfd.Distribution:
        """Return the current q."""
        return self.posterior.distribution(self.variables)

    def mean(self) -> tf.Tensor:
        """Return the mean of q."""
        return self.posterior.mean(self.variables)

    def draw(self, seed: tf.Tensor) -> Draw:
        """Draw a sample from q; `seed` is int32 (2,)."""
        q = self.distribution()
        return Draw(self.posterior.sample(q, seed), q)

    def kl_divergence(self, draw: Draw, seed: tf.Tensor) -> tf.Tensor:
        """Return KL(q || p) in nats, summed over elements.

        Args:
            draw: A draw w of the weight. If TensorFlow Probability has no closed form, the result
                is log q(w) - log p(w), an unbiased estimate of the KL divergence.
            seed: int32 (2,), used by priors whose scale is uncertain.
        """
        value, q = draw
        dtype = tf.float64 if value.dtype == tf.float64 else tf.float32
        if self.prior is None:
            return tf.constant(0, dtype)
        p, kl = self.prior.condition(self.prior_variables, seed, value.dtype)
        kl = total(kl)
        try:
            kl += total(tfd.kl_divergence(q, p))
        except NotImplementedError:
            kl += total(q.log_prob(value)) - total(p.log_prob(value))
        return tf.cast(kl, dtype)
