"""Outputs of a part of a network, batch by batch, together with the targets."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.batches import unweighted_batches
from tfp_bayes.prediction.finite import finite_rows
from tfp_bayes.prediction.inference_mode import run_isolated
from tfp_bayes.prediction.inputs import signature

_BATCH_SIZE = 1024


class Features:
    """A function from inputs to features (N, F), applied batch by batch.

    Args:
        network: Functional model with one output (N, F). It runs in inference mode.
    """

    def __init__(self, network: keras.Model):
        self._network = network
        self._run = tf.function(self._features_of, autograph=False, reduce_retracing=True)

    def __call__(self, x: Any, y: Any = None) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield the features (B, F) of each batch in float64, and the batch's targets unchanged.

        Rows with non-finite inputs get NaN features.

        Args:
            x: Arrays or a dataset, see `unweighted_batches`.
            y: Targets, if `x` holds arrays.

        Raises:
            ValueError: If there are sample weights, or the inputs do not fit the network.
        """
        for inputs, targets in unweighted_batches(x, y, _BATCH_SIZE):
            signature(self._network, inputs)  # refuses single examples
            phi, finite = self._run(inputs)
            yield np.where(finite.numpy()[:, None], np.asarray(phi, "float64"), np.nan), targets

    def _features_of(self, inputs) -> tuple[tf.Tensor, tf.Tensor]:
        inputs = keras.tree.map_structure(tf.convert_to_tensor, inputs)
        phi = run_isolated(self._network, lambda x: self._network(x, training=False), inputs)
        return phi, finite_rows(inputs)
