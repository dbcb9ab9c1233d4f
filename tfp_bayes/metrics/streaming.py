"""The base of the Keras metrics: rows of batches of any shape, and sums in double precision."""

import keras
import tensorflow as tf

from tfp_bayes._plumbing.probabilities import TOLERANCE


class StreamingMetric(keras.metrics.Metric):
    """A metric whose state is sums over rows, so that batches and replicas add up.

    Sums are in float64: a stream of batches gives what the plain function gives on all rows, to
    the rounding of that sum. Before the first row the result is NaN, and so it is after a NaN
    prediction. Rows of weight 0 do not count, whatever they hold.

    Args:
        name: Of the result.
        dtype: Of the sums. float64 is exact for as many rows as there are.
    """

    def __init__(self, name: str | None = None, dtype: str = "float64"):
        super().__init__(name=name, dtype=dtype)

    def add_sums(self, shape: tuple[int, ...], name: str) -> keras.Variable:
        """Returns a variable of zeros, which replicas sum."""
        return self.add_variable(shape, "zeros", dtype=self.dtype, name=name)

    def mean_of(self, total: keras.Variable, weight: keras.Variable) -> tf.Tensor:
        """Returns total / weight; NaN before the first row."""
        return tf.convert_to_tensor(total) / tf.convert_to_tensor(weight)


class MeanOfRows(StreamingMetric):
    """A streaming metric that is the weighted mean of one number of each row."""

    def __init__(self, name: str | None = None, dtype: str = "float64"):
        super().__init__(name=name, dtype=dtype)
        self.total = self.add_sums((), "total")
        self.weight = self.add_sums((), "weight")

    def add_rows(self, values: tf.Tensor, weights: tf.Tensor) -> None:
        """Adds numbers (n,) of weights (n,)."""
        self.total.assign_add(tf.cast(tf.reduce_sum(values * weights), self.dtype))
        self.weight.assign_add(tf.cast(tf.reduce_sum(weights), self.dtype))

    def result(self) -> tf.Tensor:
        """Returns the mean, a scalar."""
        return self.mean_of(self.total, self.weight)


def row_weights(sample_weight, rows: tf.Tensor) -> tf.Tensor:
    """Returns float64 weights of the shape of `rows`, whose axes a weight may have from the left.

    Args:
        sample_weight: None, (N,), (N, 1) or a weight for each row.
        rows: Any tensor, one entry a row.

    Raises:
        ValueError: If there are more axes than rows have.
    """
    if sample_weight is None:
        return tf.ones(tf.shape(rows), "float64")
    weights = tf.cast(sample_weight, "float64")
    if weights.shape.rank == rows.shape.rank + 1 and weights.shape[-1] == 1:
        weights = weights[..., 0]
    if weights.shape.rank > rows.shape.rank:
        raise ValueError(
            f"Expected at most {rows.shape.rank} axes for `sample_weight`. Received: "
            f"sample_weight of shape {weights.shape}. Hint: one weight an example, or one for "
            "each of its pixels or time steps."
        )
    for _ in range(rows.shape.rank - weights.shape.rank):
        weights = weights[..., None]
    _check(
        weights >= 0,
        "Expected weights of at least 0 for `sample_weight`. Received: others. "
        "Hint: a weight is how often its row counts.",
    )
    return tf.broadcast_to(weights, tf.shape(rows))


def classified_rows(y_true, y_pred, sample_weight) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns labels (n,) int32, probabilities (n, K) and weights (n,), both float64.

    Args:
        y_true: Integer labels (N, ...) or (N, ..., 1), or one-hot (N, ..., K).
        y_pred: Probabilities (N, ..., K); of yes (N, ..., 1), which become two classes.
        sample_weight: None, or as in `row_weights`.

    Raises:
        ValueError: If shapes do not match.
        InvalidArgumentError: If a row has no probabilities or no label. XLA drops such checks;
            there, and where predictions are NaN, probabilities become NaN instead.
    """
    y, p = tf.convert_to_tensor(y_true), _outputs(y_pred)
    one_hot = p.shape[-1] > 1 and y.shape.rank == p.shape.rank and y.shape[-1] != 1
    _check_shapes(y, p.shape if one_hot else p.shape[:-1], column=not one_hot)
    if one_hot:
        is_label = tf.reduce_all((y == 0) | (y == 1), -1) & (tf.reduce_sum(y, -1) == 1)
        labels = tf.argmax(y, -1, "int32")
    else:
        y = tf.reshape(y, tf.shape(p)[:-1])
        labels = tf.cast(y, "int32")
        is_label = (tf.cast(labels, y.dtype) == y) & (labels >= 0)
    if p.shape[-1] == 1:
        p = tf.concat([1 - p, p], -1)
    num_classes = p.shape[-1]
    is_label &= labels < num_classes
    sums_to_one = tf.abs(tf.reduce_sum(p, -1) - 1) < TOLERANCE
    is_probability = tf.reduce_all(p >= 0, -1) & sums_to_one
    is_nan = tf.reduce_any(tf.math.is_nan(p), -1)
    weights = row_weights(sample_weight, labels)
    counts = weights != 0
    _check(
        is_probability | is_nan | ~counts,
        "Expected probabilities over the last axis for `y_pred`. Received: other values. "
        "Hint: end the model in a softmax, or in one sigmoid.",
    )
    _check(
        is_label | ~counts,
        f"Expected labels in [0, {num_classes}) or one-hot for `y_true`. Received: others. "
        "Hint: give rows without a label the weight 0, in weighted_metrics.",
    )
    valid = (is_probability & is_label)[..., None]
    p = tf.where(valid, p, tf.constant(float("nan"), "float64"))
    # What 0 is multiplied with must be a number.
    p = tf.where(counts[..., None], p, tf.constant(1 / num_classes, "float64"))
    labels = tf.where(counts & is_label, labels, 0)
    weights = tf.reshape(weights, [-1])
    return tf.reshape(labels, [-1]), tf.reshape(p, [-1, num_classes]), weights


def normal_rows(y_true, y_pred, sample_weight) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns targets, locations, scales (n, D) and weights (n,), all float64.

    Args:
        y_true: (N, ..., D), or without the last axis if D is 1.
        y_pred: Locations and scales (N, ..., 2 D), as `NormalParameters` makes them.
        sample_weight: None, or as in `row_weights`.

    Raises:
        ValueError: If outputs have an odd number of columns, or shapes do not match.
        InvalidArgumentError: If a scale is not positive. XLA drops such checks; there, and where
            predictions are NaN, scales become NaN instead.
    """
    parameters = _outputs(y_pred)
    if parameters.shape[-1] % 2:
        raise ValueError(
            "Expected locations and scales, 2 D columns, for `y_pred`. Received: y_pred of shape "
            f"{parameters.shape}. Hint: end the model in NormalParameters."
        )
    loc, scale = tf.split(parameters, 2, axis=-1)
    _check_shapes(tf.convert_to_tensor(y_true), loc.shape, column=False)
    y = tf.reshape(tf.cast(y_true, "float64"), tf.shape(loc))
    weights = row_weights(sample_weight, loc[..., 0])
    counts = (weights != 0)[..., None]
    _check(
        (scale > 0) | tf.math.is_nan(scale) | ~counts,
        "Expected positive scales in the second half of the columns of `y_pred`. Received: "
        "others. Hint: end the model in NormalParameters.",
    )
    nan = tf.constant(float("nan"), "float64")
    loc, scale = tf.where(scale > 0, loc, nan), tf.where(scale > 0, scale, nan)
    # What 0 is multiplied with must be a number.
    one, zero = tf.ones_like(scale), tf.zeros_like(scale)
    rows = (tf.where(counts, y, zero), tf.where(counts, loc, zero), tf.where(counts, scale, one))
    y, loc, scale = (tf.reshape(each, [-1, loc.shape[-1]]) for each in rows)
    return y, loc, scale, tf.reshape(weights, [-1])


def _outputs(y_pred) -> tf.Tensor:
    """Returns outputs (N, ..., K) as float64.

    Raises:
        ValueError: If they are (N,), which would be read as one row of N columns.
    """
    outputs = tf.cast(y_pred, "float64")
    if outputs.shape.rank in (0, 1) or outputs.shape[-1] is None:
        raise ValueError(
            "Expected outputs with an axis of columns, (N, ..., K), for `y_pred`. Received: y_pred "
            f"of shape {outputs.shape}. Hint: a model of one output ends in (N, 1), as Dense(1) is."
        )
    return outputs


def _check_shapes(y: tf.Tensor, expected: tf.TensorShape, column: bool) -> None:
    """Raises ValueError unless targets have a shape, or one that differs by a last axis of 1."""
    shorter = expected[:-1] if expected.rank and expected[-1] == 1 else None
    longer = expected.concatenate(1) if column else None
    allowed = [shape for shape in (expected, shorter, longer) if shape is not None]
    if not any(y.shape.is_compatible_with(shape) for shape in allowed):
        raise ValueError(
            f"Expected shape {expected} for `y_true`, by the outputs. "
            f"Received: y_true of shape {y.shape}. Hint: one label or target for each output."
        )


def _check(holds: tf.Tensor, message: str) -> None:
    """Raises InvalidArgumentError unless all hold, when the graph runs; XLA leaves it out."""
    tf.debugging.Assert(tf.reduce_all(holds), [message])
