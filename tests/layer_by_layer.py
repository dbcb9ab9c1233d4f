"""A slow reference sampler that runs the whole Keras model eagerly, once per sample."""

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes.layers import stochastic_layers


def sample(model, x, num_samples, seed):
    """Return the expected result of `Predictor(model).sample`; `seed` is below 2^31."""
    samples = []
    for s in range(num_samples):
        theta = fold(tf.constant([seed, 0]), s)
        state = [
            (layer.seed_generator.state, tf.cast(fold(theta, i), "int64"))
            for i, layer in enumerate(stochastic_layers(model))
        ]
        with keras.StatelessScope(state):
            outputs = model(x, training=False)
        samples.append(keras.tree.map_structure(lambda p: np.asarray(p, "float32"), outputs))
    return keras.tree.map_structure(lambda *each: np.stack(each), *samples)


def fold(seed, data):
    return tf.random.experimental.stateless_fold_in(seed, data, alg="philox")
