"""Small networks that several tests share."""

import keras
import numpy as np

import tfp_bayes
from tfp_bayes.layers import MCDropout


def images(rows=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, 12, 12, 1)).astype("uint8")


def small_cnn(**kwargs):
    """Return Gal's network for 12 x 12 images and 4 classes."""
    return tfp_bayes.BayesianCNN((12, 12, 1), 4, **kwargs)


def vectors(rows=12, size=5, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, size)).astype("float32")


def mlp(size=5, num_classes=3, rate=0.4):
    """Return a Sequential model with dropout before the second and third dense layer."""
    return keras.Sequential(
        [
            keras.Input((size,)),
            keras.layers.Dense(16, activation="relu"),
            MCDropout(rate),
            keras.layers.Dense(8, activation="tanh"),
            MCDropout(rate),
            keras.layers.Dense(num_classes, activation="softmax"),
        ]
    )


def bayesian_mlp(size=5, num_classes=3, **kwargs):
    inputs = keras.Input((size,))
    x = keras.layers.Dense(16, activation="relu")(inputs)
    x = MCDropout(0.4)(x)
    outputs = keras.layers.Dense(num_classes, activation="softmax")(x)
    return tfp_bayes.BayesianModel(inputs, outputs, **kwargs)
