"""Keras metrics of models that end in `NormalParameters`: streaming forms of plain functions."""

import math

import keras
import tensorflow as tf
from scipy.special import ndtri

from tfp_bayes.metrics.regression import QUANTILES
from tfp_bayes.metrics.streaming import MeanOfRows, StreamingMetric, normal_rows
from tfp_bayes.metrics.targets import check_level


class _NormalMean(MeanOfRows):
    """A mean over rows of a number computed from targets and normal parameters (n, D)."""

    takes_parameters = True  # `BayesianModel` passes other metrics the location alone

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        """Adds the targets (N, D) and parameters (N, 2 D) of one batch."""
        y, loc, scale, weights = normal_rows(y_true, y_pred, sample_weight)
        self.add_rows(self.of_rows(y, loc, scale), weights)

    def of_rows(self, y: tf.Tensor, loc: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        """Returns one number for each row, (n,)."""
        raise NotImplementedError


@keras.saving.register_keras_serializable("tfp_bayes")
class RootMeanSquaredError(_NormalMean):
    """Root mean squared error of the predicted means; see `rmse`.

    Use it in `compile(metrics=[...])` to follow point predictions, in the unit of the targets.

    Args:
        name: Name of the metric.
        dtype: Data type of the sums.

    Example:

    >>> metric = tfp_bayes.metrics.RootMeanSquaredError()
    >>> metric.update_state(np.array([[1.0], [3.0]]), np.array([[2.0, 0.1], [3.0, 0.1]]))
    >>> round(float(metric.result()), 4)
    0.7071
    """

    def __init__(self, name: str = "root_mean_squared_error", dtype: str = "float64"):
        super().__init__(name=name, dtype=dtype)

    def of_rows(self, y: tf.Tensor, loc: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        """Returns squared errors (n,), averaged over targets."""
        return tf.reduce_mean(tf.square(y - loc), axis=-1)

    def result(self) -> tf.Tensor:
        """Returns the error, a scalar."""
        return tf.sqrt(super().result())


@keras.saving.register_keras_serializable("tfp_bayes")
class NormalNegativeLogLikelihood(_NormalMean):
    """Mean negative log likelihood in nats, summed over the targets of a row; see `normal_nll`.

    Use it in `compile(metrics=[...])` beside a loss with `beta`, a prior or another penalty.

    Args:
        name: Name of the metric.
        dtype: Data type of the sums.

    Example:

    >>> metric = tfp_bayes.metrics.NormalNegativeLogLikelihood()
    >>> metric.update_state(np.array([0.0]), np.array([[0.0, 1.0]]))
    >>> round(float(metric.result()), 4)
    0.9189
    """

    def __init__(self, name: str = "nll", dtype: str = "float64"):
        super().__init__(name=name, dtype=dtype)

    def of_rows(self, y: tf.Tensor, loc: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        """Returns negative log likelihoods (n,), in nats, summed over targets."""
        squares = tf.square((y - loc) / scale) + math.log(2 * math.pi)
        return tf.reduce_sum(tf.math.log(scale) + squares / 2, axis=-1)


@keras.saving.register_keras_serializable("tfp_bayes")
class NormalCRPS(_NormalMean):
    """Mean continuous ranked probability score; see `crps_normal`.

    Use it in `compile(metrics=[...])` as a proper score in the unit of the targets.

    Args:
        name: Name of the metric.
        dtype: Data type of the sums.

    Example:

    >>> metric = tfp_bayes.metrics.NormalCRPS()
    >>> metric.update_state(np.array([0.0]), np.array([[0.0, 1.0]]))
    >>> round(float(metric.result()), 4)
    0.2337
    """

    def __init__(self, name: str = "crps", dtype: str = "float64"):
        super().__init__(name=name, dtype=dtype)

    def of_rows(self, y: tf.Tensor, loc: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        """Returns scores (n,), averaged over targets."""
        z = (y - loc) / scale
        density = tf.exp(-tf.square(z) / 2) / math.sqrt(2 * math.pi)
        score = z * tf.math.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi)
        return tf.reduce_mean(scale * score, axis=-1)


class _Interval(_NormalMean):
    """The base of metrics of central intervals.

    Args:
        level: Nominal coverage of the intervals, in (0, 1).
    """

    def __init__(self, level: float, name: str | None, dtype: str):
        check_level(level)
        super().__init__(name=name, dtype=dtype)
        self.level = level

    def ends(self, loc: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the ends of the central intervals, (n, D) each."""
        half = scale * float(ndtri((1 + self.level) / 2))
        return loc - half, loc + half

    def get_config(self) -> dict:
        """Returns the constructor arguments as plain JSON."""
        return {**super().get_config(), "level": self.level}


@keras.saving.register_keras_serializable("tfp_bayes")
class IntervalCoverage(_Interval):
    """Share of targets inside central intervals; see `interval_coverage`.

    Use it in `compile(metrics=[...])`; a share below `level` means that intervals are too narrow.

    Args:
        level: Nominal coverage of the intervals, in (0, 1).
        name: Name of the metric.
        dtype: Data type of the sums.

    Raises:
        ValueError: If `level` is not in (0, 1).

    Example:

    >>> metric = tfp_bayes.metrics.IntervalCoverage(level=0.9)
    >>> metric.update_state(np.array([0.0, 5.0]), np.array([[0.0, 1.0], [0.0, 1.0]]))
    >>> float(metric.result())
    0.5
    """

    def __init__(self, level: float = 0.9, name: str = "interval_coverage", dtype: str = "float64"):
        super().__init__(level, name, dtype)

    def of_rows(self, y: tf.Tensor, loc: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        """Returns the share (n,) of targets inside; NaN where a parameter or target is NaN."""
        lower, upper = self.ends(loc, scale)
        inside = tf.cast((lower <= y) & (y <= upper), "float64")
        total = upper - lower + y  # NaN if any of them is
        return tf.reduce_mean(tf.where(tf.math.is_nan(total), total, inside), axis=-1)


@keras.saving.register_keras_serializable("tfp_bayes")
class IntervalScore(_Interval):
    """Width of central intervals plus a penalty for missed targets; see `interval_score`.

    Use it in `compile(metrics=[...])` as a proper score of the intervals.

    Args:
        level: Nominal coverage of the intervals, in (0, 1).
        name: Name of the metric.
        dtype: Data type of the sums.

    Raises:
        ValueError: If `level` is not in (0, 1).

    Example:

    >>> metric = tfp_bayes.metrics.IntervalScore(level=0.9)
    >>> metric.update_state(np.array([0.0]), np.array([[0.0, 1.0]]))  # 2 × 1.645
    >>> round(float(metric.result()), 2)
    3.29
    """

    def __init__(self, level: float = 0.9, name: str = "interval_score", dtype: str = "float64"):
        super().__init__(level, name, dtype)

    def of_rows(self, y: tf.Tensor, loc: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        """Returns scores (n,), averaged over targets."""
        lower, upper = self.ends(loc, scale)
        missed = tf.nn.relu(lower - y) + tf.nn.relu(y - upper)
        return tf.reduce_mean(upper - lower + 2 / (1 - self.level) * missed, axis=-1)


@keras.saving.register_keras_serializable("tfp_bayes")
class PITCalibrationError(StreamingMetric):
    """Mean gap between quantile levels and shares of targets below; see `pit_calibration_error`.

    Use it in `compile(metrics=[...])` as one number for the calibration of all intervals. It stores
    99 sums, not the targets.

    Args:
        name: Name of the metric.
        dtype: Data type of the sums.

    Example:

    >>> metric = tfp_bayes.metrics.PITCalibrationError()
    >>> metric.update_state(np.array([0.0]), np.array([[0.0, 1.0]]))  # at its median
    >>> round(float(metric.result()), 4)
    0.2525
    """

    takes_parameters = True

    def __init__(self, name: str = "pit_calibration_error", dtype: str = "float64"):
        super().__init__(name=name, dtype=dtype)
        self.below = self.add_sums(QUANTILES.shape, "below")
        self.weight = self.add_sums((), "weight")

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        """Adds the targets (N, D) and parameters (N, 2 D) of one batch."""
        y, loc, scale, weights = normal_rows(y_true, y_pred, sample_weight)
        pit = (1 + tf.math.erf((y - loc) / scale / math.sqrt(2))) / 2
        each = weights[:, None] / pit.shape[-1]
        is_below = tf.cast(pit[..., None] <= QUANTILES, "float64")
        is_below = tf.where(tf.math.is_nan(pit)[..., None], pit[..., None], is_below)
        below = tf.reduce_sum(is_below * each[..., None], axis=[0, 1])
        self.below.assign_add(tf.cast(below, self.dtype))
        self.weight.assign_add(tf.cast(tf.reduce_sum(weights), self.dtype))

    def result(self) -> tf.Tensor:
        """Returns the error, a scalar."""
        share = self.mean_of(self.below, self.weight)
        return tf.reduce_mean(tf.abs(share - QUANTILES.astype(self.dtype)))
