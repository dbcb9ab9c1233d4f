"""The base class of all stochastic layers."""

from typing import Any

import keras
import tensorflow as tf

import tfp_bayes._plumbing.backend  # noqa: F401  # refuses a Keras that does not run on TensorFlow
from tfp_bayes._plumbing.keras_internals import flatten_layers
from tfp_bayes._plumbing.seeds import fold_in


class StochasticLayer(keras.layers.Layer):
    """A layer whose output is random in training *and* at inference.

    A subclass must follow two rules, on which all sampling code relies:

    - `call(..., training=True)` uses the estimator that trains best, usually with different noise
      for each example.
    - `call(..., training=False)` draws **one** theta (one mask, one kernel) for the whole batch,
      so the output is one random function applied to every row.

    All noise comes from `self.draw_seed()`. `tfp_bayes.Predictor` replaces the state of
    `seed_generator` with a value derived from the caller's seed, the sample and the layer, so a
    prediction neither depends on nor changes the state that training uses.

    Args:
        seed: Integer, or None to draw the initial seed from Keras's global random state, which
            `keras.utils.set_random_seed` sets.
        *args: Positional arguments of the Keras layer that a subclass also derives from.
        **kwargs: Keyword arguments of that layer or of `keras.layers.Layer`.
    """

    # Whether to pass the seed on to the Keras layer that a subclass also derives from.
    keras_takes_seed = False

    def __init__(self, *args, seed: int | None = None, **kwargs):
        if self.keras_takes_seed:
            kwargs["seed"] = seed
        super().__init__(*args, **kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, except for another dropout rate once the layer was called.

        Graphs that were compiled before would go on with the old rate.
        """
        if name == "rate" and getattr(self, "built", False) and value != self.rate:
            raise ValueError(
                f"Expected the `rate` of layer {self.name!r} to stay at {self.rate!r} once the "
                f"layer was called. Received: rate={value!r}. Hint: build the model again with "
                "this rate, and copy the weights with set_weights(model.get_weights())."
            )
        super().__setattr__(name, value)

    def draw_seed(self, training: bool = False) -> tf.Tensor:
        """Return the next seed of this layer, an int32 tensor of shape (2,).

        In training each replica of a distribution strategy gets a different seed. At inference all
        replicas get the same seed, because they evaluate one function.
        """
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        replica = tf.distribute.get_replica_context()
        if training and replica is not None and replica.num_replicas_in_sync > 1:
            seed = fold_in(seed, replica.replica_id_in_sync_group)
        return seed

    def get_config(self) -> dict:
        """Return the layer's constructor arguments as plain JSON."""
        return {**super().get_config(), "seed": self.seed}


def stochastic_layers(layer: keras.layers.Layer) -> list[StochasticLayer]:
    """List the stochastic layers of a model, including nested ones, in graph order."""
    return [each for each in flatten_layers(layer) if isinstance(each, StochasticLayer)]
