"""The density of training data around an input, in the features of a trained classifier."""

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
    """A score of strangeness for any trained classifier, from one pass over its training data.

    Use it to find inputs unlike all that the network was trained on. It fits a normal distribution
    to the features of each class, which are the inputs of the network's last layer, and scores an
    input by minus the log density of its features: **the higher, the stranger**. It says nothing
    of doubt between classes that look alike; for that, take the entropy of the predictions.

    Fit it to the data that the network was trained on, never to test data. Inputs that the
    network maps to the same features are not told apart here; residual networks whose kernels have
    a `SpectralNormConstraint` map the fewest so.

    Args:
        covariance: "shared" by all classes (linear discriminant analysis, the Mahalanobis
            distance), or "own" for each (as in DDU). A class with no more examples than features
            has a singular one of its own and takes the shared one; a warning says so.
        ridge: Added to each variance, as a share of the average variance of a feature within
            classes. It decides how strange an input is that differs where training data do not.

    Raises:
        ValueError: If an argument is none of these.

    Reference:
        Mukhoti et al. 2023, "Deep Deterministic Uncertainty", section 3 and algorithm 1,
        arXiv:2102.11582; Lee et al. 2018, equation 1, arXiv:1807.03888, for the shared one.

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
                f"Received: covariance={covariance!r}. Hint: 'shared' needs the fewest data."
            )
        check_positive(ridge=ridge)
        self.covariance = covariance
        self.ridge = float(ridge)

    def fit(
        self, model: keras.Model, x: Any, y: np.ndarray | None = None
    ) -> "FittedFeatureDensity":
        """Estimates the densities, in one pass and in float64.

        Args:
            model: A trained functional or Sequential classifier with one output (N, K), which is
                not changed. Of stochastic layers the posterior means are taken.
            x: Its training data: arrays (N, ...), or a dataset of (x, y).
            y: Integer labels (N,) or (N, 1); None for a dataset.

        Returns:
            What scores inputs.

        Raises:
            ValueError: If the model is not of that kind, inputs are not finite, labels are out of
                range, or features do not vary within classes.
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
                    f"rows {bad[:5].tolist()}. Hint: leave them out, or mend the inputs."
                )
            moments.add(phi, check_labels(labels, len(phi), features.num_classes))
            start += len(phi)
        if not start:
            raise ValueError("Expected examples in `x`. Received: none. Hint: arrays (N, ...).")
        normals, small = moments.normals(self.ridge)
        if self.covariance == "own" and small.size:
            warnings.warn(
                f"Classes {small[:5].tolist()} have no more than {normals.means.shape[1]} examples "
                "each, as many as there are features: they take the covariance that all classes "
                "share.",
                stacklevel=2,
            )
        return FittedFeatureDensity(model, features, normals)


@saved_as
class FittedFeatureDensity(SavedPosterior):
    """Densities of features, as `FeatureDensity.fit` has found them.

    `save` writes them beside the saved model.

    Attributes:
        model: The model whose features they are of.
        classes: (C,) integers, the classes of which there were examples.
    """

    def __init__(self, model: keras.Model, features: "_Network", normals: ClassNormals):
        self.model = model
        self.variables = []  # all weights stay as they are
        self.classes = normals.classes
        self._features, self._normals = features, normals

    def score(self, x: Any) -> np.ndarray:
        """Returns how strange each input is: minus the log density of its features.

        Args:
            x: Inputs: arrays (N, ...) or a dataset.

        Returns:
            (N,) float64, -log sum_k pi_k N(h; mu_k, Sigma_k) in nats, the higher the stranger, as
            `metrics.auroc` and the other scores of detection take it. It is that of a density, so
            that it may be negative. NaN where inputs or features are not finite.

        Raises:
            ValueError: If the model was trained further.
        """
        return -logsumexp(self.class_log_densities(x), axis=1)

    def class_log_densities(self, x: Any) -> np.ndarray:
        """Returns log pi_k + log N(h; mu_k, Sigma_k) for each of `classes`, (N, C), see `score`."""
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
        """Reads densities that `save` wrote, for the same model with the same weights.

        Args:
            path: The file.
            model: The model, such as from `keras.models.load_model`.

        Raises:
            ValueError: If the file is none of these, or the model is another.
        """
        found = load_posterior(path, model)
        if not isinstance(found, FittedFeatureDensity):
            raise ValueError(
                "Expected a file that FittedFeatureDensity.save wrote for `path`. Received: "
                f"path={str(path)!r} with a {type(found).__name__}. Hint: load_posterior reads it."
            )
        return found


class _Network:
    """A classifier up to its last layer, at the posterior means, as it is now."""

    def __init__(self, model: keras.Model):
        self._embedding = Embedding(model)
        self._embedding.copy.refresh()
        network = self._embedding.features
        outputs = self._embedding.copy.model.outputs
        if len(outputs) != 1 or len(outputs[0].shape) != 2:
            raise ValueError(
                "Expected a `model` with one output (N, K). Received: "
                f"model={model.name!r} with outputs {[tuple(o.shape) for o in outputs]}. "
                "Hint: keras.Model(model.input, one of them)."
            )
        shape = tuple(network.outputs[0].shape)
        if len(shape) != 2 or shape[1] is None:
            raise ValueError(
                "Expected a `model` whose last layer with a kernel sees vectors (N, F). Received: "
                f"model={model.name!r}, where it sees {shape}. "
                "Hint: pool or flatten before a last Dense layer."
            )
        self.num_classes = max(outputs[0].shape[1], 2)  # one output is that of two classes
        self._run = Features(network)
        self._digest = self._digest_weights()

    def __call__(self, x: Any, y: Any = None) -> Iterator[tuple[np.ndarray, Any]]:
        """See `Features`."""
        return self._run(x, y)

    def check_unchanged(self) -> None:
        """Raises ValueError if the network was trained further."""
        self._embedding.copy.refresh()
        if self._digest_weights() != self._digest:
            raise ValueError(
                "Expected the weights that the densities were fitted with. Received: a `model` "
                "that has changed. Hint: fit FeatureDensity again after training."
            )

    def _digest_weights(self) -> str:
        return digest([w.numpy() for w in self._embedding.features.weights])
