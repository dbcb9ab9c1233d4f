"""The base class of layers whose weights have distributions."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfp_bayes import posteriors, priors
from tfp_bayes._plumbing.checks import check_absent
from tfp_bayes._plumbing.seeds import fold_in
from tfp_bayes.layers.prior_term import add_kl_weight, state_prior_term
from tfp_bayes.layers.random_weight import Draw, RandomWeight
from tfp_bayes.layers.stochastic import StochasticLayer, stochastic_layers


class Belief(NamedTuple):
    """The prior and the posterior family of one weight, as passed by the caller."""

    prior: str | dict | priors.Prior | None
    posterior: str | dict | posteriors.Posterior


UNCERTAIN = Belief("normal", "mean_field_normal")
POINT = Belief(None, "deterministic")

_QUANTIZED = "a quantized kernel has no distribution; quantize to_deterministic(model)"
# Arguments of Keras layers that a distribution over weights cannot honor.
_REFUSED = {
    "kernel_regularizer": "a penalty on weights is their prior: kernel_prior=priors.Normal(...)",
    "bias_regularizer": "a penalty on weights is their prior: bias_prior=priors.Normal(...)",
    "recurrent_regularizer": "a penalty on weights is their prior: recurrent_kernel_prior=",
    "embeddings_regularizer": "a penalty on weights is their prior: embeddings_prior=",
    "depthwise_regularizer": "a penalty on weights is their prior: kernel_prior=",
    "kernel_constraint": "draws of the weights would break it; express it as kernel_prior=",
    "bias_constraint": "draws of the weights would break it; express it as bias_prior=",
    "depthwise_constraint": "draws of the weights would break it; express it as kernel_prior=",
    "recurrent_constraint": "draws of the weights would break it; express it as a prior",
    "embeddings_constraint": "draws of the weights would break it; express it as a prior",
    "lora_rank": "LoRA updates one kernel; for correlated weights use posteriors.LowRankNormal",
    "quantization_config": _QUANTIZED,
    "quantization_mode": _QUANTIZED,
}


def check_honoured(owner: str, arguments: dict) -> None:
    """Raise ValueError if random weights cannot honor an argument of a Keras layer."""
    check_absent(owner, arguments, _REFUSED)


class VariationalLayer(StochasticLayer):
    """A Keras layer some of whose weights are drawn from a posterior.

    A subclass also derives from the Keras layer that it replaces, and keeps the constructor,
    shapes and configuration of that layer. It names its random weights in `beliefs`, creates them
    in `build` with `add_random_weights`, and draws them in `call` with `draw_weights`. For layers
    with a kernel and a bias, see `AffineLayer`.

    Args:
        *args: Positional arguments of the Keras layer.
        seed: Integer or None.
        **kwargs: For each random weight, `{name}_prior` (string, dictionary,
            `tfp_bayes.priors.Prior`, or None for a flat prior) and `{name}_posterior` (string,
            dictionary or `tfp_bayes.posteriors.Posterior`). Also the keyword arguments of the
            Keras layer.

    Raises:
        ValueError: If the arguments contradict each other, or a distribution over weights cannot
            honor one of them (regularizers, constraints, LoRA, quantization).
    """

    # Names of the random weights, with the default prior and posterior of each.
    beliefs: dict[str, Belief] = {"kernel": UNCERTAIN, "bias": POINT}
    # Whether the estimator requires independent normal weights.
    needs_factorized = False
    # Keras layers override these to save only kernel and bias. These layers have more weights.
    save_own_variables = keras.layers.Layer.save_own_variables
    load_own_variables = keras.layers.Layer.load_own_variables

    def __init__(self, *args, seed: int | None = None, **kwargs):
        beliefs = {
            name: Belief(
                kwargs.pop(f"{name}_prior", default.prior),
                kwargs.pop(f"{name}_posterior", default.posterior),
            )
            for name, default in self.beliefs.items()
        }
        super().__init__(*args, seed=seed, **kwargs)
        check_honoured(type(self).__name__, {name: getattr(self, name, None) for name in _REFUSED})
        for name, (prior, posterior) in beliefs.items():
            prior = priors.get(prior, f"{name}_prior")
            posterior = posteriors.get(posterior, f"{name}_posterior")
            self._check_belief(name, prior, posterior)
            setattr(self, f"{name}_prior", prior)
            setattr(self, f"{name}_posterior", posterior)

    def _check_belief(
        self, name: str, prior: priors.Prior | None, posterior: posteriors.Posterior
    ) -> None:
        if self.needs_factorized and not posterior.factorized:
            raise ValueError(
                f"Expected independent normals for `{name}_posterior` of "
                f"{type(self).__name__}, whose estimator is exact only for them. "
                f"Received: {name}_posterior={posterior!r}. "
                "Hint: use the Reparameterization layer with this posterior."
            )
        if prior is None and not isinstance(posterior, posteriors.Deterministic):
            raise ValueError(
                f"Expected a `{name}_prior`, because with a flat prior the posterior would widen "
                f"without limit. Received: {name}_prior=None, {name}_posterior={posterior!r}. "
                f'Hint: {name}_prior="normal", or {name}_posterior="deterministic".'
            )

    def add_random_weights(self, **weights: tuple[tuple[int, ...], Any] | None) -> None:
        """Create the parameters of the posteriors and of the priors. Call it in `build`.

        Args:
            **weights: For each name the shape of the weight and the initializer of its loc, or
                None for a weight that the layer does not have.
        """
        self.random_weights = {}
        for name, weight in weights.items():
            random = None
            if weight is not None:
                prior, posterior = (getattr(self, f"{name}_{part}") for part in Belief._fields)
                random = self.random_weights[name] = RandomWeight(
                    self, name, *weight, posterior, prior
                )
            setattr(self, f"random_{name}", random)
        self.kl_weight = add_kl_weight(self)

    @property
    def given_weights(self) -> list[keras.Variable]:
        """The fixed arrays of the priors, which must survive a new initialization."""
        return [
            variable
            for weight in self.random_weights.values()
            if isinstance(weight.prior, priors.ElementwiseNormal)
            for variable in weight.prior_variables.values()
        ]

    def draw_weights(self, seed: tf.Tensor) -> dict[str, Draw]:
        """Draw every random weight; `seed` is int32 (2,)."""
        weights = enumerate(self.random_weights.items())
        return {name: weight.draw(fold_in(seed, i)) for i, (name, weight) in weights}

    def add_kl(self, draws: dict[str, Draw], seed: tf.Tensor) -> None:
        """State the layer's prior term in `call` with training=True. See `prior_term`."""
        state_prior_term(self, lambda: self._kl_divergence(draws, seed))

    def kl_divergence(self) -> tf.Tensor:
        """Return KL(q || prior) of all random weights, a float32 scalar in nats.

        The value is exact if there is a closed form, and otherwise an unbiased estimate from a new
        draw.
        """
        seed = self.draw_seed(training=True)
        return self._kl_divergence(self.draw_weights(seed), seed)

    def _kl_divergence(self, draws: dict[str, Draw], seed: tf.Tensor) -> tf.Tensor:
        terms = [
            weight.kl_divergence(draws[name], fold_in(seed, len(self.beliefs) + 1 + i))
            for i, (name, weight) in enumerate(self.random_weights.items())
        ]
        return tf.cast(sum(terms), "float32")

    def enable_lora(self, *args, **kwargs) -> None:
        """Raise ValueError, because LoRA updates a single kernel."""
        raise ValueError(
            f"Expected a layer with one kernel. Received: {self.name!r}, whose kernel has a "
            f"distribution. Hint: {_REFUSED['lora_rank']}."
        )

    def quantize(self, *args, **kwargs) -> None:
        """Raise ValueError, because a quantized kernel has no distribution."""
        raise ValueError(
            f"Expected a layer with one kernel. Received: {self.name!r}, whose kernel has a "
            f"distribution. Hint: {_QUANTIZED}."
        )

    def get_config(self) -> dict:
        """Return the layer's constructor arguments as plain JSON."""
        config = {k: v for k, v in super().get_config().items() if k not in _REFUSED}
        for name in self.beliefs:
            for part in Belief._fields:
                value = getattr(self, f"{name}_{part}")
                config[f"{name}_{part}"] = value and keras.saving.serialize_keras_object(value)
        return config


def variational_layers(model: keras.layers.Layer) -> list[VariationalLayer]:
    """List the variational layers of a model, including nested ones, in graph order."""
    return [layer for layer in stochastic_layers(model) if isinstance(layer, VariationalLayer)]
