"""Features of examples: the inputs of a network's last layer."""

import keras
import numpy as np

from tfp_bayes._plumbing.keras_internals import has_graph
from tfp_bayes.models.to_deterministic import MeanCopy


class Embedding:
    """Compute the inputs of a model's last layer with a kernel, at the posterior means.

    Each call uses the current weights of the model, without retracing the graph.

    Args:
        model: A built functional model.

    Raises:
        ValueError: If no layer of the model has a kernel.
    """

    def __init__(self, model: keras.Model):
        self.copy = MeanCopy(model)
        plain = self.copy.model
        inputs = plain.inputs[0] if isinstance(plain, keras.Sequential) else plain.input
        self.features = keras.Model(inputs, _features(plain))

    def __call__(self, x, batch_size: int) -> np.ndarray:
        """Return features (N, F) float32 of inputs `x`."""
        self.copy.refresh()
        features = self.features.predict(x, batch_size=batch_size, verbose=0)
        return features.reshape(len(features), -1).astype("float32")


def _features(model: keras.Model) -> keras.KerasTensor:
    """Return the inputs of the last layer with a kernel, which may be in a nested model."""
    with_kernel = [
        layer for layer in model.layers if any(len(weight.shape) > 1 for weight in layer.weights)
    ]
    if not with_kernel:
        raise ValueError(
            "Expected a `model` with a layer that has a kernel. "
            f"Received: model={model.name!r} without one. Hint: use the inputs as features."
        )
    last = with_kernel[-1]
    if not has_graph(last):
        return last.input
    return keras.Model(last.inputs, _features(last))(last.input)
