"""A linear layer whose posterior has a closed form."""

import warnings
from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_bayes._plumbing import noise
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.seeds import fold_in
from tfp_bayes.layers import conjugate, regression_data
from tfp_bayes.layers.linear_posterior import (
    LinearModel,
    LinearPosterior,
    Predictive,
    check_covariance,
)
from tfp_bayes.layers.stochastic import StochasticLayer


@keras.saving.register_keras_serializable("tfp_bayes")
class BayesianLinear(StochasticLayer):
    """A linear output layer that learns by Bayes' rule instead of by gradients.

    Put it on features that are no longer trained. `condition` computes the posterior of the
    weights from all data at once, `update` adds examples and `downdate` removes them. In a model
    each pass draws one weight matrix, so `Predictor`, measures and export work as usual.

    Args:
        units: Number of outputs D.
        posterior: "matrix_normal", the exact posterior, or "mean_field", the best approximation
            with independent weights. Its mean is exact, but it underestimates the variances.
        prior_scale: Prior standard deviation s of each weight. The bias has a flat prior.
        noise_scale: Standard deviation sigma of the targets around their mean.
        output_covariance: Covariance Sigma (D, D) of noise and prior between outputs. None is the
            identity. "inverse_wishart" learns it under a prior whose mean is the identity, and the
            predictive distribution is a matrix t distribution.
        per_output: Whether each output has its own prior scale and noise scale, which
            `optimize_evidence` sets. It takes D Cholesky factors instead of one.
        include_noise: Whether outputs in a model are (..., 2 D), the draw and then the standard
            deviations of the noise, as likelihood="normal" expects them.
        use_bias: Whether to add a bias. It is never regularized. Features and targets are centered
            before they are squared, so large offsets (dates, prices) cost no precision. Before the
            first example the bias has mean 0 and standard deviation `prior_scale`.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Randomness:
        One weight matrix for the whole batch, in training too.

    Losses:
        None. No weight is trainable.

    Raises:
        ValueError: If `units` is not a positive integer, a scale is not positive, `posterior` is
            unknown, `output_covariance` is not a covariance, or arguments contradict each other.

    Reference:
        Bishop 2006, "Pattern Recognition and Machine Learning", equations 3.53, 3.54 and 3.59.

    Example:

    >>> layer = BayesianLinear(1, prior_scale=10.0, noise_scale=0.1, seed=0)
    >>> x = np.array([[0.0], [1.0], [2.0]])
    >>> layer.condition(x, 3 * x + 1)
    >>> p = layer.predictive(np.array([[1.0], [100.0]]))
    >>> p.mean.round(1).tolist()
    [[4.0], [301.0]]
    >>> bool(p.epistemic_variance[1, 0] > 1000 * p.epistemic_variance[0, 0])
    True
    """

    def __init__(
        self,
        units: int,
        *,
        posterior: str = "matrix_normal",
        prior_scale: float = 1.0,
        noise_scale: float = 1.0,
        output_covariance: np.ndarray | list | str | None = None,
        per_output: bool = False,
        include_noise: bool = False,
        use_bias: bool = True,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        check_integers(1, units=units)
        check_positive(prior_scale=prior_scale, noise_scale=noise_scale)
        if posterior not in ("matrix_normal", "mean_field"):
            raise ValueError(
                "Expected 'matrix_normal' or 'mean_field' for `posterior`. "
                f"Received: posterior={posterior!r}. Hint: 'matrix_normal' is exact."
            )
        if output_covariance is not None and (per_output or posterior == "mean_field"):
            raise ValueError(
                "Expected `output_covariance=None` for independent outputs. Received: "
                f"output_covariance={output_covariance!r}, posterior={posterior!r}, "
                f"per_output={per_output}. Hint: use posterior='matrix_normal', per_output=False."
            )
        self.units = int(units)
        self.posterior = posterior
        self.prior_scale = float(prior_scale)
        self.noise_scale = float(noise_scale)
        self.output_covariance = check_covariance(output_covariance, self.units)
        self.per_output = per_output
        self.include_noise = include_noise
        self.use_bias = use_bias

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights that hold the posterior, which starts as the prior."""
        if input_shape[-1] is None:
            raise ValueError(
                f"Expected a known last axis of the inputs of {self.name!r}. "
                f"Received: input_shape={tuple(input_shape)}. Hint: it is the number of features."
            )
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        start = LinearPosterior.prior(
            self._model(),
            np.full(self.units, self.prior_scale),
            np.full(self.units, self.noise_scale),
        )
        for name, value in start.values().items():
            weight = self.add_weight(
                name=name,
                shape=value.shape,
                initializer=keras.initializers.Constant(value),
                dtype="float64",
                trainable=False,
                autocast=False,
            )
            setattr(self, name, weight)
        self.built = True

    # Learning.

    def condition(
        self,
        features: np.ndarray | Iterable | regression_data.Examples,
        targets: np.ndarray | None = None,
        optimize_evidence: bool = False,
        sample_weight: np.ndarray | None = None,
    ) -> None:
        """Compute the posterior given only these examples.

        Args:
            features: Array (N, F); or a `tf.data.Dataset` or other finite iterable of batches
                (features, targets) or (features, targets, sample weights), which is read once;
                or an `Examples` object that holds their sums.
            targets: Array (N, D), or (N,) if D is 1.
            optimize_evidence: Whether to set prior and noise scale to the values of largest
                marginal likelihood, for all outputs together or, with `per_output`, for each
                output. If the output covariance is learned, only the prior scale is set. The
                scales of targets that do not vary do not change.
            sample_weight: Array (N,) of numbers of at least 0, if `features` is an array. An
                example of weight 2 counts as two examples, and one of weight 0 is ignored. None
                weights all examples by 1.

        Raises:
            ValueError: If shapes do not fit, values are not finite, or `optimize_evidence` is set
                and there are too few examples.
        """
        data = features
        if not isinstance(data, regression_data.Examples):
            data = self._examples(data, targets, sample_weight, with_prior=not optimize_evidence)
        posterior = self._posterior()
        if optimize_evidence:
            posterior = posterior.with_best_scales(data)
        self._assign(posterior.given(data))

    def update(
        self,
        features: np.ndarray | Iterable,
        targets: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> None:
        """Add examples, in any number of calls. For the arguments see `condition`."""
        data = self._examples(features, targets, sample_weight)
        self._assign(self._posterior().update(data))

    def downdate(
        self,
        features: np.ndarray | Iterable,
        targets: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> None:
        """Remove examples that were added before. For the arguments see `condition`.

        Raises:
            ValueError: If the examples were not among those added, or outweigh the others so much
                that rounding has erased the others. The posterior does not change then.
        """
        old = self._examples(features, targets, sample_weight, exact=True)
        try:
            posterior = self._posterior().downdate(old)
        except conjugate.NotLearnedError:
            raise ValueError(
                f"Expected examples that {self.name!r} has learned. Received: "
                f"{old.center.count:g} that are not among its {self.num_conditioned:g}; without "
                "them the precision would not be positive definite. Hint: remove only examples "
                "that were added, each once."
            ) from None
        except conjugate.LostToRoundingError:
            raise ValueError(
                f"Expected examples that {self.name!r} can remove accurately. Received: "
                f"{old.center.count:g} of {self.num_conditioned:g} that outweigh the others by "
                "more than double precision resolves. Hint: condition() on those that stay."
            ) from None
        self._assign(posterior)

    # Prediction.

    @property
    def num_conditioned(self) -> float:
        """Number N of examples learned, or the sum of their weights. With 0 this is the prior."""
        return float(self.count.numpy())

    def predictive(self, features: np.ndarray, covariance: bool = False) -> Predictive:
        """Compute mean and variances of the predictive distribution without sampling.

        Warns if the layer has learned no examples, because then the result is the prior.

        Args:
            features: Array (N, F).
            covariance: Whether to also return the covariance between outputs.

        Returns:
            A `Predictive`.

        Raises:
            ValueError: If `features` has the wrong shape or values that are not finite.
        """
        phi = self._features(features)
        if not self.num_conditioned:
            warnings.warn(
                f"{self.name!r} has learned no examples: this is the prior. "
                "Call condition(features, targets) first.",
                stacklevel=2,
            )
        return self._posterior().predictive(phi, self._mean_field, covariance)

    def greedy_batch(self, features: np.ndarray, query_size: int) -> np.ndarray:
        """Pick examples to label, each with the largest variance given those picked before.

        A label reduces the variance of similar examples by an amount that does not depend on the
        label, so no labels are needed. With a known output covariance this is greedy BatchBALD in
        closed form. The layer does not change.

        Args:
            features: Array (N, F) of the candidates.
            query_size: Number of examples to pick, at most N.

        Returns:
            Positions (query_size,) int64 in the order picked.

        Raises:
            ValueError: If the features are not valid, or `query_size` is out of range.
        """
        phi = self._features(features)
        check_integers(1, query_size=query_size)
        if query_size > len(phi):
            raise ValueError(
                f"Expected `query_size` to be at most {len(phi)}, the number of candidates. "
                f"Received: query_size={query_size}. Hint: pick fewer or pass more candidates."
            )
        return self._posterior().greedy_batch(phi, self._mean_field, query_size)

    def log_marginal_likelihood(self) -> float:
        """Return log p(targets | features) in nats under the current scales.

        The flat prior of a bias has density 1, so the first example has log likelihood 0.
        """
        return self._posterior().log_marginal_likelihood()

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return outputs (..., D) of one draw of the weights, and the noise if included."""
        if not inputs.dtype.is_floating:
            inputs = tf.cast(inputs, self.compute_dtype)
        kernel, bias = self._draw(self.draw_seed(training))
        if self.use_bias:
            # Centered, because a large offset of the features would cancel in low precision.
            mean = tf.cast(self.feature_mean, inputs.dtype)
            bias += tf.linalg.matvec(kernel, tf.cast(mean, "float64"), transpose_a=True)
            outputs = tf.tensordot(inputs - mean, tf.cast(kernel, inputs.dtype), 1)
            outputs += tf.cast(bias, inputs.dtype)
        else:
            outputs = tf.tensordot(inputs, tf.cast(kernel, inputs.dtype), 1)
        if not self.include_noise:
            return outputs
        scale = tf.cast(tf.sqrt(self.noise_variances), outputs.dtype)
        return tf.concat([outputs, scale + tf.zeros_like(outputs)], axis=-1)

    def _draw(self, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw weights (F, D) and bias (D,) in float64; without a bias the latter is zero."""
        shape = (self.kernel_loc.shape[0] + 1, self.units)
        z = noise.normal(shape, fold_in(seed, 0), tf.float64)
        kernel, bias = z[:-1], z[-1] * tf.sqrt(self.bias_variances)
        if self._mean_field:
            kernel *= tf.sqrt(self.kernel_variances)
        else:
            # The covariance of R^-1 e is the inverse of the precision R^T R.
            columns = tf.transpose(kernel)[:, :, None] if self.per_output else kernel[None]
            solved = tf.linalg.triangular_solve(self.root, columns, lower=False)
            kernel = tf.transpose(solved[:, :, 0]) if self.per_output else solved[0]
            covariance_root = self._draw_covariance_root(seed)
            kernel = kernel * self.noise_scales @ tf.transpose(covariance_root)
            bias = tf.linalg.matvec(covariance_root, bias)
            bias -= tf.linalg.matvec(kernel, self.feature_mean, transpose_a=True)
        return self.kernel_loc + kernel, self.bias_loc + bias if self.use_bias else bias

    def _draw_covariance_root(self, seed: tf.Tensor) -> tf.Tensor:
        """Return A (D, D) with A A^T = Sigma, where a learned Sigma is drawn."""
        root = tf.linalg.cholesky(self.scatter)
        if self.output_covariance != "inverse_wishart":
            return root
        eye = tf.eye(self.units, dtype="float64")
        inverse = tf.linalg.cholesky(tf.linalg.cholesky_solve(root, eye))
        wishart = tfd.WishartTriL(self.degrees, scale_tril=inverse, input_output_cholesky=True)
        draw = wishart.sample(seed=fold_in(seed, 1))
        return tf.transpose(tf.linalg.triangular_solve(draw, eye))

    # Conversion between the layer's weights and a `LinearPosterior`.

    @property
    def _mean_field(self) -> bool:
        return self.posterior == "mean_field"

    def _model(self) -> LinearModel:
        given = self.output_covariance
        known = None
        if not isinstance(given, str):
            known = np.eye(self.units) if given is None else np.asarray(given, "float64")
        width = self.input_spec.axes[-1]
        return LinearModel(width, self.units, known, self.per_output, self.use_bias)

    def _posterior(self) -> LinearPosterior:
        values = {name: getattr(self, name).numpy() for name in LinearPosterior.KEPT}
        return LinearPosterior.from_values(self._model(), values)

    def _assign(self, posterior: LinearPosterior) -> None:
        for name, value in posterior.values().items():
            getattr(self, name).assign(value)

    def _examples(
        self, features, targets, sample_weight, with_prior: bool = False, exact: bool = False
    ) -> regression_data.Examples:
        """Compute the sufficient statistics of the user's data in one pass.

        Args:
            features: See `condition`.
            targets: See `condition`.
            sample_weight: See `condition`.
            with_prior: Whether the prior is added before anything is solved.
            exact: Whether to avoid sums of products, see `Examples`.
        """
        data = None
        for x, y, weights in regression_data.blocks(features, targets, sample_weight):
            phi, y = self._features(x), regression_data.check_targets(y, self.units, self.name)
            if data is None:
                ratio = self._posterior().ratios.min() if with_prior else 0.0
                data = self._model().examples(None if exact else ratio)
            data.add(phi, y, regression_data.check_weights(weights, len(phi), self.name))
        if data is None:
            raise ValueError(
                "Expected at least one batch of (features, targets). Received: an empty dataset. "
                "Hint: create an iterator that was read to its end again."
            )
        return data

    def _features(self, features) -> np.ndarray:
        """Return features (N, F) in float64."""
        if not self.built and np.ndim(features) == 2:
            self.build(np.shape(features))
        width = self.kernel_loc.shape[0] if self.built else None
        return regression_data.check_features(features, width, self.name)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Return the input shape with the last axis D, or 2 D with the noise included."""
        return (*input_shape[:-1], self.units * (2 if self.include_noise else 1))

    def get_config(self) -> dict:
        """Return the layer's constructor arguments as plain JSON."""
        names = (
            "units",
            "posterior",
            "prior_scale",
            "noise_scale",
            "output_covariance",
            "per_output",
            "include_noise",
            "use_bias",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
