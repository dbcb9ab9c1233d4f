"""What a network sees in its inputs, before its last layer decides."""

import keras
import numpy as np

from tfp_bayes.models.to_deterministic import refresh, to_deterministic


class Embedding:
    """The inputs of a model's last layer with weights, at the posterior means.

    Follows the model as it trains; nothing is traced again.

    Args:
        model: A built functional model.

    Raises:
        ValueError: If no layer of the model has weights.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.twin = to_deterministic(model)
        with_weights = [layer for layer in self.twin.layers if layer.trainable_weights]
        if not with_weights:
            raise ValueError(
                "Expected a `model` with a layer that has weights. "
                f"Received: model={model.name!r} without. Hint: embed with the inputs themselves."
            )
        self.features = keras.Model(self.twin.inputs, with_weights[-1].input)

    def __call__(self, x, batch_size: int) -> np.ndarray:
        """Returns (N, F) float32."""
        refresh(self.twin, self.model)
        features = self.features.predict(x, batch_size=batch_size, verbose=0)
        return features.reshape(len(features), -1).astype("float32")
