"""The base of layers whose kernel and bias have distributions."""

import keras
import tensorflow as tf

from tfp_bayes import posteriors, priors
from tfp_bayes._plumbing.seeds import fold_in
from tfp_bayes.layers.random_weight import Draw, RandomWeight
from tfp_bayes.layers.stochastic import StochasticLayer, stochastic_layers

_QUANTIZED = "a quantized kernel has no distribution; quantize to_deterministic(model)"
# What Keras layers take and a distribution over weights cannot honour.
_REFUSED = {
    "kernel_regularizer": "a penalty on weights is their prior: kernel_prior=priors.Normal(...)",
    "bias_regularizer": "a penalty on weights is their prior: bias_prior=priors.Normal(...)",
    "depthwise_regularizer": "a penalty on weights is their prior: kernel_prior=",
    "kernel_constraint": "draws of the weights would break it; express it as kernel_prior=",
    "bias_constraint": "draws of the weights would break it; express it as bias_prior=",
    "depthwise_constraint": "draws of the weights would break it; express it as kernel_prior=",
    "lora_rank": "LoRA adds to a single kernel; to vary together, use posteriors.LowRankNormal",
    "quantization_config": _QUANTIZED,
    "quantization_mode": _QUANTIZED,
}


def check_honoured(owner: str, arguments: dict) -> None:
    """Raises ValueError if arguments of a Keras layer ask for what random weights cannot do."""
    for name, reason in _REFUSED.items():
        if arguments.get(name):
            raise ValueError(
                f"Expected no `{name}` for {owner}. Received: {name}={arguments[name]!r}. "
                f"Hint: {reason}."
            )


class VariationalLayer(StochasticLayer):
    """A Keras layer whose affine map has a kernel and bias drawn from a posterior.

    Subclasses also derive from the Keras layer that they replace, whose constructor, shapes and
    configuration they keep, and give

    - `kernel_shape(input_shape)` and `linear_map(inputs, kernel)`, the layer's linear algebra;
    - `estimator`, how it trains: one of the functions in `estimators`.

    Args:
        *args: Of the Keras layer.
        kernel_prior: String, dictionary, `tfp_bayes.priors.Prior`, or None for a flat prior.
        kernel_posterior: String, dictionary or `tfp_bayes.posteriors.Posterior`.
        bias_prior: As `kernel_prior`.
        bias_posterior: As `kernel_posterior`.
        seed: Integer or None.
        **kwargs: Of the Keras layer.

    Raises:
        ValueError: If the arguments contradict each other, or ask for what a distribution over
            weights cannot honour (regularizers, constraints, LoRA, quantization).
    """

    # Whether the estimator needs every weight to be an independent normal.
    needs_factorized = True
    kernel_initializer_name = "kernel_initializer"
    # Keras layers save their kernel and bias only; these have more.
    save_own_variables = keras.layers.Layer.save_own_variables
    load_own_variables = keras.layers.Layer.load_own_variables

    def __init__(
        self,
        *args,
        kernel_prior: str | dict | priors.Prior | None = "normal",
        kernel_posterior: str | dict | posteriors.Posterior = "mean_field_normal",
        bias_prior: str | dict | priors.Prior | None = None,
        bias_posterior: str | dict | posteriors.Posterior = "deterministic",
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(*args, seed=seed, **kwargs)
        check_honoured(type(self).__name__, {name: getattr(self, name, None) for name in _REFUSED})
        self.kernel_prior = priors.get(kernel_prior, "kernel_prior")
        self.kernel_posterior = posteriors.get(kernel_posterior, "kernel_posterior")
        self.bias_prior = priors.get(bias_prior, "bias_prior")
        self.bias_posterior = posteriors.get(bias_posterior, "bias_posterior")
        for name, prior, posterior in (
            ("kernel", self.kernel_prior, self.kernel_posterior),
            ("bias", self.bias_prior, self.bias_posterior),
        ):
            if self.needs_factorized and not posterior.factorized:
                raise ValueError(
                    f"Expected independent normals for `{name}_posterior` of "
                    f"{type(self).__name__}, whose estimator turns or adds up the noise of single "
                    f"weights. Received: {name}_posterior={posterior!r}. "
                    "Hint: use the Reparameterization layer with this posterior."
                )
            if prior is None and not isinstance(posterior, posteriors.Deterministic):
                raise ValueError(
                    f"Expected a `{name}_prior`: under a flat one the posterior would grow without "
                    f"end. Received: {name}_prior=None, {name}_posterior={posterior!r}. "
                    f'Hint: {name}_prior="normal", or {name}_posterior="deterministic".'
                )

    # What a subclass gives.

    def kernel_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int, ...]:
        """Returns the shape of the kernel."""
        raise NotImplementedError

    def linear_map(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Applies a kernel to inputs of its dtype, without bias or activation."""
        raise NotImplementedError

    def estimator(
        self, inputs: tf.Tensor, kernel: Draw, bias: Draw | None, seed: tf.Tensor
    ) -> tf.Tensor:
        """Computes the outputs in training, before the activation."""
        raise NotImplementedError

    # What all share.

    @property
    def channel_axis(self) -> int:
        """Axis of the channels, in inputs and outputs."""
        return 1 if getattr(self, "data_format", None) == "channels_first" else -1

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the parameters of the posterior and what the prior learns."""
        output_shape = self.compute_output_shape(input_shape)  # here Keras checks the shape
        axis = self.channel_axis
        self.input_spec = keras.layers.InputSpec(
            min_ndim=self.input_spec.min_ndim, axes={axis: input_shape[axis]}
        )
        self.random_kernel = RandomWeight(
            self,
            "kernel",
            self.kernel_shape(input_shape),
            getattr(self, self.kernel_initializer_name),
            self.kernel_posterior,
            self.kernel_prior,
        )
        self.random_bias = None
        if self.use_bias:
            self.random_bias = RandomWeight(
                self,
                "bias",
                (output_shape[axis],),
                self.bias_initializer,
                self.bias_posterior,
                self.bias_prior,
            )
        # 1 / num_train once somebody knows it; not a number until then.
        self.kl_weight = self.add_weight(
            name="kl_weight",
            shape=(),
            initializer=keras.initializers.Constant(float("nan")),
            dtype="float32",
            trainable=False,
            autocast=False,
        )
        self.built = True

    @property
    def kernel(self) -> tf.Tensor:
        """The mean of the kernel."""
        return self.random_kernel.mean()

    @property
    def bias(self) -> tf.Tensor | None:
        """The mean of the bias, None without bias."""
        return self.random_bias and self.random_bias.mean()

    def affine_map(self, inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
        """Applies a kernel and a bias to inputs, in the dtype of the inputs."""
        outputs = self.linear_map(inputs, tf.cast(kernel, inputs.dtype))
        if bias is None:
            return outputs
        shape = [1] * outputs.shape.rank
        shape[self.channel_axis] = -1
        return outputs + tf.reshape(tf.cast(bias, outputs.dtype), shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns outputs of one theta, or in training of the layer's estimator."""
        seed = self.draw_seed(training)
        kernel, bias = self._draw(seed)
        if training:
            outputs = self.estimator(inputs, kernel, bias, fold_in(seed, 2))
            if not self.losses:  # a layer that is shared has its KL counted once
                self.add_loss(_weighted(self._kl_divergence(kernel, bias, seed), self.kl_weight))
        else:
            outputs = self.affine_map(inputs, kernel.value, bias and bias.value)
        return outputs if self.activation is None else self.activation(outputs)

    def kl_divergence(self) -> tf.Tensor:
        """Returns KL(q || prior) of kernel and bias, a float32 scalar in nats.

        Exact where there is a closed form, otherwise an unbiased estimate from a new draw.
        """
        seed = self.draw_seed(training=True)
        return self._kl_divergence(*self._draw(seed), seed)

    def _draw(self, seed: tf.Tensor) -> tuple[Draw, Draw | None]:
        kernel = self.random_kernel.draw(fold_in(seed, 0))
        return kernel, self.random_bias and self.random_bias.draw(fold_in(seed, 1))

    def _kl_divergence(self, kernel: Draw, bias: Draw | None, seed: tf.Tensor) -> tf.Tensor:
        kl = self.random_kernel.kl_divergence(kernel, fold_in(seed, 3))
        if bias is not None:
            kl += self.random_bias.kl_divergence(bias, fold_in(seed, 4))
        return tf.cast(kl, "float32")

    def enable_lora(self, *args, **kwargs) -> None:
        """Refuses: LoRA adds to a single kernel."""
        raise ValueError(
            f"Expected a layer with one kernel. Received: {self.name!r}, whose kernel has a "
            f"distribution. Hint: {_REFUSED['lora_rank']}."
        )

    def quantize(self, *args, **kwargs) -> None:
        """Refuses: a quantized kernel has no distribution."""
        raise ValueError(
            f"Expected a layer with one kernel. Received: {self.name!r}, whose kernel has a "
            f"distribution. Hint: {_QUANTIZED}."
        )

    def get_config(self) -> dict:
        """Returns the layer's constructor arguments, plain JSON."""
        config = {k: v for k, v in super().get_config().items() if k not in _REFUSED}
        for name in ("kernel_prior", "kernel_posterior", "bias_prior", "bias_posterior"):
            value = getattr(self, name)
            config[name] = value and keras.saving.serialize_keras_object(value)
        return config


def variational_layers(model: keras.layers.Layer) -> list[VariationalLayer]:
    """Lists the variational layers of a model, nested ones too, in the order of its graph."""
    return [layer for layer in stochastic_layers(model) if isinstance(layer, VariationalLayer)]


@tf.custom_gradient
def _weighted(kl: tf.Tensor, weight: tf.Tensor):
    """Returns weight * kl, and refuses to be differentiated under an unknown weight.

    Its gradient is asked for by whoever trains on the layer's loss, and by nobody else: an
    exploring call, or a loop that weights `kl_divergence(model)` itself, goes through.
    """

    def gradient(upstream: tf.Tensor):
        known = tf.debugging.assert_greater_equal(
            weight,
            0.0,
            "Expected a known weight of the KL divergence. Received: a variational layer whose "
            "kl_weight was never set. Hint: train a tfp_bayes.BayesianModel, or pass "
            "callbacks=[tfp_bayes.KLWeight(num_train=len(x))] to fit.",
        )
        with tf.control_dependencies([known] if known is not None else []):
            return upstream * weight, tf.zeros_like(weight)

    return kl * weight, gradient
