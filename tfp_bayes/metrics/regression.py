"""Keras metrics of models whose outputs are more than a guess."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfp_bayes")
class RootMeanSquaredError(keras.metrics.RootMeanSquaredError):
    """Root mean squared error of the locations, for models that end in `NormalParameters`.

    Example:

    >>> metric = tfp_bayes.metrics.RootMeanSquaredError()
    >>> metric.update_state(np.array([[1.0], [3.0]]), np.array([[2.0, 0.1], [3.0, 0.1]]))
    >>> round(float(metric.result()), 4)
    0.7071
    """

    takes_parameters = True  # and not the location alone, as metrics in a `BayesianModel` do

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        """Adds targets (B, D) and parameters (B, 2 D)."""
        loc, _ = tf.split(y_pred, 2, axis=-1)
        super().update_state(tf.reshape(y_true, tf.shape(loc)), loc, sample_weight)
