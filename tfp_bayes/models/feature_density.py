"""Out-of-distribution scores from the density of a trained classifier's features."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from scipy.special import logsumexp

from tfp_bayes._plumbing.checks import check_labels
from tfp_bayes._plumbing.configured import Configured, check_positive
from tfp_bayes._plumbing.digest import digest
from tfp_bayes.inference.features import Features
from tfp_bayes.inference.saved import SavedPosterior, load_posterior, saved_as
from tfp_bayes.models.class_normals import ClassMoments, ClassNormals
from tfp_bayes.models.embedding import Embedding

_COVARIANCES = ("own", "shared")


class FeatureDensity(Configured):
    """An out-of-distribution score for a trained classifier, from one pass over its training data.

    Use it to find inputs unlike all training data. It fits a normal distribution to the features
    of each class, where the features are the inputs of the network's last layer. The score of an
    input is minus the log density of its features: **the higher the score, the more unusual the
    input**. The score does not measure ambiguity between similar classes. Use the entropy of the
    predictions for that.

    Fit it to the data that the network was trained on, never to test data. The score cannot
    distinguish inputs that the network maps to the same features. This happens least in residual
    networks whose kernels have a `SpectralNormConstraint`.

    Args:
        covariance: "shared" for one covariance of all classes (linear discriminant analysis, the
            Mahalanobis distance), or "own" for one per class (as in DDU). The covariance of a
            class with no more examples than features is singular, so such a class uses the shared
            one, with a warning.
        ridge: Variance added to each feature, as a fraction of the average variance of a feature
            within classes. It determines the score of inputs that differ from the training data
            in directions in which the training data do not vary.

    Raises:
        ValueError: If `covariance` is unknown or `ridge` is not positive.

    Reference:
        Mukhoti et al. 2023, "Deep Deterministic Uncertainty", section 3 and algorithm 1,
        arXiv:2102.11582. For the shared covariance, Lee et al. 2018, equation 1, arXiv:1807.03888.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((2,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(3, "softmax")])
    >>> x, y = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 3
    >>> density = FeatureDensity().fit(model, x, y)
    >>> bool(density.score(np.full((1, 2), 9.0)) > density.score(x).max())
    True
    """

    def __init__(self, covariance: str = "shared", ridge: float = 1e-3):
        if covariance not in list(_COVARIANCES):
            raise ValueError(
                f"Expected one of {list(_COVARIANCES)} for `covariance`. "
                f"Received: covariance={covariance!r}. Hint: 'shared' needs the least data."
            )
        check_positive(ridge=ridge)
        self.covariance = covariance
        self.ridge = float(ridge)

    def fit(
        self, model: keras.Model, x: Any, y: np.ndarray | None = None
    ) -> "FittedFeatureDensity":
        """Estimate the densities in one pass over the data, in float64.

        Args:
            model: A trained functional or Sequential classifier with one output (N, K). It is not
                changed. Stochastic layers are evaluated at their posterior means.
            x: Training data of the model: arrays (N, ...), or a dataset of (x, y).
            y: Integer labels (N,) or (N, 1), or None if `x` is a dataset.

        Returns:
            The fitted densities, whose `score` rates inputs.

        Raises:
            ValueError: If the model is not such a classifier, features are not finite, labels are
                out of range, or features do not vary within classes.
        """
        features = _Network(model)
        moments = ClassMoments(features.num_classes, self.covariance == "own")
        start = 0
        y = np.asarray(y) if isinstance(y, list | tuple) else y
        for phi, labels in features(x, y):
            bad = start + np.flatnonzero(~np.isfinite(phi).all(axis=1))
            if bad.size:
                raise ValueError(
                    "Expected finite features of every row of `x`. Received: NaN or infinity in "
                    f"rows {bad[:5].tolist()}. Hint: leave these rows out, or correct the inputs."
                )
            moments.add(phi, check_labels(labels, len(phi), features.num_classes))
            start += len(phi)
        if not start:
            raise ValueError("Expected examples in `x`. Received: none. Hint: arrays (N, ...).")
        normals, small = moments.normals(self.ridge)
        if self.covariance == "own" and small.size:
            warnings.warn(
                f"Classes {small[:5].tolist()} have no more than {normals.means.shape[1]} examples "
                "each, which is the number of features: they use the covariance that is shared by "
                "all classes.",
                stacklevel=2,
            )
        return FittedFeatureDensity(model, features, normals)


@saved_as
class FittedFeatureDensity(SavedPosterior):
    """Class-conditional densities of features, fitted by `FeatureDensity.fit`.

    `save` writes them to a separate file, next to the saved model.

    Attributes:
        model: The model that computes the features.
        classes: Integers (C,), the classes that occurred among the examples.
    """

    def __init__(self, model: keras.Model, features: "_Network", normals: ClassNormals):
        self.model = model
        self.variables = []  # no model variable is replaced
        self.note_others()
        self.classes = normals.classes
        self._features, self._normals = features, normals

    def score(self, x: Any) -> np.ndarray:
        """Return how unusual each input is: minus the log density of its features.

        Args:
            x: Inputs: arrays (N, ...) or a dataset.

        Returns:
            Array (N,) float64 of -log sum_k pi_k N(h; mu_k, Sigma_k) in nats. Higher means more
            unusual, as `metrics.auroc` and the other detection metrics expect. It may be negative,
            because a density can exceed 1. NaN where inputs or features are not finite.

        Raises:
            ValueError: If the model was trained further after `fit`.
        """
        return -logsumexp(self.class_log_densities(x), axis=1)

    def class_log_densities(self, x: Any) -> np.ndarray:
        """Return log pi_k + log N(h; mu_k, Sigma_k), (N, C), for each of `classes`. See `score`."""
        self._features.check_unchanged()
        return np.concatenate(list(self._log_joint(x)))

    def _log_joint(self, x: Any) -> Iterator[np.ndarray]:
        for phi, _ in self._features(x):
            finite = np.isfinite(phi).all(axis=1)
            result = np.full((len(phi), len(self.classes)), np.nan)
            result[finite] = self._normals.log_joint(phi[finite])
            yield result

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """See `SavedPosterior.get_state`."""
        return self._normals._asdict(), {}

    @classmethod
    def from_state(cls, model, variables, arrays, settings) -> "FittedFeatureDensity":
        """See `SavedPosterior.from_state`."""
        return cls(model, _Network(model), ClassNormals(**arrays))

    @staticmethod
    def load(path: str | Path, model: keras.Model) -> "FittedFeatureDensity":
        """Read densities that `save` wrote, for the same model with the same weights.

        Args:
            path: Path of the file.
            model: The model, for example from `keras.models.load_model`.

        Raises:
            ValueError: If the file holds something else, or belongs to another model.
        """
        found = load_posterior(path, model)
        if not isinstance(found, FittedFeatureDensity):
            raise ValueError(
                "Expected a file that FittedFeatureDensity.save wrote for `path`. Received: "
                f"path={str(path)!r} with a {type(found).__name__}. Hint: load_posterior reads it."
            )
        return found


class _Network:
    """A classifier up to its last layer, at the current posterior means."""

    def __init__(self, model: keras.Model):
        self._embedding = Embedding(model)
        self._embedding.copy.refresh()
        network = self._embedding.features
        outputs = self._embedding.copy.model.outputs
        if len(outputs) != 1 or len(outputs[0].shape) != 2:
            raise ValueError(
                "Expected a `model` with one output (N, K). Received: "
                f"model={model.name!r} with outputs {[tuple(o.shape) for o in outputs]}. "
                "Hint: keras.Model(model.input, output) of one of them."
            )
        shape = tuple(network.outputs[0].shape)
        if len(shape) != 2 or shape[1] is None:
            raise ValueError(
                "Expected a `model` whose last layer with a kernel has inputs (N, F). Received: "
                f"model={model.name!r}, where they are {shape}. "
                "Hint: pool or flatten before a last Dense layer."
            )
        self.num_classes = max(outputs[0].shape[1], 2)  # a single sigmoid is for two classes
        self._run = Features(network)
        self._digest = self._digest_weights()

    def __call__(self, x: Any, y: Any = None) -> Iterator[tuple[np.ndarray, Any]]:
        """See `Features`."""
        return self._run(x, y)

    def check_unchanged(self) -> None:
        """Raise ValueError if the network was trained further."""
        self._embedding.copy.refresh()
        if self._digest_weights() != self._digest:
            raise ValueError(
                "Expected the weights that the densities were fitted with. Received: a `model` "
                "that has changed. Hint: fit FeatureDensity again after training."
            )

    def _digest_weights(self) -> str:
        return digest([w.numpy() for w in self._embedding.features.weights])
