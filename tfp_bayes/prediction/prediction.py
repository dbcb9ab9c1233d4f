"""A sampled prediction: its mean and the measures of its uncertainty."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes.prediction.likelihoods import get_likelihood


class Scores(NamedTuple):
    """Quality of predictions on labelled examples, NaN without any.

    Attributes:
        accuracy: Share of labels that are the likelier ones; NaN for real labels.
        rmse: Root mean squared error of the mean against the labels, one-hot if they are classes,
            over examples and outputs.
        nll: Mean negative log likelihood of an example or position, in nats.
    """

    accuracy: float = float("nan")
    rmse: float = float("nan")
    nll: float = float("nan")


@dataclass(frozen=True)
class Prediction:
    """Uncertainty measures of N predictions, estimated from S posterior samples.

    Entropies are in nats. Measures sum (entropies) or average (`variation_ratio`, `mean_std`)
    over independent outputs when the likelihood is "bernoulli". When it is "normal", K is D, the
    number of targets; `predictive_entropy` is that of a normal of the same variance, which is an
    upper bound. Dense predictions, of pixels or tokens, have further axes after N. `p[rows]` is
    the prediction of some of the examples.

    Attributes:
        mean: (N, K) posterior predictive mean.
        predictive_entropy: (N,) total uncertainty, H[mean_s p_s].
        expected_entropy: (N,) aleatoric part, mean_s H[p_s].
        mutual_information: (N,) epistemic part, their difference, never below 0.
        variation_ratio: (N,) 1 - max_k mean_k; NaN when the likelihood is "normal".
        mean_std: (N,) standard deviation over samples, averaged over the K classes.
        epistemic_variance: (N, K) of the target's expectation, over samples: what more data would
            remove.
        aleatoric_variance: (N, K) of the target within a sample, what no data removes:
            mean_s p_s (1 - p_s) of a label, mean_s scale_s^2 of a real target.
        likelihood: What the outputs mean: "categorical", "bernoulli" or "normal".
        samples: (S, N, K) of the model's outputs, or None unless they were asked for; never
            calibrated.
        temperature: T of the mean and its measures, see `BayesianModel.calibrate`; NaN if they
            were calibrated otherwise.
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
        """(N, K) total variance of the target, `epistemic_variance` and `aleatoric_variance`."""
        return self.epistemic_variance + self.aleatoric_variance

    @property
    def std(self) -> np.ndarray:
        """(N, K) total standard deviation of the target, the square root of `variance`."""
        return np.sqrt(self.variance)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Computes central intervals, an own one for each output.

        Use it to say how far a target may be from its mean. When the likelihood is "normal", the
        target itself lies in the interval with probability `level`, noise included: its bounds
        are quantiles of the mixture of all samples. Otherwise a label is 0 or 1, and the interval
        is that of its probability: quantiles of the samples.

        It needs the samples, `predict_uncertainty(..., return_samples=True)`, which take 4 S N K
        bytes (8 S N D for "normal"); the tails of an interval need S well above 2 / (1 - level).

        Args:
            level: Probability of the interval, in (0, 1).

        Returns:
            Lower and upper bounds, (N, K) each.

        Raises:
            ValueError: If samples were not kept, are those of a calibrated mean, or `level` is
                out of range.

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
                "Hint: level=0.95 leaves 2.5 % on each side."
            )
        if self.samples is None:
            raise ValueError(
                "Expected a prediction that kept its samples. Received: samples=None. "
                "Hint: predict_uncertainty(..., return_samples=True)."
            )
        if self.temperature != 1:
            raise ValueError(
                "Expected a prediction that is not calibrated: samples are not, and may lie far "
                f"from the calibrated mean. Received: temperature={self.temperature:.4g}. "
                "Hint: np.quantile(p.samples, ..., axis=0), beside p.samples.mean(0)."
            )
        likelihood = get_likelihood(self.likelihood)
        tails = (1 - level) / 2, (1 + level) / 2
        lower, upper = (likelihood.quantile(self.samples, tail) for tail in tails)
        return lower.astype(self.mean.dtype), upper.astype(self.mean.dtype)

    def log_prob(self, y: ArrayLike) -> np.ndarray:
        """Computes the log predictive probability of labels or targets, in nats.

        Use it to score predictions: `-p.log_prob(y).mean()` is the negative log likelihood. When
        the likelihood is "normal" and samples were kept, it is the density of their mixture;
        without samples, that of the normal of the same mean and variance, which `evaluate` scores
        and which closed-form regression predicts.

        Args:
            y: Class numbers (N,) for "categorical", zeros and ones (N, K) for "bernoulli", real
                targets (N, D) for "normal"; (N,) will do where K or D is 1. Dense predictions take
                one for each position.

        Returns:
            (N,), summed over outputs; probabilities below 1e-7 count as 1e-7, as in Keras' losses.

        Raises:
            ValueError: If labels do not fit the prediction.
        """
        return get_likelihood(self.likelihood).log_prob(
            np.asarray(y), self.mean, self.variance, self.samples
        )

    def score(self, y: ArrayLike) -> Scores:
        """Scores the prediction by accuracy, error and likelihood of the true labels.

        Args:
            y: (N, ...) labels or targets, as `log_prob` takes them; class numbers too where
                several targets are regressed on as one-hot labels.

        Returns:
            A named tuple of `accuracy`, `rmse` and `nll`.

        Raises:
            ValueError: If labels do not fit the prediction.

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
                "Hint: index its arrays, as in p.mean[rows, 0]."
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
    """Returns the prediction of all examples from those of some each."""

    def join(name: str, axis: int = 0) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts], axis=axis)

    arrays = {name: join(name) for name in _PER_EXAMPLE}
    samples = None if parts[0].samples is None else join("samples", axis=1)
    likelihood, temperature = parts[0].likelihood, parts[0].temperature
    return Prediction(**arrays, likelihood=likelihood, samples=samples, temperature=temperature)
