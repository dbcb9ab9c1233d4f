"""The posterior of a closed-form linear layer as an immutable object of NumPy float64 arrays."""

import dataclasses
from typing import ClassVar, NamedTuple

import numpy as np
import scipy.linalg

from tfp_bayes.layers import conjugate
from tfp_bayes.layers.evidence import Evidence, log_density
from tfp_bayes.layers.regression_data import Center, Examples


class Predictive(NamedTuple):
    """Prediction of a `BayesianLinear` layer for N inputs and D outputs, as float64 arrays.

    Attributes:
        mean: Predictive mean (N, D).
        epistemic_variance: Variance (N, D) that more data would reduce.
        noise_variance: Variance (D,) of the noise, which more data would not reduce. The variance
            of a new target is the sum of both.
        covariance: Covariance (N, D, D) between the outputs of a new target, or None unless
            requested.
    """

    mean: np.ndarray
    epistemic_variance: np.ndarray
    noise_variance: np.ndarray
    covariance: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class LinearModel:
    """Assumptions of a linear regression, see `BayesianLinear`.

    Attributes:
        num_features: Number of features F.
        num_outputs: Number of outputs D.
        output_covariance: Sigma (D, D), or None if it is learned.
        per_output: Whether each output has its own scales and therefore its own factor.
        use_bias: Whether there is a bias, which has a flat prior.
    """

    num_features: int
    num_outputs: int
    output_covariance: np.ndarray | None
    per_output: bool
    use_bias: bool

    @property
    def prior_scatter(self) -> np.ndarray:
        """Sigma, or the scale matrix of its inverse Wishart prior, which is also its mean."""
        known = self.output_covariance
        return np.eye(self.num_outputs) if known is None else known

    @property
    def prior_degrees(self) -> float:
        """Degrees of freedom of the inverse Wishart prior."""
        return self.num_outputs + 2.0  # the smallest integer for which the mean exists

    @property
    def outputs(self) -> list[slice]:
        """The outputs that belong to each factor."""
        if self.per_output:
            return [slice(i, i + 1) for i in range(self.num_outputs)]
        return [slice(0, self.num_outputs)]

    def examples(self, ratio: float | None) -> Examples:
        """Return an empty `Examples` object."""
        return Examples(self.num_features, self.num_outputs, self.use_bias, ratio)

    def degrees_of_data(self, count: float) -> float:
        """Return N, or N - 1 if there is a bias, which uses up one degree of freedom."""
        return max(count - self.use_bias, 0.0)

    def rows_of(self, outputs: slice, rows: np.ndarray) -> np.ndarray:
        """Return rows (n, F + D) with only the targets of the given outputs."""
        features, targets = np.hsplit(np.atleast_2d(rows), [self.num_features])
        return np.hstack([features, targets[:, outputs]])


@dataclasses.dataclass(frozen=True)
class LinearPosterior:
    """The posterior of the weights of a linear regression, and of its output covariance.

    Attributes:
        model: Assumptions of the regression.
        prior_scales: Prior scales s (D,).
        noise_scales: Noise scales sigma (D,).
        center: Means of features and targets, zero without a bias, and N.
        factors: One factor for all outputs, or one for each output.
    """

    model: LinearModel
    prior_scales: np.ndarray
    noise_scales: np.ndarray
    center: Center
    factors: list[conjugate.Factor]

    @classmethod
    def prior(
        cls, model: LinearModel, prior_scales: np.ndarray, noise_scales: np.ndarray
    ) -> "LinearPosterior":
        """Return the posterior given no data."""
        return cls(model, prior_scales, noise_scales, model.examples(None).center, []).given(
            model.examples(None)
        )

    # Conversion to and from the weights of a layer.

    KEPT: ClassVar[tuple[str, ...]] = (
        "prior_scales",
        "noise_scales",
        "count",
        "feature_mean",
        "target_mean",
        "root",
        "projected",
        "residual",
    )

    @classmethod
    def from_values(cls, model: LinearModel, values: dict[str, np.ndarray]) -> "LinearPosterior":
        """Rebuild the posterior from the entries of `values()` named in `KEPT`."""
        factors = [
            conjugate.Factor(root, projected, values["residual"][at, at])
            for root, projected, at in zip(values["root"], values["projected"], model.outputs)
        ]
        center = Center(values["feature_mean"], values["target_mean"], float(values["count"]))
        return cls(model, values["prior_scales"], values["noise_scales"], center, factors)

    def values(self) -> dict[str, np.ndarray]:
        """Return the entries of `KEPT` and the arrays that a layer's `call` reads, in float64."""
        kernel_variances, bias_variances = self.independent_variances()
        values = {
            "prior_scales": self.prior_scales,
            "noise_scales": self.noise_scales,
            "count": self.center.count,
            "feature_mean": self.center.features,
            "target_mean": self.center.targets,
            "root": np.stack([factor.root for factor in self.factors]),
            "projected": np.stack([factor.projected for factor in self.factors]),
            "residual": self.residual,
            "kernel_loc": self.kernel,
            "bias_loc": self.bias,
            "kernel_variances": kernel_variances,
            "bias_variances": bias_variances,
            "scatter": self.scatter,
            "degrees": self.degrees,
            "noise_variances": self.noise_variance,
        }
        return {name: np.asarray(value, "float64") for name, value in values.items()}

    # Learning.

    def given(self, data: Examples) -> "LinearPosterior":
        """Return the posterior given only these examples, with the same scales."""
        factors = [data.factor(self.ratios[at][0], at) for at in self.model.outputs]
        return dataclasses.replace(self, center=data.center, factors=factors)

    def with_best_scales(self, data: Examples) -> "LinearPosterior":
        """Return this posterior with the scales that maximize the evidence of these examples."""
        count = self.model.degrees_of_data(data.center.count)
        if not count:
            raise ValueError(
                "Expected at least one example to set the scales, two or more with a bias. "
                f"Received: {data.center.count:g}, with optimize_evidence=True. "
                "Hint: condition(features, targets)."
            )
        prior, noise = self.prior_scales.copy(), self.noise_scales.copy()
        everything = data.factor(0.0, slice(0, self.model.num_outputs))
        evidence = Evidence(everything, count, *self._covariance_model)
        varying = evidence.outputs_that_vary
        if self.model.per_output:
            for i in np.flatnonzero(varying).tolist():
                prior[i], noise[i] = evidence.of_output(i).maximize()
        elif varying.any():
            fixed = noise[0] if self.model.output_covariance is None else None
            prior[:], noise[:] = evidence.maximize(fixed)
        return dataclasses.replace(self, prior_scales=prior, noise_scales=noise)

    def update(self, data: Examples) -> "LinearPosterior":
        """Return the posterior with these examples added."""
        center, shift = self.center.join(data.center)
        factors = [
            conjugate.add_rows(data.added_to(factor, at), self.model.rows_of(at, shift))
            for factor, at in zip(self.factors, self.model.outputs)
        ]
        return dataclasses.replace(self, center=center, factors=factors)

    def downdate(self, data: Examples) -> "LinearPosterior":
        """Return the posterior with these examples removed.

        Args:
            data: Examples without sums of products (`ratio=None`).

        Raises:
            NotLearnedError, LostToRoundingError: See `conjugate.remove_rows`.
        """
        center, shift = self.center.leave(data.center)
        if center.count < -1e-9 * data.center.count:
            raise conjugate.NotLearnedError
        none_left = center.count <= 1e-9 * data.center.count
        rows = np.vstack([data.rows, shift])
        factors = []
        try:
            for factor, at in zip(self.factors, self.model.outputs):
                noise = self.noise_scales[at] ** 2
                rows_of_outputs = self.model.rows_of(at, rows)
                factors.append(conjugate.remove_rows(factor, rows_of_outputs, noise))
        except conjugate.LostToRoundingError:
            if not none_left:
                raise
        if none_left:
            return self.prior(self.model, self.prior_scales, self.noise_scales)
        return dataclasses.replace(self, center=center, factors=factors)

    # Properties of the posterior of the weights.

    @property
    def ratios(self) -> np.ndarray:
        """Ratios r = sigma^2 / s^2 (D,)."""
        return (self.noise_scales / self.prior_scales) ** 2

    @property
    def kernel(self) -> np.ndarray:
        """Mean (F, D) of the weights."""
        return np.concatenate([factor.mean() for factor in self.factors], axis=1)

    @property
    def bias(self) -> np.ndarray:
        """Mean (D,) of the bias, 0 if there is none."""
        return self.center.targets - self.center.features @ self.kernel

    @property
    def residual(self) -> np.ndarray:
        """Residual (D, D), see `Factor`. It is zero between outputs with separate factors."""
        return scipy.linalg.block_diag(*(factor.residual for factor in self.factors))

    @property
    def mean_variances(self) -> np.ndarray:
        """Epistemic variance (D,) at the mean of the features, in units of the noise variance."""
        if not self.model.use_bias:
            return np.zeros(self.model.num_outputs)
        count = self.center.count
        return np.full(self.model.num_outputs, 1 / count) if count else 1 / self.ratios

    def independent_variances(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean-field variances of the weights (F, D) and of the bias (D,)."""
        squares = np.stack([np.square(factor.root).sum(0) for factor in self.factors], axis=1)
        squares = squares + self.center.count * np.square(self.center.features)[:, None]
        return self.noise_scales**2 / squares, self.noise_scales**2 * self.mean_variances

    @property
    def scatter(self) -> np.ndarray:
        """Sigma (D, D), or the scale matrix of its inverse Wishart posterior."""
        if self.model.output_covariance is not None:
            return self.model.output_covariance
        return self.model.prior_scatter + self.residual / self.noise_scales[0] ** 2

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the inverse Wishart posterior."""
        return self.model.prior_degrees + self.model.degrees_of_data(self.center.count)

    @property
    def expected_covariance(self) -> np.ndarray:
        """Posterior mean E[Sigma] (D, D)."""
        if self.model.output_covariance is not None:
            return self.scatter
        return self.scatter / (self.degrees - self.model.num_outputs - 1)

    @property
    def noise_variance(self) -> np.ndarray:
        """Expected variance (D,) of the noise."""
        return self.noise_scales**2 * np.diag(self.expected_covariance)

    # Predictions.

    def predictive(self, phi: np.ndarray, mean_field: bool, covariance: bool) -> Predictive:
        """See `BayesianLinear.predictive`."""
        centered = phi - self.center.features
        if mean_field:
            weights, bias = self.independent_variances()
            epistemic = phi**2 @ weights + bias
        else:
            quadratic = [conjugate.quadratic_forms(each, centered) for each in self.factors]
            # The stack is (N, D), or (N, 1) with one factor for all outputs.
            epistemic = np.stack(quadratic, axis=-1) + self.mean_variances
            epistemic = epistemic * self.noise_scales**2 * np.diag(self.expected_covariance)
        mean = centered @ self.kernel + self.center.targets
        result = Predictive(mean, epistemic, self.noise_variance)
        if not covariance:
            return result
        scale = np.sqrt(np.diag(self.expected_covariance))
        correlation = self.expected_covariance / scale / scale[:, None]
        total = np.sqrt(epistemic + self.noise_variance)
        return result._replace(covariance=total[:, :, None] * total[:, None, :] * correlation)

    def greedy_batch(self, phi: np.ndarray, mean_field: bool, size: int) -> np.ndarray:
        """See `BayesianLinear.greedy_batch`."""
        noise = self.noise_scales**2
        if mean_field:
            weights, bias = self.independent_variances()
            if self.model.use_bias:
                phi = np.pad(phi, ((0, 0), (0, 1)), constant_values=1.0)
                weights = np.vstack([weights, bias])
            return conjugate.greedy_batch_mean_field(weights, phi, noise, size)
        centered = phi - self.center.features
        whitened = [
            sigma * np.vstack([factor.whiten(centered), np.full(len(phi), np.sqrt(variance))])
            for factor, sigma, variance in zip(self.factors, self.noise_scales, self.mean_variances)
        ]
        return conjugate.greedy_batch(np.stack(whitened), noise, size)

    def log_marginal_likelihood(self) -> float:
        """See `BayesianLinear.log_marginal_likelihood`."""
        total = 0.0
        for factor, at in zip(self.factors, self.model.outputs):
            sigma, s = self.noise_scales[at][0], self.prior_scales[at][0]
            covariance, degrees, scatter = self._covariance_model
            total += log_density(
                factor.residual / sigma**2,
                self.model.degrees_of_data(self.center.count),
                2 * np.log(np.diag(factor.root) * s / sigma).sum(),
                sigma,
                None if covariance is None else covariance[at, at],
                degrees,
                scatter,
            )
        if self.model.use_bias and self.center.count:
            total -= 0.5 * self.model.num_outputs * np.log(self.center.count)
        return total

    @property
    def _covariance_model(self) -> tuple[np.ndarray | None, float, np.ndarray]:
        model = self.model
        return model.output_covariance, model.prior_degrees, model.prior_scatter


def check_covariance(value, units: int) -> list | str | None:
    """Return `output_covariance` as plain JSON: nested lists, "inverse_wishart" or None.

    Raises:
        ValueError: If it is neither of these nor a symmetric positive definite matrix.
    """
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
