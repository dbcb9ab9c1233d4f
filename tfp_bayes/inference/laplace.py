"""Laplace's approximation for the last layer of a trained classifier."""

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from scipy.special import log_softmax, softmax

from tfp_bayes._plumbing.batches import count_rows
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.optimize import minimize_from_grid
from tfp_bayes.inference.curvature import CURVATURES
from tfp_bayes.layers import stochastic_layers

_BATCH_SIZE = 1024
_LOG_SCALES = np.linspace(np.log(1e-4), np.log(1e4), 81)  # where the evidence is looked at first


class LastLayerLaplace(tf.Module):
    """A normal posterior over the last layer's weights, made after training, from one pass.

    Use it to calibrate a network that is trained already: the network itself is not changed and
    its best guesses hardly are. `predict` gives probabilities from one forward pass (the probit
    approximation); as the `posterior` of a `Predictor` it gives samples, measures and an export,
    and the network runs once for all samples.

    Args:
        model: A trained functional or Sequential Keras model that ends in a Dense layer with a
            softmax, without stochastic layers. Its weights must not change any more.
        x: The training data: array (N, ...).
        y: Integer labels (N,).
        covariance: "full" (K F x K F, for some thousand weights), "kronecker" (F x F and K x K)
            or "diagonal".
        prior_scale: Standard deviation of each weight and bias of the layer before data; None
            takes that of largest evidence.

    Attributes:
        prior_scale: As given or found.
        num_draws: None: every draw is new.

    Raises:
        ValueError: If the model does not end as said, a label is out of range, or an argument is.

    Reference:
        Daxberger et al. 2021, "Laplace Redux", sections 2 and 3, arXiv:2106.14806; MacKay 1992,
        "The Evidence Framework Applied to Classification Networks", equation 10 (probit).

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

    def __init__(
        self,
        model: keras.Model,
        x: np.ndarray,
        y: np.ndarray,
        covariance: str = "full",
        prior_scale: float | None = None,
    ):
        super().__init__()
        if covariance not in CURVATURES:
            raise ValueError(
                f"Expected one of {sorted(CURVATURES)} for `covariance`. "
                f"Received: covariance={covariance!r}. Hint: 'full' is the most exact."
            )
        if prior_scale is not None:
            check_positive(prior_scale=prior_scale)
        layer = _last_layer(model)
        self._network = keras.Model(model.inputs, layer.input)
        self._weights = list(layer.trainable_variables)
        self.mean = np.concatenate([np.atleast_2d(v.numpy()) for v in self._weights]).astype(
            "float64"
        )  # (F, K), the bias as the last row
        y = _checked_labels(y, count_rows(x), self.mean.shape[1])
        self.log_likelihood = 0.0
        self.curvature = CURVATURES[covariance](self._batches(x, y))
        self.prior_scale = self._best_scale() if prior_scale is None else float(prior_scale)
        self.variances = 1 / (self.curvature.eigenvalues + self.prior_scale**-2)
        self._scales = tf.Variable(np.sqrt(self.variances), trainable=False)
        self._mean = tf.Variable(self.mean, trainable=False)

    @property
    def variables(self) -> list[keras.Variable]:
        """Kernel and bias of the last layer, see `Posterior`."""
        return list(self._weights)

    def draw(self, index: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Returns one draw of the last layer's weights, see `Posterior.draw`."""
        del index  # the seed differs with it already
        noise = tf.random.stateless_normal(self._scales.shape, seed, dtype="float64")
        return self._parts(self._mean + self.curvature.rotate(self._scales * noise))

    def center(self) -> list[tf.Tensor]:
        """Returns the last layer's weights as they were trained."""
        return self._parts(self._mean)

    def _parts(self, weights: tf.Tensor) -> list[tf.Tensor]:
        """Splits weights (F, K) into kernel and bias."""
        parts = [weights] if len(self._weights) == 1 else [weights[:-1], weights[-1]]
        return [tf.cast(part, v.dtype) for part, v in zip(parts, self._weights)]

    def predict(self, x) -> np.ndarray:
        """Returns probabilities (N, K) without sampling, from one forward pass.

        Logits are divided by sqrt(1 + pi / 8 variance), which is where a probit would put them.

        Args:
            x: Inputs (N, ...).
        """
        result = []
        for phi in self._features(x):
            variance = self.curvature.logit_variance(phi, self.variances)
            result.append(softmax(phi @ self.mean / np.sqrt(1 + np.pi / 8 * variance), axis=1))
        return np.concatenate(result).astype("float32")

    def log_marginal_likelihood(self, prior_scale: float | None = None) -> float:
        """Returns the approximate log evidence log p(y | x) in nats.

        Args:
            prior_scale: At this prior scale; None takes the posterior's own.
        """
        scale = self.prior_scale if prior_scale is None else prior_scale
        eigenvalues = self.curvature.eigenvalues
        complexity = np.log1p(eigenvalues * scale**2).sum() + np.square(self.mean).sum() / scale**2
        return self.log_likelihood - complexity / 2

    def _best_scale(self) -> float:
        def objective(log_scale: float) -> float:
            return -self.log_marginal_likelihood(np.exp(log_scale))

        return float(np.exp(minimize_from_grid(objective, _LOG_SCALES)))

    def _features(self, x) -> Iterator[np.ndarray]:
        """Yields what the last layer sees, with a 1 for the bias, (B, F) float64."""
        for start in range(0, len(x), _BATCH_SIZE):
            batch = self._network.predict_on_batch(x[start : start + _BATCH_SIZE])
            phi = np.asarray(batch, "float64")
            with_bias = len(self._weights) == 2
            yield np.pad(phi, ((0, 0), (0, 1)), constant_values=1.0) if with_bias else phi

    def _batches(self, x, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields features and probabilities, and sums up the log likelihood on the way."""
        start = 0
        for phi in self._features(x):
            logits = phi @ self.mean
            labels = y[start : start + len(phi)]
            self.log_likelihood += log_softmax(logits, axis=1)[np.arange(len(phi)), labels].sum()
            start += len(phi)
            yield phi, softmax(logits, axis=1)


def _last_layer(model: keras.Model) -> keras.layers.Dense:
    layer = model.layers[-1] if getattr(model, "layers", None) else None
    softmaxed = getattr(layer, "activation", None) is keras.activations.softmax
    if not isinstance(layer, keras.layers.Dense) or not softmaxed or not model.inputs:
        raise ValueError(
            "Expected a functional or Sequential `model` whose last layer is a Dense with a "
            f"softmax. Received: model={model.name!r}, whose last layer is "
            f"{type(layer).__name__}. Hint: put the softmax into the Dense layer."
        )
    random = stochastic_layers(model)
    if random:
        raise ValueError(
            "Expected a `model` without stochastic layers. Received: "
            f"{[each.name for each in random]}. Hint: LastLayerLaplace(to_deterministic(model))."
        )
    return layer


def _checked_labels(y, size: int, num_classes: int) -> np.ndarray:
    y = np.asarray(y).reshape(-1)
    valid = y.dtype.kind in "iu" and len(y) == size and size
    if not valid or not 0 <= y.min() <= y.max() < num_classes:
        raise ValueError(
            f"Expected {size or 'some'} integer labels in [0, {num_classes}) for `y`. "
            f"Received: {y.dtype} array of {len(y)}"
            + (f", from {y.min()} to {y.max()}" if y.size else "")
            + ". Hint: class numbers, one for each row of x."
        )
    return y
