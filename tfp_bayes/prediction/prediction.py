"""A sampled prediction: its mean and its uncertainty measures."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes.prediction.likelihoods import get_likelihood


class Scores(NamedTuple):
    """Quality of predictions on labeled examples. The default NaN means unknown.

    Attributes:
        accuracy: Fraction of labels that are the most probable ones; NaN for real targets.
        rmse: Root mean squared error of the mean over examples and outputs. Class labels count
            as one-hot vectors.
        nll: Mean negative log likelihood per example or position, in nats.
    """

    accuracy: float = float("nan")
    rmse: float = float("nan")
    nll: float = float("nan")


@dataclass(frozen=True)
class Prediction:
    """Predictive mean and uncertainty measures of N examples, estimated from S posterior samples.

    Entropies are in nats. When the likelihood is "bernoulli", entropies are summed over the
    independent outputs, and `variation_ratio` and `mean_std` are averaged. When it is "normal", K
    is the number of targets D, and `predictive_entropy` is that of a normal with the same
    variance, an upper bound. Dense predictions, of pixels or tokens, have further axes after N.
    Select examples with `p[rows]`.

    Attributes:
        mean: (N, K) posterior predictive mean.
        predictive_entropy: (N,) total uncertainty, H[mean_s p_s].
        expected_entropy: (N,) aleatoric part, mean_s H[p_s].
        mutual_information: (N,) epistemic part, the difference of the two, never below 0.
        variation_ratio: (N,) 1 - max_k mean_k; NaN when the likelihood is "normal".
        mean_std: (N,) standard deviation over samples, averaged over the K classes.
        epistemic_variance: (N, K) variance over samples of the target's expectation, which more
            data would reduce.
        aleatoric_variance: (N, K) mean variance of the target within a sample, which more data do
            not reduce: mean_s p_s (1 - p_s) of a label, mean_s scale_s^2 of a real target.
        likelihood: Meaning of the outputs: "categorical", "bernoulli" or "normal".
        samples: (S, N, K) samples of the model's outputs, never calibrated, or None unless
            `return_samples` was True.
        temperature: Temperature T of the mean and the measures, see `BayesianModel.calibrate`;
            NaN if another method calibrated them.
    """

    mean: np.ndarray
    predictive_entropy: np.ndarray
    expected_entropy: np.ndarray
    mutual_information: np.ndarray
    variation_ratio: np.ndarray
    mean_std: np.ndarray
    epistemic_variance: np.ndarray
    aleatoric_variance: np.ndarray
    likelihood: str
    samples: np.ndarray | None = None
    temperature: float = 1.0

    @property
    def variance(self) -> np.ndarray:
        """(N, K) total variance of the target, `epistemic_variance` + `aleatoric_variance`."""
        return self.epistemic_variance + self.aleatoric_variance

    @property
    def std(self) -> np.ndarray:
        """(N, K) total standard deviation of the target, the square root of `variance`."""
        return np.sqrt(self.variance)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Compute a central interval for each output.

        Use it to report how far a target may be from its mean. When the likelihood is "normal",
        the interval is one of the target itself, including noise: its bounds are quantiles of the
        mixture of all samples. Otherwise a label is 0 or 1, and the interval is one of its
        probability: its bounds are quantiles of the samples.

        This requires samples, from `predict_uncertainty(..., return_samples=True)`, which take
        4 S N K bytes (8 S N D for "normal"). The tails of an interval require an S well above
        2 / (1 - level).

        Args:
            level: Probability of the interval, in (0, 1).

        Returns:
            Lower and upper bounds, (N, K) each.

        Raises:
            ValueError: If there are no samples, the mean is calibrated, or `level` is out of
                range.

        Example:

        >>> x = np.linspace(-1, 1, 50)[:, None]
        >>> inputs = keras.Input((1,))
        >>> outputs = NormalParameters(heteroscedastic=False)(MCDropout(0.1)(inputs))
        >>> model = tfp_bayes.BayesianModel(inputs, outputs, likelihood="normal")
        >>> p = model.predict_uncertainty(x, seed=0, return_samples=True)
        >>> lower, upper = p.interval(0.9)
        >>> lower.shape, bool((lower < p.mean).all() and (p.mean < upper).all())
        ((50, 1), True)
        """
        if not 0 < level < 1:
            raise ValueError(
                f"Expected a probability in (0, 1) for `level`. Received: level={level!r}. "
                "Hint: level=0.95 leaves 2.5% on each side."
            )
        if self.samples is None:
            raise ValueError(
                "Expected a prediction with samples. Received: samples=None. "
                "Hint: call predict_uncertainty(..., return_samples=True)."
            )
        if self.temperature != 1:
            raise ValueError(
                "Expected a prediction that is not calibrated, because samples are not, and may be "
                f"far from the calibrated mean. Received: temperature={self.temperature:.4g}. "
                "Hint: use np.quantile(p.samples, ..., axis=0) together with p.samples.mean(0)."
            )
        likelihood = get_likelihood(self.likelihood)
        tails = (1 - level) / 2, (1 + level) / 2
        lower, upper = (likelihood.quantile(self.samples, tail) for tail in tails)
        return lower.astype(self.mean.dtype), upper.astype(self.mean.dtype)

    def log_prob(self, y: ArrayLike) -> np.ndarray:
        """Compute the log predictive probability of labels or targets, in nats.

        Use it to score predictions: `-p.log_prob(y).mean()` is the negative log likelihood. When
        the likelihood is "normal", this is the log density of the mixture of all samples. Without
        samples, it is that of the normal with the same mean and variance, which `evaluate` scores
        and which closed-form regression predicts.

        Args:
            y: Class numbers (N,) for "categorical", zeros and ones (N, K) for "bernoulli", real
                targets (N, D) for "normal". The shape (N,) is accepted if K or D is 1. Dense
                predictions take one label for each position.

        Returns:
            Array (N,), summed over outputs. Probabilities below 1e-7 count as 1e-7, as in Keras'
            losses.

        Raises:
            ValueError: If the labels do not match the prediction.
        """
        return get_likelihood(self.likelihood).log_prob(
            np.asarray(y), self.mean, self.variance, self.samples
        )

    def score(self, y: ArrayLike) -> Scores:
        """Compute accuracy, error and negative log likelihood for the true labels.

        Args:
            y: Labels or targets (N, ...), see `log_prob`. A regression on one-hot labels accepts
                class numbers too.

        Returns:
            A named tuple of `accuracy`, `rmse` and `nll`.

        Raises:
            ValueError: If the labels do not match the prediction.

        Example:

        >>> model = tfp_bayes.BayesianMLP((4,), 3)
        >>> scores = model.predict_uncertainty(np.zeros([6, 4]), seed=0).score([0, 1, 2] * 2)
        >>> round(scores.accuracy, 3)
        0.333
        """
        targets = get_likelihood(self.likelihood).targets(self.mean, np.asarray(y))
        y = targets.check(np.asarray(y), len(self))
        rmse = np.sqrt(np.mean(np.square(targets.as_outputs(y) - self.mean)))
        nll = -self.log_prob(targets.for_log_prob(y)).mean()
        return Scores(targets.accuracy(y, self.mean), float(rmse), float(nll))

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, rows: int | slice | ArrayLike) -> "Prediction":
        if isinstance(rows, tuple):
            raise IndexError(
                f"Expected rows of the prediction. Received: {rows!r}. "
                "Hint: index its arrays instead, as in p.mean[rows, 0]."
            )
        rows = rows if isinstance(rows, slice) else np.asarray(rows)
        changed = {name: getattr(self, name)[rows] for name in _PER_EXAMPLE}
        if self.samples is not None:
            changed["samples"] = self.samples[:, rows]
        return dataclasses.replace(self, **changed)


_PER_EXAMPLE = [
    each.name
    for each in dataclasses.fields(Prediction)
    if each.name not in ("likelihood", "samples", "temperature")
]


def concatenate(parts: Sequence[Prediction]) -> Prediction:
    """Join predictions of one model along the axis of the examples.

    Raises:
        ValueError: If `parts` is empty, or likelihoods or temperatures differ, or only some of the
            predictions have samples.
    """
    kinds = {(each.likelihood, str(each.temperature), each.samples is None) for each in parts}
    if len(kinds) != 1:
        raise ValueError(
            "Expected predictions of one likelihood and temperature, all with or all without "
            f"samples, for `parts`. Received: {len(parts)} predictions of {len(kinds)} kinds. "
            "Hint: predict all parts with the same model and arguments."
        )

    def join(name: str, axis: int = 0) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts], axis=axis)

    arrays = {name: join(name) for name in _PER_EXAMPLE}
    samples = None if parts[0].samples is None else join("samples", axis=1)
    likelihood, temperature = parts[0].likelihood, parts[0].temperature
    return Prediction(**arrays, likelihood=likelihood, samples=samples, temperature=temperature)
