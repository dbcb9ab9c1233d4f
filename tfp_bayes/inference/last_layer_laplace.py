"""The Laplace approximation for the last layer of a trained classifier."""

import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.special import log_softmax, softmax

from tfp_bayes._plumbing import noise
from tfp_bayes._plumbing.batches import check_reads_once, unpack_validation_data
from tfp_bayes._plumbing.checks import check_labels
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.optimize import minimize_from_grid
from tfp_bayes.inference.curvature import CURVATURES
from tfp_bayes.inference.last_layer import LastLayer
from tfp_bayes.inference.saved import SavedPosterior, saved_as
from tfp_bayes.inference.softmax_mean import NUM_POINTS, softmax_mean

_LOG_SCALES = np.linspace(np.log(1e-4), np.log(1e4), 81)  # initial grid for the evidence
_LOG_SCALES_OF_VALIDATION = np.linspace(np.log(1e-3), np.log(1e2), 21)
_NUM_CHECKED = 50_000  # predicted training probabilities that the evidence is compared with
_MAX_NUMBERS = 2**22  # size of the arrays between features and covariances, 32 MB


@saved_as
class LastLayerLaplace(SavedPosterior):
    """A normal posterior over the last layer's weights, from one pass over the data after training.

    Use it to calibrate an overconfident network. The network does not change, and its most
    probable classes hardly do. `predict` gives probabilities from one forward pass. With this
    `posterior`, a `Predictor` gives samples, measures and an export, and runs the network only once
    for all samples.

    Pass `validation_data` if you can. The prior scale is then the one that predicts the validation
    data best, which can be so small that the predictions of the network do not change. Without
    validation data, the prior scale maximizes the evidence, which assumes that the weights are at
    a mode of the posterior. It is too large if training made the weights very large, which
    training without weight decay does once the training data are separated. A warning reports
    this.

    Args:
        model: A trained functional or Sequential Keras model without stochastic layers, which ends
            in a Dense layer with a softmax that is used once. Its weights must not change later.
        x: The training data: arrays (N, ...), or a `tf.data.Dataset` or `PyDataset` of (x, y).
        y: Integer labels (N,). None for a dataset.
        covariance: "full" (K F x K F, for up to a few thousand weights), "kronecker" (F x F and
            K x K), "shared" (F x F for all classes, with a weight for each example as in SNGP;
            exact for two classes) or "diagonal".
        prior_scale: Prior standard deviation of each weight and bias of the layer. None finds it
            from `validation_data` if given, and otherwise from the evidence.
        validation_data: (x, y) or a dataset that the network was not trained on.
        temperature: Factor T that multiplies the covariance. 1 gives the Bayesian posterior; the
            evidence is always computed for T = 1.

    Attributes:
        prior_scale: As given or found.
        temperature: As given.
        linearize: False, because the logits are already linear in these weights.
        num_draws: None, because the number of different draws is unlimited.

    Raises:
        ValueError: If the model does not end in such a layer, an input or weight is not finite, or
            a label or argument is out of range.

    Reference:
        Daxberger et al. 2021, "Laplace Redux", sections 2 and 3, arXiv:2106.14806.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
    >>> x, y = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 3
    >>> posterior = LastLayerLaplace(model, x, y)
    >>> posterior.predict(x).shape
    (50, 3)
    >>> Predictor(model, posterior=posterior).predict_uncertainty(x, num_samples=20).mean.shape
    (50, 3)
    """

    num_draws = None
    linearize = False

    def __init__(
        self,
        model: keras.Model,
        x: Any,
        y: np.ndarray | None = None,
        covariance: str = "full",
        prior_scale: float | None = None,
        validation_data: Any = None,
        temperature: float = 1.0,
    ):
        if covariance not in list(CURVATURES):
            raise ValueError(
                f"Expected one of {sorted(CURVATURES)} for `covariance`. "
                f"Received: covariance={covariance!r}. Hint: 'full' is the most exact."
            )
        if prior_scale is not None:
            check_positive(prior_scale=prior_scale)
            if validation_data is not None:
                raise ValueError(
                    "Expected either `prior_scale` or `validation_data`, which finds it. Received: "
                    f"both, prior_scale={prior_scale!r}. Hint: leave one of them out."
                )
        check_positive(temperature=temperature)
        self.temperature = float(temperature)
        self._bind(model)
        self.mean = self._layer.weights  # (F, K), the bias as the last row
        self.log_likelihood, self._num_train = 0.0, 0
        num_checked = min(500, max(50, _NUM_CHECKED // self.mean.shape[1]))
        self._checked = _Sample(num_checked)
        self.curvature = CURVATURES[covariance].of(self._batches(x, y))
        self._set_scale(1.0 if prior_scale is None else float(prior_scale))
        if validation_data is not None:
            self._set_scale(self._scale_of_validation(validation_data))
        elif prior_scale is None:
            self._set_scale(self._scale_of_evidence())
            # At higher temperatures, even an exact posterior may predict the training data worse.
            if self.temperature <= 1:
                self._check_evidence()
        self._prepare_draws()

    def _bind(self, model: keras.Model) -> None:
        self.model = model
        self._layer = LastLayer(model)
        self.variables = list(self._layer.variables)
        self.note_others()

    def _prepare_draws(self) -> None:
        self._scales = tf.Variable(np.sqrt(self.variances), trainable=False)
        self._mean = tf.Variable(self.mean, trainable=False)

    def draw(self, index: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Return one draw of the last layer's weights, see `Posterior.draw`."""
        del index  # the seed already depends on it
        z = noise.normal(self._scales.shape, seed, tf.float64)
        return self._layer.split(self._mean + self.curvature.rotate(self._scales * z))

    def center(self) -> list[tf.Tensor]:
        """Return the trained weights of the last layer."""
        return self._layer.split(self._mean)

    def predict(self, x) -> np.ndarray:
        """Return the posterior mean of the probabilities (N, K), from one forward pass.

        It integrates over the logits with up to 512 fixed points, so the result is the same in
        each call. Rows with non-finite inputs are NaN. With hundreds of classes, sampling with a
        `Predictor` is faster.

        Args:
            x: Inputs: arrays (N, ...) or a dataset.

        Raises:
            ValueError: If the model was trained further.
        """
        self.check_others()
        if not np.array_equal(self._layer.read_weights(), self.mean):
            raise ValueError(
                "Expected the weights that the posterior was fitted to. Received: a `model` whose "
                "last layer has changed. Hint: create a new LastLayerLaplace after training."
            )
        result = [self._probabilities(phi) for phi in self._layer.features(x)]
        return np.concatenate(result).astype("float32")

    def log_marginal_likelihood(self, prior_scale: float | None = None) -> float:
        """Return the approximate log evidence log p(y | x) in nats.

        Args:
            prior_scale: Prior scale for which to compute it. None uses the posterior's own.
        """
        scale = self.prior_scale if prior_scale is None else prior_scale
        eigenvalues = self.curvature.eigenvalues
        complexity = np.log1p(eigenvalues * scale**2).sum() + np.square(self.mean).sum() / scale**2
        return self.log_likelihood - complexity / 2

    def assign(self, other: Any) -> bool:
        """See `SavedPosterior.assign`."""
        alike = (
            isinstance(other, LastLayerLaplace)
            and list(map(id, other.variables)) == list(map(id, self.variables))
            and type(other.curvature) is type(self.curvature)
            and other.temperature == self.temperature
            and np.array_equal(other._layer.offset, self._layer.offset)
        )
        if alike:
            pairs = zip(self.curvature.variables, other.curvature.variables, strict=True)
            for own, new in [(self._mean, other._mean), (self._scales, other._scales), *pairs]:
                own.assign(new)
            self.curvature.eigenvalues = other.curvature.eigenvalues
            self.mean, self.log_likelihood = other.mean, other.log_likelihood
            self._set_scale(other.prior_scale)
            self.note_others_of(other)
        return alike

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """See `SavedPosterior.get_state`."""
        arrays = {"mean": self.mean, **self.curvature.get_state()}
        names = {kind: name for name, kind in CURVATURES.items()}
        return arrays, {
            "covariance": names[type(self.curvature)],
            "prior_scale": self.prior_scale,
            "temperature": self.temperature,
            "log_likelihood": float(self.log_likelihood),
        }

    @classmethod
    def from_state(cls, model, variables, arrays, settings) -> "LastLayerLaplace":
        """See `SavedPosterior.from_state`."""
        posterior = cls.__new__(cls)
        posterior._bind(model)
        posterior.temperature = settings.get("temperature", 1.0)  # missing in earlier releases
        posterior.mean = arrays.pop("mean")
        posterior.log_likelihood = settings["log_likelihood"]
        posterior.curvature = CURVATURES[settings["covariance"]](**arrays)
        posterior._set_scale(settings["prior_scale"])
        posterior._prepare_draws()
        return posterior

    def _set_scale(self, prior_scale: float) -> None:
        self.prior_scale = prior_scale
        self.variances = self.temperature / (self.curvature.eigenvalues + prior_scale**-2)

    def _scale_of_evidence(self) -> float:
        def objective(log_scale: float) -> float:
            return -self.log_marginal_likelihood(np.exp(log_scale))

        best = minimize_from_grid(objective, _LOG_SCALES)
        if best > _LOG_SCALES[-2]:
            raise ValueError(
                "Expected training data that determine the prior scale. Received: an evidence that "
                f"grows up to prior_scale={np.exp(best):.0f}, because the network is certain of "
                "all labels. Hint: pass validation_data or prior_scale, or train with weight decay."
            )
        return float(np.exp(best))

    def _scale_of_validation(self, validation_data) -> float:
        x, y = unpack_validation_data(validation_data)
        parts = list(self._labelled(x, y, "validation_data"))

        def objective(log_scale: float) -> float:
            self._set_scale(float(np.exp(log_scale)))
            return sum(self._nll(*part) * len(part[1]) for part in parts)

        return float(np.exp(minimize_from_grid(objective, _LOG_SCALES_OF_VALIDATION, 0.01)))

    def _check_evidence(self) -> None:
        """Warn if the posterior predicts the training data worse than their evidence.

        The evidence is the probability of the data predicted one after another, each before it is
        seen. An exact posterior, which has seen the data, predicts them better than that. If the
        normal approximation does not, it has much mass where the likelihood is low.
        """
        before = -self.log_marginal_likelihood() / self._num_train
        after = self._nll(*self._checked.rows())
        if after > before:
            warnings.warn(
                f"The normal approximation at prior_scale={self.prior_scale:.3g} predicts the "
                f"training data with an NLL of {after:.3g}, worse than the negative log evidence "
                f"of {before:.3g} per example, because the network was trained until it was "
                "certain of them. Predictions may be far too uncertain. Pass validation_data or a "
                "smaller prior_scale.",
                stacklevel=3,
            )

    def _nll(self, phi: np.ndarray, y: np.ndarray) -> float:
        p = self._probabilities(phi)[np.arange(len(y)), y]
        return -float(np.log(np.maximum(p, 1e-30)).mean())

    def _probabilities(self, phi: np.ndarray) -> np.ndarray:
        """Return the posterior mean of the softmax (B, K) from features (B, F)."""
        num_classes = self.mean.shape[1]
        largest = num_classes * max(num_classes, self.variances.shape[0], NUM_POINTS)
        rows = max(1, _MAX_NUMBERS // largest)
        finite = np.isfinite(phi).all(axis=1)
        result = np.full((len(phi), num_classes), np.nan)
        for chosen in np.split(np.flatnonzero(finite), range(rows, finite.sum(), rows)):
            covariance = self.curvature.logit_covariance(phi[chosen], self.variances)
            result[chosen] = softmax_mean(phi[chosen] @ self.mean, covariance)
        return result

    def _labelled(self, x, y, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield features (B, F) and labels (B,) after checking them."""
        check_reads_once(x)
        start = 0
        y = np.asarray(y) if isinstance(y, list | tuple) else y
        for phi, labels in self._layer.labelled_features(x, y):
            bad = start + np.flatnonzero(~np.isfinite(phi).all(axis=1))
            if bad.size:
                raise ValueError(
                    f"Expected finite features for every row of `{name}`. Received: NaN or "
                    f"infinity in rows {bad[:5].tolist()}. "
                    "Hint: remove these rows or correct the inputs."
                )
            start += len(phi)
            yield phi, check_labels(labels, len(phi), self.mean.shape[1])
        if not start:
            raise ValueError(
                f"Expected examples in `{name}`. Received: none. "
                "Hint: pass arrays (N, ...) with N > 0."
            )

    def _batches(self, x, y) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield features and probabilities, and add up the log likelihood along the way."""
        for phi, labels in self._labelled(x, y, "x"):
            logits = phi @ self.mean
            self.log_likelihood += log_softmax(logits, axis=1)[np.arange(len(phi)), labels].sum()
            self._num_train += len(phi)
            self._checked.add(phi, labels)
            yield phi, softmax(logits, axis=1)


class _Sample:
    """A reproducible random sample of rows that arrive in batches."""

    def __init__(self, size: int):
        self._size = size
        self._generator = np.random.default_rng(0)
        self._columns: list[np.ndarray] = []

    def add(self, *columns: np.ndarray) -> None:
        joined = [*columns, self._generator.random(len(columns[0]))]
        if self._columns:
            joined = [np.concatenate(pair) for pair in zip(self._columns, joined)]
        chosen = np.argsort(joined[-1])[: self._size]
        self._columns = [column[chosen] for column in joined]

    def rows(self) -> list[np.ndarray]:
        return self._columns[:-1]
