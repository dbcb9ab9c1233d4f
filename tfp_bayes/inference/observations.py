"""Values and curvatures of likelihoods, as functions of the network's output before the link."""

import numpy as np
import tensorflow as tf
from scipy.special import log_expit, log_softmax

from tfp_bayes._plumbing import noise
from tfp_bayes.prediction.likelihoods import get_likelihood

# Groups of positions. A prime, so that neighbors in a row or column of pixels are in different
# groups.
MAX_GROUPS = 17


class Observations:
    """The observations at each position of an output, under one likelihood.

    Let eta (E,) be the output at one position before the link function, such as the logits. The
    matrix of second derivatives of the negative log likelihood in eta is sum_c v_c v_c^T. Under
    "normal" it is replaced by its expectation over targets, the Fisher information.

    Attributes:
        likelihood: Name of the likelihood, see `Predictor`.
        scale: Standard deviations (D,) of the targets if eta does not contain them, otherwise None.
    """

    likelihood: str
    scale: np.ndarray | None = None

    def root(self, eta: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Return v_c (N, ..., E) in the dtype of eta.

        Args:
            eta: Logits, locations, or locations and scales (N, ..., E).
            c: Index below E, int32 scalar.
        """
        raise NotImplementedError

    def log_prob(self, eta: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return log p(y | eta) of each position in nats, (N, ...)."""
        raise NotImplementedError

    def location(self, eta: tf.Tensor) -> tf.Tensor:
        """Return values (N, ..., ·) that are NaN where eta does not define a distribution."""
        return get_likelihood(self.likelihood).location(eta)

    def check(self, eta: np.ndarray, y: object) -> np.ndarray:
        """Check targets and return them as labels for `log_prob`.

        Args:
            eta: Outputs before the link (N, ..., E).
            y: Class numbers (N, ...), zeros and ones (N, ..., K) or real numbers (N, ..., D). An
                axis of length 1 may be left out or added.

        Raises:
            ValueError: If y does not have the required form.
        """
        labels = _existing(y)
        targets = get_likelihood(self.likelihood).targets(self._mean(eta), labels)
        return targets.as_outputs(targets.check(labels, len(eta)))

    def log_likelihood(self, eta: np.ndarray, y: object, seen: np.ndarray | None = None) -> float:
        """Return the sum of log p(y | eta) over a batch, in nats.

        Args:
            eta: Outputs before the link (N, ..., E), float64.
            y: Targets, as for `check`.
            seen: Boolean mask (N, ...) of the positions that count. None counts all.
        """
        values = self.log_prob(eta, self.check(eta, y))
        return float(np.where(True if seen is None else seen, values, 0).sum())

    def _mean(self, eta: np.ndarray) -> np.ndarray:
        return eta


class Categorical(Observations):
    """One of K classes, with a softmax as the link."""

    likelihood = "categorical"

    def root(self, eta, c):
        """Return sqrt(p_c) (e_c - p)."""
        p = tf.nn.softmax(eta)
        return tf.sqrt(tf.gather(p, [c], axis=-1)) * (_one_hot(eta, c) - p)

    def log_prob(self, eta, labels):
        """Return the log of the softmax at the observed class."""
        return np.take_along_axis(log_softmax(eta, axis=-1), labels[..., None], axis=-1)[..., 0]

    def check(self, eta, y):
        """See `Observations.check`."""
        labels = _existing(y)
        if labels.shape == (*eta.shape[:-1], 1):
            labels = labels[..., 0]
        return get_likelihood(self.likelihood).targets(eta, labels).check(labels, len(eta))


class Bernoulli(Observations):
    """K binary outcomes, with a sigmoid as the link."""

    likelihood = "bernoulli"

    def root(self, eta, c):
        """Return sqrt(p_c (1 - p_c)) e_c."""
        return tf.sqrt(tf.sigmoid(eta) * tf.sigmoid(-eta)) * _one_hot(eta, c)

    def log_prob(self, eta, labels):
        """Return the sum over outcomes of the log of the sigmoid."""
        return log_expit(np.where(labels == 1, eta, -eta)).sum(-1)


class NormalWithScales(Observations):
    """D real numbers, where eta contains locations and scales (..., 2 D)."""

    likelihood = "normal"

    def root(self, eta, c):
        """Return e_c / scale if c is a location, and sqrt(2) e_c / scale if c is a scale."""
        half = eta.shape[-1] // 2
        scale = tf.concat([eta[..., half:]] * 2, axis=-1)
        return _one_hot(eta, c) * tf.sqrt(1 + tf.cast(c >= half, eta.dtype)) / scale

    def log_prob(self, eta, labels):
        """Return the sum over targets of the log density."""
        return _log_normal(labels, *np.split(eta, 2, axis=-1))

    def _mean(self, eta):
        return eta[..., : eta.shape[-1] // 2]


class NormalLocations(Observations):
    """D real numbers, where eta contains locations (..., D) and the scales are constant.

    Args:
        scale: Standard deviations (D,) of the targets around their locations.
        num_numbers: Number of residuals that the scale was estimated from, by their mean square.
            None if the scale was given.
    """

    likelihood = "normal"
    scale: np.ndarray

    def __init__(self, scale: np.ndarray, num_numbers: int | None = None):
        self.scale = scale
        self.num_numbers = num_numbers

    def root(self, eta, c):
        """Return e_c / scale."""
        return _one_hot(eta, c) / tf.constant(self.scale, eta.dtype)

    def log_prob(self, eta, labels):
        """Return the sum over targets of the log density."""
        return _log_normal(labels, eta, self.scale)

    def location(self, eta):
        """Return eta."""
        return eta


OBSERVATIONS: dict[str, type[Observations]] = {
    each.likelihood: each for each in (Categorical, Bernoulli, NormalWithScales)
}


def num_roots(eta: tf.Tensor) -> tf.Tensor:
    """Return the number of vectors that `root` gives for an output (N, ..., E), int32."""
    return eta.shape[-1] * _num_groups(eta)


def root(
    observations: Observations,
    eta: tf.Tensor,
    seen: tf.Tensor | None,
    index: tf.Tensor,
    start: tf.Tensor,
) -> tf.Tensor:
    """Return a vector v (N, ..., E) that is nonzero at one position, or in one group of positions.

    An output with up to `MAX_GROUPS` positions gets separate vectors for each position. In larger
    outputs, the positions of a group share a vector and have random signs, so sums of products
    J^T v v^T J are correct in expectation.

    Args:
        observations: Observations of the output.
        eta: Outputs before the link (N, ..., E).
        seen: Boolean mask (N, ...) of the positions that count. None counts all.
        index: Number of the vector, an int32 scalar below `num_roots`.
        start: Number of examples in earlier batches, an int32 scalar that seeds the signs.
    """
    groups = _num_groups(eta)
    v = observations.root(eta, index // groups)
    if eta.shape.rank == 2:
        return v
    leading = tf.shape(eta)[:-1]
    size = tf.reduce_prod(leading[1:])
    signs = noise.coins([leading[0], size], tf.stack([start, index])) * 2 - 1
    chosen = tf.where(tf.range(size) % groups == index % groups, signs, 0)
    chosen = tf.cast(tf.reshape(chosen, leading), eta.dtype)
    if seen is not None:
        chosen *= tf.cast(seen, eta.dtype)
    return v * chosen[..., None]


def _num_groups(eta: tf.Tensor) -> tf.Tensor:
    return tf.minimum(tf.reduce_prod(tf.shape(eta)[1:-1]), MAX_GROUPS)


def _existing(y: object) -> np.ndarray:
    if y is None:
        raise ValueError(
            "Expected targets for `y`. Received: none. Hint: pass arrays x and y, or a dataset of "
            "pairs (x, y)."
        )
    return np.asarray(y)


def _one_hot(eta: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
    return tf.zeros_like(eta) + tf.one_hot(c, eta.shape[-1], dtype=eta.dtype)


def _log_normal(y: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> np.ndarray:
    z = (y - loc) / scale
    return -(0.5 * (z**2 + np.log(2 * np.pi)) + np.log(scale)).sum(-1)
