"""Temperature scaling of a Bayesian model, kept with the model."""

import warnings
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.probabilities import two_classes
from tfp_bayes.export import PREDICT_SEED
from tfp_bayes.prediction.likelihoods import get_likelihood
from tfp_bayes.prediction.predictor import DEFAULT_BATCH_SIZE, Predictor
from tfp_bayes.uncertainty import fit_temperature

if TYPE_CHECKING:
    from keras import Model as _Base  # what the mixin is mixed into
else:
    _Base = object

_KEY = "output_temperature"
_NEAR_BOUND = 19.0  # of the search, whose bounds are 1 / 20 and 20


class Calibrated(_Base):
    """A mixin of `BayesianModel`: the temperature of its pooled predictions.

    It is a variable that is saved and exported with the model, but not among `weights`: it is no
    part of the network, which posteriors, copies and fresh starts are about.

    Attributes:
        output_temperature: Float32 scalar, 1 until `calibrate`. None for what has no temperature:
            several outputs, and likelihood="normal".
    """

    predictor: Predictor
    num_samples: int
    output_temperature: tf.Variable | None

    def calibrate(self, x: Any, y: ArrayLike, batch_size: int = DEFAULT_BATCH_SIZE) -> float:
        """Fits the temperature of the posterior predictive mean on held-out examples.

        Use it after training, where probabilities are to be read as frequencies. `predict`,
        `predict_uncertainty`, `evaluate`, `.keras` and `.weights.h5` files and `export` have it
        from then on; `fit` sets it back to 1, since other weights need another one.

        What is tempered is the mean over samples, which becomes proportional to p^(1/T), so the
        likeliest class stays. `predictive_entropy` is that of the tempered mean, and
        `mutual_information` and `expected_entropy` keep their shares of it, variances alike, so
        sums hold and nothing is below 0. The samples themselves (`sample`, `return_samples`), one
        call of the model, `to_deterministic` and a `Predictor` with a posterior of its own are not
        tempered.

        Args:
            x: Inputs (N, ...) that were not trained on, some hundreds or more.
            y: Labels: integers (N,) or (N, 1) for "categorical", one for each pixel or time step
                if there are several; 0 and 1, (N,) or (N, K), for "bernoulli".
            batch_size: Rows of arrays at a time.

        Returns:
            The temperature; above 1 the model was too sure.

        Raises:
            ValueError: If the model has several outputs or real targets, or labels do not fit.

        Reference:
            Guo et al. 2017, equation 9, arXiv:1706.04599; of the pooled mean, Rahaman and Thiery
            2021, section 3, arXiv:2007.08792.

        Example:

        >>> model = tfp_bayes.BayesianMLP((4,), 3, seed=0)
        >>> x, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
        >>> temperature = model.calibrate(x, y)
        >>> model.save(tmp_path / "model.keras")
        >>> loaded = keras.models.load_model(tmp_path / "model.keras")
        >>> loaded.output_temperature.numpy() == np.float32(temperature)
        np.True_
        """
        if self.output_temperature is None:
            raise ValueError(
                "Expected a model with one output of probabilities to calibrate. Received: "
                f"{len(self.outputs)} output(s), likelihood={self.predictor.likelihood!r}. Hint: "
                "uncertainty.Conformal(model, 'normalized') calibrates intervals of real targets."
            )
        before = self._temperature()
        self.output_temperature.assign(1.0)
        try:
            prediction = self.predictor.predict_uncertainty(
                x, self.num_samples, PREDICT_SEED, batch_size
            )
            found = fit_temperature(
                *_as_classes(np.asarray(y), prediction.mean, prediction.likelihood)
            )
        except BaseException:
            self.output_temperature.assign(before)
            raise
        if not 1 / _NEAR_BOUND < found < _NEAR_BOUND:
            warnings.warn(
                f"The temperature of smallest loss is {found:.3g}, at the end of what is searched: "
                "labels are all right or all by chance. Calibrate on more examples, none of which "
                "was trained on.",
                stacklevel=2,
            )
        self.output_temperature.assign(found)
        return self._temperature()

    def _make_temperature(self) -> None:
        names = keras.tree.flatten(self.predictor.likelihood)
        has_one = len(self.outputs) == 1 and "normal" not in names
        self.output_temperature = (
            tf.Variable(1.0, trainable=False, dtype="float32", name=_KEY) if has_one else None
        )

    def _temperature(self) -> float:
        """Returns the value, 1 without; also of a variable that a strategy has mirrored."""
        variable = self.output_temperature
        return 1.0 if variable is None else float(tf.convert_to_tensor(variable))

    def _forget_temperature(self) -> None:
        """Sets the temperature back to 1, for training."""
        if self.output_temperature is not None and self._temperature() != 1:
            warnings.warn(
                "fit() sets the temperature of calibrate() back to 1: call calibrate again "
                "after training.",
                stacklevel=3,
            )
            self.output_temperature.assign(1.0)

    # A file has a temperature only if it is not 1, so files with and without it load.

    def save_own_variables(self, store: MutableMapping) -> None:
        """Writes the model's own variables as Keras does, and the temperature."""
        super().save_own_variables(store)
        if self._temperature() != 1:
            store[_KEY] = np.float32(self._temperature())

    def load_own_variables(self, store: MutableMapping) -> None:
        """Reads what `save_own_variables` wrote."""
        keys = list(store.keys())  # that of an HDF5 file cannot be iterated over
        super().load_own_variables({key: store[key] for key in keys if key != _KEY})
        if self.output_temperature is not None:
            self.output_temperature.assign(store[_KEY] if _KEY in keys else 1.0)


def _as_classes(y: np.ndarray, mean: np.ndarray, likelihood: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns class numbers (n,) and probabilities (n, K), of all positions and outputs."""
    if likelihood == "bernoulli":
        labels = get_likelihood(likelihood).targets(mean, y).check(y, len(mean))
        return labels.reshape(-1), two_classes(mean.reshape(-1, 1))
    if y.shape == (*mean.shape[:-1], 1):
        y = y[..., 0]
    if y.shape == mean.shape[:-1]:
        y = y.reshape(-1)
    return y, mean.reshape(-1, mean.shape[-1])
