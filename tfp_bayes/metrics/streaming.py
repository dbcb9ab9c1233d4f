"""Base classes of the Keras metrics, and the conversion of batches of any shape to rows."""

import keras
import tensorflow as tf

from tfp_bayes._plumbing.probabilities import TOLERANCE


class StreamingMetric(keras.metrics.Metric):
    """A metric whose state is sums over rows, so that batches and replicas add up.

    Sums are float64, so the result over batches equals that of the plain function on all rows, up
    to rounding. The result is NaN before the first row and after a NaN prediction. Rows of weight 0
    do not count, whatever they contain.

    Args:
        name: Name of the metric.
        dtype: Data type of the sums. float64 counts any practical number of rows exactly.
    """

    def __init__(self, name: str | None = None, dtype: str = "float64"):
        super().__init__(name=name, dtype=dtype)

    def add_sums(self, shape: tuple[int, ...], name: str) -> keras.Variable:
        """Returns a new variable of zeros, which is summed over replicas."""
        return self.add_variable(shape, "zeros", dtype=self.dtype, name=name)

    def mean_of(self, total: keras.Variable, weight: keras.Variable) -> tf.Tensor:
        """Returns total / weight; NaN before the first row."""
        return tf.convert_to_tensor(total) / tf.convert_to_tensor(weight)


class MeanOfRows(StreamingMetric):
    """A streaming metric that is the weighted mean of one number per row."""

    def __init__(self, name: str | None = None, dtype: str = "float64"):
        super().__init__(name=name, dtype=dtype)
        self.total = self.add_sums((), "total")
        self.weight = self.add_sums((), "weight")

    def add_rows(self, values: tf.Tensor, weights: tf.Tensor) -> None:
        """Adds numbers (n,) with weights (n,)."""
        self.total.assign_add(tf.cast(tf.reduce_sum(values * weights), self.dtype))
        self.weight.assign_add(tf.cast(tf.reduce_sum(weights), self.dtype))

    def result(self) -> tf.Tensor:
        """Returns the mean, a scalar."""
        return self.mean_of(self.total, self.weight)


def row_weights(sample_weight, rows: tf.Tensor) -> tf.Tensor:
    """Returns float64 weights of the shape of `rows`.

    Weights with fewer axes than `rows` match its leading axes and are broadcast over the rest.

    Args:
        sample_weight: None, (N,), (N, 1) or a weight for each row.
        rows: Any tensor with one entry per row.

    Raises:
        ValueError: If the weights have more axes than `rows`.
    """
    if sample_weight is None:
        return tf.ones(tf.shape(rows), "float64")
    weights = tf.cast(sample_weight, "float64")
    if weights.shape.rank == rows.shape.rank + 1 and weights.shape[-1] == 1:
        weights = weights[..., 0]
    if weights.shape.rank > rows.shape.rank:
        raise ValueError(
            f"Expected at most {rows.shape.rank} axes for `sample_weight`. Received: "
            f"sample_weight of shape {weights.shape}. Hint: give one weight per example, or one "
            "for each of its pixels or time steps."
        )
    for _ in range(rows.shape.rank - weights.shape.rank):
        weights = weights[..., None]
    _check(
        weights >= 0,
        "Expected weights of at least 0 for `sample_weight`. Received: negative or NaN weights. "
        "Hint: a weight is how often its row counts.",
    )
    return tf.broadcast_to(weights, tf.shape(rows))


def classified_rows(y_true, y_pred, sample_weight) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns labels (n,) int32, probabilities (n, K) and weights (n,), both float64.

    Args:
        y_true: Integer labels (N, ...) or (N, ..., 1), or one-hot (N, ..., K).
        y_pred: Probabilities (N, ..., K), or (N, ..., 1) of class 1, which become two classes.
        sample_weight: None, or weights as in `row_weights`.

    Raises:
        ValueError: If shapes do not match.
        InvalidArgumentError: If a row has invalid probabilities or an invalid label. XLA drops
            such checks; there, and where predictions are NaN, probabilities become NaN instead.
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
        "Hint: end the model with a softmax or one sigmoid.",
    )
    _check(
        is_label | ~counts,
        f"Expected labels in [0, {num_classes}) or one-hot for `y_true`. Received: other values. "
        "Hint: give unlabeled rows weight 0, and list the metric in weighted_metrics.",
    )
    valid = (is_probability & is_label)[..., None]
    p = tf.where(valid, p, tf.constant(float("nan"), "float64"))
    # Rows of weight 0 must not hold NaN, because 0 times NaN is NaN.
    p = tf.where(counts[..., None], p, tf.constant(1 / num_classes, "float64"))
    labels = tf.where(counts & is_label, labels, 0)
    weights = tf.reshape(weights, [-1])
    return tf.reshape(labels, [-1]), tf.reshape(p, [-1, num_classes]), weights


def normal_rows(y_true, y_pred, sample_weight) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns targets, locations, scales (n, D) and weights (n,), all float64.

    Args:
        y_true: Targets (N, ..., D); the last axis may be left out if D is 1.
        y_pred: Locations and scales (N, ..., 2 D), as `NormalParameters` returns them.
        sample_weight: None, or weights as in `row_weights`.

    Raises:
        ValueError: If outputs have an odd number of columns, or shapes do not match.
        InvalidArgumentError: If a scale is not positive. XLA drops such checks; there, and where
            predictions are NaN, scales become NaN instead.
    """
    parameters = _outputs(y_pred)
    if parameters.shape[-1] % 2:
        raise ValueError(
            "Expected locations and scales, 2 D columns, for `y_pred`. Received: y_pred of shape "
            f"{parameters.shape}. Hint: end the model with NormalParameters."
        )
    loc, scale = tf.split(parameters, 2, axis=-1)
    _check_shapes(tf.convert_to_tensor(y_true), loc.shape, column=False)
    y = tf.reshape(tf.cast(y_true, "float64"), tf.shape(loc))
    weights = row_weights(sample_weight, loc[..., 0])
    counts = (weights != 0)[..., None]
    _check(
        (scale > 0) | tf.math.is_nan(scale) | ~counts,
        "Expected positive scales in the second half of the columns of `y_pred`. Received: "
        "other values. Hint: end the model with NormalParameters.",
    )
    nan = tf.constant(float("nan"), "float64")
    loc, scale = tf.where(scale > 0, loc, nan), tf.where(scale > 0, scale, nan)
    # Rows of weight 0 must not hold NaN, because 0 times NaN is NaN.
    one, zero = tf.ones_like(scale), tf.zeros_like(scale)
    rows = (tf.where(counts, y, zero), tf.where(counts, loc, zero), tf.where(counts, scale, one))
    y, loc, scale = (tf.reshape(each, [-1, loc.shape[-1]]) for each in rows)
    return y, loc, scale, tf.reshape(weights, [-1])


def _outputs(y_pred) -> tf.Tensor:
    """Returns outputs (N, ..., K) as float64.

    Raises:
        ValueError: If their shape is (N,), which would be read as one row of N columns.
    """
    outputs = tf.cast(y_pred, "float64")
    if outputs.shape.rank in (0, 1) or outputs.shape[-1] is None:
        raise ValueError(
            "Expected outputs with an axis of columns, (N, ..., K), for `y_pred`. Received: y_pred "
            f"of shape {outputs.shape}. Hint: a single output has shape (N, 1), as from Dense(1)."
        )
    return outputs


def _check_shapes(y: tf.Tensor, expected: tf.TensorShape, column: bool) -> None:
    """Raises ValueError unless `y` has the expected shape, up to a last axis of size 1."""
    shorter = expected[:-1] if expected.rank and expected[-1] == 1 else None
    longer = expected.concatenate(1) if column else None
    allowed = [shape for shape in (expected, shorter, longer) if shape is not None]
    if not any(y.shape.is_compatible_with(shape) for shape in allowed):
        raise ValueError(
            f"Expected shape {expected} for `y_true`, to match `y_pred`. "
            f"Received: y_true of shape {y.shape}. Hint: give one label or target per output."
        )


def _check(holds: tf.Tensor, message: str) -> None:
    """Raises InvalidArgumentError at run time unless all hold; XLA drops this check."""
    tf.debugging.Assert(tf.reduce_all(holds), [message])
