"""A linear layer whose posterior is known in closed form."""

import warnings
from collections.abc import Iterable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.seeds import fold_in
from tfp_bayes.layers import conjugate, regression_data
from tfp_bayes.layers.stochastic import StochasticLayer


class Predictive(NamedTuple):
    """What a `BayesianLinear` layer says of N inputs with D outputs, float64 arrays.

    Attributes:
        mean: (N, D).
        epistemic_variance: (N, D), which more data would remove.
        noise_variance: (D,), which it would not. The variance of a new target is the sum.
        covariance: (N, D, D) between the outputs of a new target, or None if not asked for.
    """

    mean: np.ndarray
    epistemic_variance: np.ndarray
    noise_variance: np.ndarray
    covariance: np.ndarray | None = None


@keras.saving.register_keras_serializable("tfp_bayes")
class BayesianLinear(StochasticLayer):
    """A linear readout that learns by Bayes' rule instead of by gradients.

    Put it on features that are not trained any more. `condition` computes the posterior of its
    weights from all data at once, `update` adds examples, `downdate` takes them back. In a model
    each pass draws one weight matrix, so that `Predictor`, measures and export work as ever.

    Args:
        units: D, number of outputs.
        posterior: "matrix_normal", the exact one, or "mean_field", the best approximation with
            independent weights: the same mean, and smaller variances than are true.
        prior_scale: s, standard deviation of each weight before data.
        noise_scale: sigma, standard deviation of the targets around their mean.
        output_covariance: Sigma (D, D), by which noise and prior are correlated between outputs;
            None is the identity; "inverse_wishart" learns it, under a prior whose mean is the
            identity, and the predictive is a matrix t.
        per_output: Whether each output has a prior and a noise scale of its own, which
            `optimize_evidence` finds; costs D Cholesky factors instead of one.
        include_noise: Whether outputs in a model are (..., 2 D), the draw and then the standard
            deviations of the noise, as likelihood="normal" wants them.
        use_bias: Whether a constant 1 joins the features, with a weight under the same prior.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Randomness:
        One weight matrix for the batch, in training too.

    Losses:
        None. No weight is trainable.

    Raises:
        ValueError: If a scale is not positive, `posterior` is unknown, `output_covariance` is not
            a covariance, or arguments contradict each other.

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
        check_positive(units=units, prior_scale=prior_scale, noise_scale=noise_scale)
        if posterior not in ("matrix_normal", "mean_field"):
            raise ValueError(
                "Expected 'matrix_normal' or 'mean_field' for `posterior`. "
                f"Received: posterior={posterior!r}. Hint: 'matrix_normal' is exact."
            )
        if output_covariance is not None and (per_output or posterior == "mean_field"):
            raise ValueError(
                "Expected `output_covariance=None` for outputs that are independent. Received: "
                f"output_covariance={output_covariance!r}, posterior={posterior!r}, "
                f"per_output={per_output}. Hint: use posterior='matrix_normal', per_output=False."
            )
        self.units = int(units)
        self.posterior = posterior
        self.prior_scale = float(prior_scale)
        self.noise_scale = float(noise_scale)
        self.output_covariance = _checked_covariance(output_covariance, self.units)
        self.per_output = per_output
        self.include_noise = include_noise
        self.use_bias = use_bias

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the sums over data and the posterior, which is the prior."""
        if input_shape[-1] is None:
            raise ValueError(
                f"Expected a known last axis of the inputs of {self.name!r}. "
                f"Received: input_shape={tuple(input_shape)}. Hint: it is the number of features."
            )
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        width, d = input_shape[-1] + self.use_bias, self.units
        num_factors = d if self.per_output else 1

        def add_weight(name: str, shape: tuple[int, ...], value=0.0) -> keras.Variable:
            return self.add_weight(
                name=name,
                shape=shape,
                # As an array: Keras makes a float32 of a Python number first.
                initializer=keras.initializers.Constant(np.asarray(value, "float64")),
                dtype="float64",
                trainable=False,
                autocast=False,
            )

        # What the data say.
        self.gram = add_weight("gram", (width, width))
        self.moment = add_weight("moment", (width, d))
        self.target_gram = add_weight("target_gram", (d, d))
        self.count = add_weight("count", ())
        # What follows from them: the scales, the weights' posterior, the outputs' covariance.
        self.prior_scales = add_weight("prior_scales", (d,), self.prior_scale)
        self.noise_scales = add_weight("noise_scales", (d,), self.noise_scale)
        eye = np.eye(width) / self.prior_scale
        self.precision_cholesky = add_weight("precision_cholesky", (num_factors, *eye.shape), eye)
        self.kernel_loc = add_weight("kernel_loc", (width, d))
        # Sigma, or the scale and the degrees of freedom of its inverse Wishart posterior.
        self.scatter = add_weight("scatter", (d, d), self._prior_scatter)
        self.degrees = add_weight("degrees", (), self._prior_degrees)
        self.built = True

    # Learning.

    def condition(
        self,
        features: np.ndarray | Iterable,
        targets: np.ndarray | None = None,
        optimize_evidence: bool = False,
    ) -> None:
        """Computes the posterior given these examples and no others.

        Args:
            features: (N, F), or a `tf.data.Dataset` (any iterable) of pairs (features, targets),
                read once.
            targets: (N, D), or (N,) if D is 1.
            optimize_evidence: Whether to set prior and noise scale to those of largest marginal
                likelihood, for all outputs together or with `per_output` for each; where the
                output covariance is learned, the prior scale only.

        Raises:
            ValueError: If shapes do not fit, values are not finite, or rounding makes the
                precision singular.
        """
        data = self._moments(features, targets)
        scales = self._scales()
        if optimize_evidence:
            if not data.count:
                raise ValueError(
                    "Expected examples to find the scales from. Received: none, with "
                    "optimize_evidence=True. Hint: condition(features, targets)."
                )
            examples = None
            if targets is not None and len(features) < self.gram.shape[0]:
                checked = regression_data.check_targets(targets, self.units, self.name)
                examples = self._features(features), checked
            scales = self._best_scales(data, examples)
        self._assign(data, scales)

    def update(self, features: np.ndarray | Iterable, targets: np.ndarray | None = None) -> None:
        """Adds examples: any split of the data gives the posterior of all; see `condition`."""
        new = self._moments(features, targets)
        data = conjugate.Moments(*(a + b for a, b in zip(self._data(), new)))
        self._assign(data, self._scales())

    def downdate(self, features: np.ndarray | Iterable, targets: np.ndarray | None = None) -> None:
        """Forgets examples that were conditioned on; see `condition`.

        Raises:
            ValueError: If the precision would not be positive definite: the examples were not
                among those learned. The posterior stays as it was.
        """
        old = self._moments(features, targets)
        data = conjugate.Moments(*(a - b for a, b in zip(self._data(), old)))
        unknown = data.count < 0
        if not unknown:
            try:
                self._assign(data, self._scales())
            except ValueError:
                unknown = True
        if unknown:
            raise ValueError(
                f"Expected examples that {self.name!r} has learned. Received: {old.count:.0f} "
                f"that are not among its {self.num_conditioned}, without which the precision "
                "would not be positive definite. Hint: only forget what was conditioned on, once."
            )

    # Asking.

    @property
    def num_conditioned(self) -> int:
        """N, number of examples learned; at 0 the posterior is the prior."""
        return int(self.count.numpy())

    def predictive(self, features: np.ndarray, covariance: bool = False) -> Predictive:
        """Computes mean and variances of the predictive distribution, without sampling.

        Warns if nothing was learned, so that the answer is the prior's.

        Args:
            features: (N, F).
            covariance: Whether to return the covariance between outputs too.

        Returns:
            A `Predictive`.

        Raises:
            ValueError: If the shape of the features does not fit.
        """
        phi = self._features(features)
        if not self.num_conditioned:
            warnings.warn(
                f"{self.name!r} has learned from no example: this is the prior. "
                "Call condition(features, targets) first.",
                stacklevel=2,
            )
        sigma = self._expected_covariance().numpy()
        noise = self._noise_variance().numpy()
        if self.posterior == "mean_field":
            epistemic = phi**2 @ self._independent_variances().numpy()
        else:
            # (N, D) or, with one factor for all outputs, (N, 1)
            quadratic = np.stack(
                [
                    conjugate.quadratic_forms(factor, phi)
                    for factor in self.precision_cholesky.numpy()
                ],
                axis=-1,
            )
            epistemic = quadratic * np.diag(sigma)
        result = Predictive(phi @ self.kernel_loc.numpy(), epistemic, noise)
        if covariance:
            scale = np.sqrt(np.diag(sigma))
            correlation = sigma / scale / scale[:, None]
            total = np.sqrt(epistemic + noise)
            result = result._replace(covariance=total[:, :, None] * total[:, None, :] * correlation)
        return result

    def greedy_batch(self, features: np.ndarray, query_size: int) -> np.ndarray:
        """Picks examples to label: the largest variance, then the largest that is left, and so on.

        A label takes variance from all examples that resemble it, by an amount that does not
        depend on the label, so that the layer itself need not be updated. With known output
        covariance this is greedy BatchBALD in closed form.

        Args:
            features: (N, F) of the candidates.
            query_size: Number to pick, at most N.

        Returns:
            Positions (query_size,) int64, in the order picked.

        Raises:
            ValueError: If the shape of the features does not fit, or `query_size` is out of range.
        """
        phi = self._features(features)
        if not 1 <= query_size <= len(phi):
            raise ValueError(
                f"Expected `query_size` between 1 and the {len(phi)} candidates. "
                f"Received: query_size={query_size}. Hint: ask for fewer, or offer more."
            )
        noise = self.noise_scales.numpy() ** 2
        if self.posterior == "mean_field":
            variances = self._independent_variances().numpy()
            return conjugate.greedy_batch_mean_field(variances, phi, noise, query_size)
        return conjugate.greedy_batch(self.precision_cholesky.numpy(), phi, noise, query_size)

    def log_marginal_likelihood(self) -> float:
        """Returns log p(targets | features) in nats, at the scales as they are."""
        evidence = self._evidence(self._data())
        scales = list(zip(*(each.numpy() for each in (self.prior_scales, self.noise_scales))))
        if self.per_output:
            return sum(
                evidence.of_output(i).log_marginal_likelihood((sigma / s) ** 2, sigma)
                for i, (s, sigma) in enumerate(scales)
            )
        s, sigma = scales[0]
        return float(evidence.log_marginal_likelihood((sigma / s) ** 2, sigma))

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns inputs times one draw of the weights, (..., D), and the noise if included."""
        kernel = tf.cast(self._draw(self.draw_seed(training)), inputs.dtype)
        if self.use_bias:
            outputs = tf.tensordot(inputs, kernel[:-1], 1) + kernel[-1]
        else:
            outputs = tf.tensordot(inputs, kernel, 1)
        if not self.include_noise:
            return outputs
        scale = tf.cast(tf.sqrt(self._noise_variance()), outputs.dtype)
        return tf.concat([outputs, scale + tf.zeros_like(outputs)], axis=-1)

    def _draw(self, seed: tf.Tensor) -> tf.Tensor:
        """Draws weights (F, D), float64."""
        noise = tf.random.stateless_normal(self.kernel_loc.shape, fold_in(seed, 0), dtype="float64")
        loc = tf.convert_to_tensor(self.kernel_loc)
        if self.posterior == "mean_field":
            return loc + tf.sqrt(self._independent_variances()) * noise
        # L^-T e has the inverse of the precision L L^T as its covariance.
        columns = tf.transpose(noise)[:, :, None] if self.per_output else noise[None]
        solved = tf.linalg.triangular_solve(self.precision_cholesky, columns, adjoint=True)
        deviation = tf.transpose(solved[:, :, 0]) if self.per_output else solved[0]
        root = tf.linalg.cholesky(self.scatter)
        if self._learns_covariance:  # root root^T ~ inverse Wishart
            inverse = tf.linalg.cholesky(
                tf.linalg.cholesky_solve(root, tf.eye(self.units, dtype="float64"))
            )
            wishart = tfd.WishartTriL(
                self.degrees, scale_tril=inverse, input_output_cholesky=True
            ).sample(seed=fold_in(seed, 1))
            root = tf.linalg.triangular_solve(wishart, tf.eye(self.units, dtype="float64"))
            root = tf.transpose(root)
        return loc + deviation @ tf.transpose(root)

    def _independent_variances(self) -> tf.Tensor:
        """Returns the mean-field variance of each weight (F, D)."""
        noise, prior = tf.square(self.noise_scales), tf.square(self.prior_scales)
        return 1 / (tf.linalg.diag_part(self.gram)[:, None] / noise + 1 / prior)

    # Sums over data and scales.

    @property
    def _learns_covariance(self) -> bool:
        return self.output_covariance == "inverse_wishart"

    @property
    def _prior_scatter(self) -> np.ndarray:
        known = self.output_covariance
        return np.asarray(known) if isinstance(known, list) else np.eye(self.units)

    @property
    def _prior_degrees(self) -> float:
        return self.units + 2.0  # the fewest whole ones that have a mean, which is the scatter

    def _expected_covariance(self) -> tf.Tensor:
        """Returns E[Sigma] (D, D)."""
        scatter = tf.convert_to_tensor(self.scatter)
        if self._learns_covariance:
            return scatter / (self.degrees - self.units - 1)
        return scatter

    def _noise_variance(self) -> tf.Tensor:
        """Returns the expected variance of the noise (D,)."""
        return tf.square(self.noise_scales) * tf.linalg.diag_part(self._expected_covariance())

    def _data(self) -> conjugate.Moments:
        names = ("gram", "moment", "target_gram", "count")
        return conjugate.Moments(*(getattr(self, name).numpy() for name in names))

    def _scales(self) -> tuple[np.ndarray, np.ndarray]:
        return self.prior_scales.numpy(), self.noise_scales.numpy()

    def _evidence(self, data: conjugate.Moments, examples=None) -> conjugate.Evidence:
        if self._learns_covariance:
            return conjugate.Evidence(
                data, None, self._prior_degrees, self._prior_scatter, examples
            )
        return conjugate.Evidence(data, self._prior_scatter, examples=examples)

    def _best_scales(self, data: conjugate.Moments, examples) -> tuple[np.ndarray, np.ndarray]:
        evidence = self._evidence(data, examples)
        if self.per_output:
            return tuple(
                np.transpose([evidence.of_output(i).maximize() for i in range(self.units)])
            )
        fixed = self.noise_scale if self._learns_covariance else None
        return tuple(np.full(self.units, each) for each in evidence.maximize(fixed))

    def _assign(self, data: conjugate.Moments, scales: tuple[np.ndarray, np.ndarray]) -> None:
        """Computes everything, then changes the weights: an error changes nothing."""
        prior, noise = scales
        locs, factors = [], []
        for i in range(self.precision_cholesky.shape[0]):
            try:
                factor = conjugate.factorize(data.gram, (noise[i] / prior[i]) ** 2)
            except np.linalg.LinAlgError:
                raise ValueError(
                    "Expected features whose precision has a Cholesky factor. Received: features "
                    f"with a largest mean square of {np.diag(data.gram).max():.3g} under "
                    f"prior_scale={prior[i]:.3g}, noise_scale={noise[i]:.3g}, singular to "
                    "rounding. Hint: standardize the features, lower prior_scale or raise "
                    "noise_scale."
                ) from None
            at = slice(i, i + 1) if self.per_output else slice(None)
            locs.append(conjugate.solve(factor, data.moment[:, at]))
            factors.append(factor / noise[i])
        loc = np.concatenate(locs, axis=1)
        if self._learns_covariance:
            explained = loc.T @ data.moment
            residual = data.target_gram - (explained + explained.T) / 2
            self.scatter.assign(self._prior_scatter + residual / noise[0] ** 2)
            self.degrees.assign(self._prior_degrees + data.count)
        for name, value in data._asdict().items():
            getattr(self, name).assign(value)
        self.prior_scales.assign(prior)
        self.noise_scales.assign(noise)
        self.precision_cholesky.assign(np.stack(factors))
        self.kernel_loc.assign(loc)

    def _moments(self, features, targets) -> conjugate.Moments:
        """Sums up what the user gave, in one pass."""
        total = None
        for x, y in regression_data.batches(features, targets):
            phi, y = self._features(x), regression_data.check_targets(y, self.units, self.name)
            part = conjugate.moments(phi, y)
            total = part if total is None else conjugate.Moments(*map(np.add, total, part))
        if total is None:
            raise ValueError(
                "Expected at least one batch of (features, targets). Received: an empty dataset. "
                "Hint: a dataset that was read to its end may need to be made again."
            )
        return total

    def _features(self, features) -> np.ndarray:
        """Returns features (N, F) in float64, with a constant 1 if there is a bias."""
        if not self.built and np.ndim(features) == 2:
            self.build(np.shape(features))
        width = self.gram.shape[0] - self.use_bias if self.built else None
        phi = regression_data.check_features(features, width, self.name)
        return np.pad(phi, ((0, 0), (0, 1)), constant_values=1.0) if self.use_bias else phi

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the inputs with D, or 2 D with the noise, as its last axis."""
        return (*input_shape[:-1], self.units * (2 if self.include_noise else 1))

    def get_config(self) -> dict:
        """Returns the layer's constructor arguments, plain JSON."""
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


def _checked_covariance(value, units: int) -> list | str | None:
    """Returns a covariance as nested lists, for the configuration."""
    if value is None or (isinstance(value, str) and value == "inverse_wishart"):
        return value
    try:
        matrix = np.asarray(value, "float64")
        valid = matrix.shape == (units, units) and np.allclose(matrix, matrix.T)
        valid = valid and np.linalg.eigvalsh(matrix).min() > 0
    except (ValueError, TypeError):
        valid = False
    if not valid:
        raise ValueError(
            f"Expected a symmetric positive definite ({units}, {units}) matrix, 'inverse_wishart' "
            f"or None for `output_covariance`. Received: output_covariance={value!r}. "
            "Hint: 'inverse_wishart' learns it."
        )
    return matrix.tolist()
