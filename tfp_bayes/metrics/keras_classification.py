"""Keras metrics of classifiers, each the streaming form of a plain function.

Labels are integers (N,) or (N, 1), or one-hot. Probabilities are (N, K), or (N, 1) from one
sigmoid, which counts as two classes. Pixels and time steps (N, ..., K) count as rows. Keras passes
`sample_weight` only to metrics in `compile(weighted_metrics=[...])`. Outputs that are not
probabilities, such as logits, raise an error; under XLA, which cannot raise, the result is NaN.
"""

import keras
import tensorflow as tf

from tfp_bayes._plumbing.bins import inner_edges
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.probabilities import SMALLEST_PROBABILITY
from tfp_bayes.metrics.calibration import SMALLEST_BIN
from tfp_bayes.metrics.streaming import MeanOfRows, StreamingMetric, classified_rows


@keras.saving.register_keras_serializable("tfp_bayes")
class NegativeLogLikelihood(MeanOfRows):
    """Mean negative log likelihood of the labels, in nats; see `nll`.

    Use it in `compile(metrics=[...])` beside a loss with other terms than the likelihood.

    Args:
        name: Name of the metric.
        dtype: Data type of the sums.

    Example:

    >>> metric = tfp_bayes.metrics.NegativeLogLikelihood()
    >>> metric.update_state([0, 1], [[0.5, 0.5], [0.0, 1.0]])
    >>> round(float(metric.result()), 4)
    0.3466
    """

    def __init__(self, name: str = "nll", dtype: str = "float64"):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        """Adds the labels and probabilities of one batch."""
        y, p, weights = classified_rows(y_true, y_pred, sample_weight)
        chosen = tf.gather(p, y, axis=1, batch_dims=1)
        smallest = tf.constant(SMALLEST_PROBABILITY, "float64")
        clipped = tf.where(chosen < smallest, smallest, chosen)  # NaN stays
        self.add_rows(-tf.math.log(clipped), weights)


@keras.saving.register_keras_serializable("tfp_bayes")
class BrierScore(MeanOfRows):
    """Squared distance from the one-hot label, summed over classes; see `brier`.

    Use it in `compile(metrics=[...])` as a bounded proper score, which no single mistake dominates.

    Args:
        name: Name of the metric.
        dtype: Data type of the sums.

    Example:

    >>> metric = tfp_bayes.metrics.BrierScore()
    >>> metric.update_state([[1]], [[0.75]])  # one sigmoid: 0.25² for each class
    >>> float(metric.result())
    0.125
    """

    def __init__(self, name: str = "brier", dtype: str = "float64"):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        """Adds the labels and probabilities of one batch."""
        y, p, weights = classified_rows(y_true, y_pred, sample_weight)
        difference = p - tf.one_hot(y, p.shape[-1], dtype="float64")
        self.add_rows(tf.reduce_sum(tf.square(difference), axis=-1), weights)


class _BinnedCalibration(StreamingMetric):
    """Sums over equal-width bins of rows, weights, and weighted outcome minus forecast.

    Args:
        num_bins: Number of bins (lo, hi] that divide [0, 1].
        num_groups: Number of groups that are binned separately.
    """

    def __init__(self, num_bins: int, num_groups: int, name: str | None, dtype: str):
        check_integers(1, num_bins=num_bins)
        super().__init__(name=name, dtype=dtype)
        self.num_bins = num_bins
        shape = (num_groups, num_bins)
        self.count = self.add_sums(shape, "count")
        self.weight = self.add_sums(shape, "weight")
        self.gap = self.add_sums(shape, "gap")

    def add_forecasts(self, forecast: tf.Tensor, outcome: tf.Tensor, weights: tf.Tensor) -> None:
        """Adds forecasts in [0, 1] and outcomes 0 or 1, both (n, groups), with weights (n,)."""
        num_groups = self.count.shape[0]
        edges = tf.constant(inner_edges(self.num_bins), "float64")
        # A NaN falls into some bin, and makes the sum of that bin NaN.
        bin_of = tf.searchsorted(edges, tf.reshape(forecast, [-1]), side="left")
        bin_of = tf.minimum(bin_of, self.num_bins - 1)
        group = tf.tile(tf.range(num_groups), [tf.shape(forecast)[0]])
        index = group * self.num_bins + bin_of
        weights = tf.repeat(weights, num_groups)
        difference = tf.reshape(tf.cast(outcome, "float64") - forecast, [-1])
        for total, values in (
            (self.count, tf.cast(weights > 0, "float64")),
            (self.weight, weights),
            (self.gap, weights * difference),
        ):
            summed = tf.math.unsorted_segment_sum(values, index, num_groups * self.num_bins)
            total.assign_add(tf.cast(tf.reshape(summed, total.shape), self.dtype))

    def error(self) -> tf.Tensor:
        """Returns the weighted mean absolute gap over all bins and groups, a scalar."""
        gaps = tf.reduce_sum(tf.abs(tf.convert_to_tensor(self.gap)))
        return gaps / tf.reduce_sum(tf.convert_to_tensor(self.weight))

    def get_config(self) -> dict:
        """Returns the constructor arguments as plain JSON."""
        return {**super().get_config(), "num_bins": self.num_bins}


class _OfGuesses(_BinnedCalibration):
    """Bins of the confidence in the most probable class; the outcome is 1 if it is the label."""

    def __init__(self, num_bins: int, name: str | None, dtype: str):
        super().__init__(num_bins, 1, name, dtype)

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        """Adds the labels and probabilities of one batch."""
        y, p, weights = classified_rows(y_true, y_pred, sample_weight)
        guess = tf.argmax(p, -1, "int32")
        confidence = tf.gather(p, guess, axis=1, batch_dims=1)
        self.add_forecasts(confidence[:, None], (guess == y)[:, None], weights)


@keras.saving.register_keras_serializable("tfp_bayes")
class ExpectedCalibrationError(_OfGuesses):
    """Mean gap between confidence and accuracy; see `expected_calibration_error`.

    Use it in `compile(metrics=[...])` to see when a network becomes overconfident. It stores three
    sums per bin, not the scores. Check `calibration_floor` before you compare models by it.

    Args:
        num_bins: Number of equal-width bins (lo, hi] that divide [0, 1].
        name: Name of the metric.
        dtype: Data type of the sums.

    Raises:
        ValueError: If `num_bins` is not a positive integer.

    Example:

    >>> metric = tfp_bayes.metrics.ExpectedCalibrationError(num_bins=10)
    >>> metric.update_state([0, 1], [[0.9, 0.1], [0.9, 0.1]])
    >>> round(float(metric.result()), 4)
    0.4
    """

    def __init__(self, num_bins: int = 15, name: str = "ece", dtype: str = "float64"):
        super().__init__(num_bins, name, dtype)

    def result(self) -> tf.Tensor:
        """Returns the error, a scalar."""
        return self.error()


@keras.saving.register_keras_serializable("tfp_bayes")
class MaximumCalibrationError(_OfGuesses):
    """Largest gap among bins with at least ten rows; see `maximum_calibration_error`.

    Use it when the worst gap matters. The result is NaN until a bin has ten rows.

    Args:
        num_bins: Number of equal-width bins (lo, hi] that divide [0, 1].
        name: Name of the metric.
        dtype: Data type of the sums.

    Raises:
        ValueError: If `num_bins` is not a positive integer.

    Example:

    >>> metric = tfp_bayes.metrics.MaximumCalibrationError()
    >>> metric.update_state([0] * 9 + [1], [[0.7, 0.3]] * 10)
    >>> round(float(metric.result()), 4)
    0.2
    """

    def __init__(self, num_bins: int = 15, name: str = "mce", dtype: str = "float64"):
        super().__init__(num_bins, name, dtype)

    def result(self) -> tf.Tensor:
        """Returns the largest gap, a scalar."""
        count, weight, gap = (
            tf.convert_to_tensor(each)[0] for each in (self.count, self.weight, self.gap)
        )
        large = (count >= SMALLEST_BIN) | tf.math.is_nan(gap)
        gaps = tf.where(large, tf.abs(gap) / weight, tf.zeros_like(gap))
        # Handled explicitly, because reduce_max may ignore NaN.
        unknown = tf.reduce_any(tf.math.is_nan(gaps)) | ~tf.reduce_any(large)
        nan = tf.constant(float("nan"), gaps.dtype)
        return tf.where(unknown, nan, tf.reduce_max(gaps))


@keras.saving.register_keras_serializable("tfp_bayes")
class ClasswiseCalibrationError(_BinnedCalibration):
    """Calibration error averaged over classes; see `classwise_calibration_error`.

    Use it when a decision reads all probabilities and not only the largest.

    Args:
        num_classes: Number of classes K; 2 for one sigmoid.
        num_bins: Number of equal-width bins (lo, hi] that divide [0, 1].
        name: Name of the metric.
        dtype: Data type of the sums.

    Raises:
        ValueError: If `num_classes` is not an integer of at least 2, `num_bins` is not a positive
            integer, or the outputs do not have `num_classes` classes.

    Example:

    >>> metric = tfp_bayes.metrics.ClasswiseCalibrationError(num_classes=2)
    >>> metric.update_state([0, 1], [[0.9, 0.1], [0.9, 0.1]])
    >>> round(float(metric.result()), 4)
    0.4
    """

    def __init__(
        self,
        num_classes: int,
        num_bins: int = 15,
        name: str = "classwise_ece",
        dtype: str = "float64",
    ):
        check_integers(2, num_classes=num_classes)
        super().__init__(num_bins, num_classes, name, dtype)
        self.num_classes = num_classes

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        """Adds the labels and probabilities of one batch."""
        y, p, weights = classified_rows(y_true, y_pred, sample_weight)
        if p.shape[-1] != self.num_classes:
            raise ValueError(
                f"Expected {self.num_classes} classes for `y_pred`. Received: {p.shape[-1]}. "
                "Hint: num_classes is the number of outputs, or 2 for one sigmoid."
            )
        self.add_forecasts(p, tf.one_hot(y, self.num_classes), weights)

    def result(self) -> tf.Tensor:
        """Returns the error, a scalar."""
        return self.error()

    def get_config(self) -> dict:
        """Returns the constructor arguments as plain JSON."""
        return {**super().get_config(), "num_classes": self.num_classes}
