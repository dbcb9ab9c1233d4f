"""Calibration of a Bayesian model, saved and exported with the model."""

import warnings
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.batches import batches
from tfp_bayes._plumbing.keras_internals import timestep_mask
from tfp_bayes._plumbing.probabilities import as_labelled, as_weights
from tfp_bayes.export import PREDICT_SEED
from tfp_bayes.models.seen_outputs import output_masks
from tfp_bayes.prediction import Prediction
from tfp_bayes.prediction.calibration import ARRAYS, Calibration
from tfp_bayes.prediction.likelihoods import get_likelihood
from tfp_bayes.prediction.predictor import DEFAULT_BATCH_SIZE, Predictor
from tfp_bayes.uncertainty import Isotonic, VectorScaling
from tfp_bayes.uncertainty.cautious import cautious_temperature, held_out_gain

if TYPE_CHECKING:
    from keras import Model as _Base  # the class that the mixin extends
else:
    _Base = object

_CLASSWISE = {"vector": VectorScaling, "isotonic": Isotonic}
# Keys in files. The temperature has had this key since the first release.
_KEYS = {
    method: {name: f"output_{method}_{name}" for name in names} for method, names in ARRAYS.items()
} | {"temperature": {"temperature": "output_temperature"}}
_IDENTITY = {"temperature": np.ones(())}
_NEAR_BOUND = 19.0  # close to the upper bound of the search, which goes from 1 / 20 to 20


class Calibrated(_Base):
    """A mixin of `BayesianModel` that calibrates its posterior predictive mean.

    The parameters are variables that are saved and exported with the model. They are not among
    `weights`, because they are not part of the network that posteriors, copies and new initial
    weights are about.

    Attributes:
        output_calibration: The calibration, a temperature of 1 until `calibrate` is called. None
            for models without a single output of probabilities: those with several outputs, and
            those with likelihood="normal".
    """

    predictor: Predictor
    output_calibration: Calibration | None

    def calibrate(
        self,
        x: Any,
        y: ArrayLike,
        batch_size: int = DEFAULT_BATCH_SIZE,
        *,
        method: str = "temperature",
        sample_weight: ArrayLike | None = None,
    ) -> float | VectorScaling | Isotonic | list[VectorScaling] | list[Isotonic]:
        """Fit a calibration of the posterior predictive mean on held-out examples.

        Use it after training, if probabilities are to be read as frequencies. From then on,
        `predict`, `predict_uncertainty`, `evaluate`, `export`, and `.keras` and `.weights.h5`
        files include the calibration. `fit` and `train_on_batch` undo it, because new weights need
        a new one; after a training loop of your own, call `calibrate` again.

        - "temperature" makes the mean proportional to p^(1/T), which leaves the most probable
          class unchanged. T is the value closest to 1 whose loss is within one standard error of
          the smallest loss, because few errors say little about T. See `cautious_temperature` in
          `tfp_bayes.uncertainty.cautious`.
        - "vector" is `uncertainty.VectorScaling`, for hundreds of examples and some of each class.
        - "isotonic" is `uncertainty.Isotonic`, for thousands of examples.

        The latter two are checked by 5-fold cross-validation. If the held-out loss does not fall
        by more than its standard error, the model is left uncalibrated with a warning.

        The calibration applies to the mean over samples. `predictive_entropy` is the entropy of
        the calibrated mean. `mutual_information` and `expected_entropy` keep their shares of it,
        and variances are treated in the same way, so sums still hold and nothing is negative. Not
        calibrated are the samples themselves (`sample`, `return_samples`), a single call of the
        model, `to_deterministic`, and a `Predictor` with another posterior.

        Args:
            x: Held-out inputs (N, ...), a few hundred or more.
            y: Labels: integers (N,) or (N, 1) for "categorical", with one label for each pixel or
                time step if the output has several; 0 or 1, (N,) or (N, K), for "bernoulli".
                Labels of masked time steps are not read.
            batch_size: Number of rows of an array per batch.
            method: "temperature", "vector" or "isotonic".
            sample_weight: Weights (N,) of the examples, for instance to correct for classes that
                are over-represented among them. None weights all examples equally.

        Returns:
            The temperature, which is above 1 if the model was overconfident. For the other
            methods, the fitted object, or a list of one object per output for several sigmoids.

        Raises:
            ValueError: If the model has several outputs or real-valued targets, labels or weights
                do not fit, or there are too few examples for the method. Cross-validation needs
                two, even if one has thousands of pixels.

        Reference:
            Guo et al. 2017, equation 9, arXiv:1706.04599. For the calibration of the pooled mean,
            Rahaman and Thiery 2021, section 3, arXiv:2007.08792.

        Example:

        >>> model = tfp_bayes.BayesianMLP((4,), 3, seed=0)
        >>> x, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
        >>> temperature = model.calibrate(x, y)
        >>> model.save(tmp_path / "model.keras")
        >>> loaded = keras.models.load_model(tmp_path / "model.keras")
        >>> loaded.output_temperature.numpy() == np.float32(temperature)
        np.True_
        """
        _check_method(method)
        before = self.output_calibration
        if before is None:
            raise ValueError(
                "Expected a model with one output of probabilities to calibrate. Received: "
                f"{len(self.outputs)} output(s), likelihood={self.predictor.likelihood!r}. Hint: "
                "uncertainty.Conformal(model, 'normalized') calibrates intervals of real targets."
            )
        values = {name: variable.numpy() for name, variable in _read(before).items()}
        self._undo_calibration()
        try:
            prediction = self.predictor.predict_uncertainty(
                x, self.num_samples, PREDICT_SEED, batch_size
            )
            mask = self._mask_of(x, batch_size)
            rows = _without_weightless(
                *_as_classes(np.asarray(y), prediction, sample_weight, mask), len(prediction)
            )
            if method == "temperature":
                return self._calibrate_temperature(*rows)
            return self._calibrate_classes(method, *rows)
        except BaseException:
            self._set_calibration(before.method, values)
            raise

    def _mask_of(self, x: Any, batch_size: int) -> np.ndarray | None:
        """Return which time steps (N, T) of the output count, or None if all do."""
        if timestep_mask(self.outputs[0]) is None:
            return None
        return np.concatenate(
            [np.asarray(output_masks(self, batch)[0]) for batch in batches(x, batch_size)]
        )

    @property
    def output_temperature(self) -> tf.Variable | None:
        """Temperature of the outputs, a float32 scalar, 1 until `calibrate` is called.

        None if the model has no `output_calibration` or was calibrated by another method.
        """
        calibration = self.output_calibration
        return None if calibration is None else calibration.arrays.get("temperature")

    def _calibrate_temperature(
        self, labels: np.ndarray, probs: np.ndarray, weights: np.ndarray, num_examples: int
    ) -> float:
        flat = probs.reshape(-1, probs.shape[-1])
        found = cautious_temperature(labels.reshape(-1), flat, weights.reshape(-1), num_examples)
        if not 1 / _NEAR_BOUND < found < _NEAR_BOUND:
            warnings.warn(
                f"The temperature with the smallest loss is {found:.3g}, at the end of the search "
                "interval: the labels agree with all predictions, or are unrelated to them. "
                "Calibrate on more examples that were not used for training.",
                stacklevel=3,
            )
        self._set_calibration("temperature", {"temperature": found})
        assert self.output_calibration is not None
        return self.output_calibration.temperature

    def _calibrate_classes(
        self,
        method: str,
        labels: np.ndarray,
        probs: np.ndarray,
        weights: np.ndarray,
        num_examples: int,
    ) -> Any:
        kind: Any = _CLASSWISE[method]
        labels, weights = (each.reshape(len(probs), -1) for each in (labels, weights))
        outputs = probs.reshape(len(probs), -1, probs.shape[-1]).swapaxes(0, 1)
        rows = list(zip(labels.T, outputs, weights.T, strict=True))
        found = [kind.fit(y[w > 0], p[w > 0], w[w > 0]) for y, p, w in rows]
        if num_examples < 2:
            raise ValueError(
                "Expected at least two held-out examples of positive weight, for the "
                f"cross-validation of method={method!r}. Received: {num_examples}. "
                "Hint: hold out more."
            )
        gains, errors = np.transpose(
            [held_out_gain(kind.from_rows, *each, num_examples) for each in rows]
        )
        if gains.sum() > errors.sum():
            # Curves of several outputs have different numbers of knots.
            arrays = {name: [getattr(each, name) for each in found] for name in ARRAYS[method]}
            stacked = {name: _stacked(each) for name, each in arrays.items()}
            has_several = probs.ndim == 3
            self._set_calibration(
                method, stacked if has_several else {name: a[0] for name, a in stacked.items()}
            )
        else:
            warnings.warn(
                f"The model is left uncalibrated: on held-out examples, method={method!r} changes "
                f"the loss by {-gains.sum():+.4f} nats, with a standard error of "
                f"{errors.sum():.4f}. Calibrate on more examples, or use method='temperature'.",
                stacklevel=3,
            )
        return found if len(found) > 1 else found[0]

    def _make_calibration(self) -> None:
        names = keras.tree.flatten(self.predictor.likelihood)
        has_one = len(self.outputs) == 1 and "normal" not in names
        self.output_calibration = Calibration("temperature", _IDENTITY) if has_one else None

    def _set_calibration(self, method: str, arrays: Mapping[str, Any]) -> None:
        """Assign a temperature to the present variable, or replace the calibration object."""
        calibration = self.output_calibration
        assert calibration is not None
        if calibration.method == method == "temperature":
            calibration.arrays["temperature"].assign(arrays["temperature"])
            return
        with self.distribute_strategy.scope():
            self.output_calibration = Calibration(method, arrays)
        self.predict_function = self.test_function = None  # graphs with the earlier calibration

    def _undo_calibration(self) -> None:
        if self.output_calibration is not None:
            self._set_calibration("temperature", _IDENTITY)

    def _is_calibrated(self) -> bool:
        calibration = self.output_calibration
        return calibration is not None and calibration.temperature != 1  # NaN for other methods

    def _forget_calibration(self) -> None:
        """Undo `calibrate` before training, with a warning."""
        if self._is_calibrated():
            warnings.warn(
                "Training undoes calibrate() and resets the temperature to 1. Call calibrate again "
                "after training.",
                stacklevel=3,
            )
            self._undo_calibration()

    # Only files of calibrated models contain a calibration. Files with and without one load.

    def save_own_variables(self, store: MutableMapping) -> None:
        """Write the model's own variables as Keras does, and the calibration if there is one."""
        super().save_own_variables(store)
        if self._is_calibrated():
            assert self.output_calibration is not None
            for name, value in _read(self.output_calibration).items():
                store[_KEYS[self.output_calibration.method][name]] = value.numpy()

    def load_own_variables(self, store: MutableMapping) -> None:
        """Read the variables that `save_own_variables` wrote."""
        keys = set(store.keys())  # the store of an HDF5 file cannot be iterated over
        ours = {key for names in _KEYS.values() for key in names.values()}
        super().load_own_variables({key: store[key] for key in sorted(keys - ours)})
        if self.output_calibration is None:
            return
        for method, names in _KEYS.items():
            if keys >= set(names.values()):
                arrays = {name: np.asarray(store[key]) for name, key in names.items()}
                self._set_calibration(method, arrays)
                return
        self._undo_calibration()


def _check_method(method: str) -> None:
    if method not in ARRAYS:
        raise ValueError(
            f"Expected one of {list(ARRAYS)} for `method`. Received: method={method!r}. "
            "Hint: 'temperature' needs the fewest examples."
        )


def _read(calibration: Calibration) -> dict[str, tf.Tensor]:
    """Return the values of the variables, which a distribution strategy may have mirrored."""
    return {name: tf.convert_to_tensor(v) for name, v in calibration.arrays.items()}


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    """Stack arrays (..., M) along a new first axis, and repeat last entries up to the largest M."""
    longest = max(each.shape[-1] for each in arrays)
    pads = [[(0, 0)] * (each.ndim - 1) + [(0, longest - each.shape[-1])] for each in arrays]
    return np.stack([np.pad(each, pad, mode="edge") for each, pad in zip(arrays, pads)])


def _without_weightless(
    labels: np.ndarray, probs: np.ndarray, weights: np.ndarray, num_examples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Leave out examples of weight 0, which would count in standard errors and empty folds.

    Single positions of weight 0 are masked time steps. They stay, so that all examples have
    equally many.

    Args:
        labels: See `_as_classes`.
        probs: See `_as_classes`.
        weights: See `_as_classes`.
        num_examples: Number of examples that the first axis consists of.

    Returns:
        Labels, probabilities, weights whose positive ones have mean 1, and number of examples of
        positive weight.

    Raises:
        ValueError: If no weight is positive.
    """
    positive = (weights.reshape(num_examples, -1) > 0).any(axis=1)
    if not positive.any():
        raise ValueError(
            "Expected time steps that are not masked. Received: none of positive weight. "
            "Hint: calibrate on examples that are not only padding."
        )
    kept = np.repeat(positive, len(labels) // num_examples)
    weights = weights[kept]
    weights = weights / weights[weights > 0].mean()
    return labels[kept], probs[kept], weights, int(positive.sum())


def _as_classes(
    y: np.ndarray,
    prediction: Prediction,
    sample_weight: ArrayLike | None,
    mask: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return class numbers, probabilities and weights of all positions.

    Their shapes are (n,), (n, K) and (n,), or (n, K), (n, K, 2) and (n, K) for K Bernoulli outputs.
    Positions outside of the mask (N, T) have weight 0, whatever their label.
    """
    mean = prediction.mean
    if mask is not None and y.shape[:2] == mask.shape:
        y = np.where(mask.reshape(*mask.shape, *[1] * (y.ndim - 2)), y, y.dtype.type(0))
    if prediction.likelihood == "bernoulli":
        labels = get_likelihood("bernoulli").targets(mean, y).check(y, len(mean))
        labels = labels.reshape(-1, mean.shape[-1]).astype("int64")
        probs = np.stack([1 - mean.astype("float64"), mean], axis=-1)
        probs = probs.reshape(*labels.shape, 2)
        as_labelled(labels.reshape(-1), probs.reshape(-1, 2))
    else:
        if y.shape == (*mean.shape[:-1], 1):
            y = y[..., 0]
        if y.shape == mean.shape[:-1]:
            y = y.reshape(-1)
        labels, probs = as_labelled(y, mean.reshape(-1, mean.shape[-1]))
    weights = np.repeat(as_weights(sample_weight, len(mean)), labels.size // len(mean))
    if mask is not None:
        weights *= np.repeat(mask.reshape(-1), labels.size // mask.size)
    return labels, probs, weights.reshape(labels.shape)
