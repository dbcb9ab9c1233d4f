"""In a prediction, no layer is in training mode, and only stochastic layers are random."""

import keras
import layer_by_layer
import numpy as np
import pytest
import tensorflow as tf
from networks import mlp, vectors

from tfp_bayes import Predictor
from tfp_bayes.layers import MCDropout

layers = keras.layers
SIZE = (8, 8, 3)


def softmax():
    return layers.Dense(3, activation="softmax")


def pictures(rows=9):
    return np.random.default_rng(0).uniform(0, 1, (rows, *SIZE)).astype("float32")


class Augmented(layers.Layer):
    """Layer that does not pass on its mode, like many custom layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flip = layers.RandomFlip(seed=1)

    def call(self, x):
        return self.flip(x)


def augmentations():
    return [
        layers.RandomTranslation(0.3, 0.3),
        layers.RandomRotation(0.3),
        layers.RandomHue(0.5, value_range=(0, 1)),  # draws noise but does not use it
        Augmented(),
        layers.Pipeline([layers.RandomFlip(), layers.RandomZoom(0.4)]),
        keras.Sequential([layers.RandomContrast(0.5), layers.RandomBrightness(0.5, (0, 1))]),
    ]


def augmented_first():
    parts = [*augmentations(), layers.Flatten(), MCDropout(0.4), softmax()]
    return keras.Sequential([keras.Input(SIZE), *parts])


def augmented_after_noise():
    parts = [MCDropout(0.2), *augmentations(), layers.Flatten(), softmax()]
    return keras.Sequential([keras.Input(SIZE), *parts])


def augmented_frames():
    frames = keras.Input((2, *SIZE))
    x = layers.TimeDistributed(keras.Sequential([layers.RandomFlip(), layers.Flatten()]))(frames)
    x = layers.Bidirectional(layers.LSTM(4, dropout=0.5))(MCDropout(0.3)(x))
    return keras.Model(frames, softmax()(x))


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (augmented_first, pictures()),
        (augmented_after_noise, pictures()),
        (augmented_frames, np.stack([pictures(), pictures()[::-1]], axis=1)),
    ],
    ids=["first", "after noise", "frames"],
)
def test_augmentation_is_off(make, x):
    """Keras' augmentations are in training mode unless the caller passes `training=False`."""
    model = make()
    predictor = Predictor(model)
    samples = predictor.sample(x, 3, seed=2)
    np.testing.assert_allclose(samples, layer_by_layer.sample(model, x, 3, seed=2), atol=2e-6)
    np.testing.assert_allclose(predictor.sample(x[:4], 3, seed=2), samples[:, :4], atol=2e-6)
    assert np.ptp(samples, axis=0).max() > 1e-3


# Training mode in a graph.


def lstm(x, **mode):
    return layers.LSTM(4, dropout=0.5, name="forced")(x, **mode)


def normalization(x, **mode):
    return layers.Flatten()(layers.BatchNormalization(name="forced")(x, **mode))


def nested(x, **mode):
    inner = keras.Sequential(
        [keras.Input((4, 5)), layers.Flatten(), layers.Dropout(0.5)], name="forced"
    )
    return inner(x, **mode)


def within_a_nested_model(x, **mode):
    inputs = keras.Input((4, 5))
    inner = keras.Model(inputs, layers.Dropout(0.5, name="forced")(inputs, **mode))
    return layers.Flatten()(inner(x))


def within_a_wrapper(x, **mode):
    inputs = keras.Input((5,))
    inner = keras.Model(inputs, layers.GaussianNoise(0.5, name="forced")(inputs, **mode))
    return layers.Flatten()(layers.TimeDistributed(inner)(x))


def stochastic(x, **mode):
    return layers.Flatten()(MCDropout(0.5, name="forced")(x, **mode))


@pytest.mark.parametrize(
    "part", [lstm, normalization, nested, within_a_nested_model, within_a_wrapper, stochastic]
)
def test_forced_training_is_refused(part):
    inputs = keras.Input((4, 5))
    forced, free = (
        keras.Model(inputs, softmax()(MCDropout(0.5)(part(inputs, **mode))))
        for mode in ({"training": True}, {})
    )
    with pytest.raises(ValueError, match=r"'forced'.*training=True\. Hint: omit training=True"):
        Predictor(forced)
    Predictor(free)


def test_training_that_changes_nothing_is_accepted():
    inputs = keras.Input(SIZE)
    x = layers.RandomFlip()(inputs, training=True)  # Keras records its default the same way
    x = layers.Flatten()(layers.ReLU()(x, training=True))
    Predictor(keras.Model(inputs, softmax()(MCDropout(0.5)(x))))


# Training mode and noise that are not visible in a graph, but are found while tracing.


class Hidden(keras.Model):
    def __init__(self, part):
        super().__init__()
        self.part, self.noise, self.out = part, MCDropout(0.4), softmax()

    def call(self, x, training=False):
        return self.out(self.noise(self.part(x)))


class Forced(layers.Layer):
    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer

    def call(self, x):
        return self.layer(x, training=True)


class Sampling(layers.Layer):
    """Layer with its own noise, as in a variational autoencoder."""

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed_generator)


class Counter(layers.Layer):
    """Layer that counts its calls, which is allowed."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), dtype="int32", trainable=False, initializer="zeros")

    def call(self, x):
        self.calls.assign_add(1)
        return x


NOISE = {
    "dropout": (lambda: Forced(layers.Dropout(0.5, name="inner")), "'inner' of type Dropout, wh"),
    "statistics": (lambda: Forced(layers.BatchNormalization(name="inner")), "'inner'.*'moving_m"),
    "nested": (lambda: Forced(mlp_with_dropout()), "of type Dropout, which is random"),
    "sampling": (lambda: Sampling(name="inner"), "'inner' of type Sampling, which is random"),
    "TensorFlow": (lambda: layers.Lambda(tensorflow_noise), "random_normal"),
    "Keras": (lambda: layers.Lambda(keras_noise), "no layer owns"),
}
CASES = [(name, "suffix") for name in NOISE]
CASES += [("dropout", "prefix"), ("statistics", "prefix"), ("nested", "subclassed")]


@pytest.mark.parametrize(("name", "where"), CASES)
def test_foreign_noise_is_refused(name, where):
    part, message = NOISE[name]
    parts = [part(), MCDropout(0.4)]
    if where == "subclassed":
        model = Hidden(parts[0])
        model(vectors(2))
    else:
        ordered = parts if where == "prefix" else parts[::-1]
        model = keras.Sequential([keras.Input((5,)), *ordered, softmax()])
    with pytest.raises(ValueError, match=message):
        Predictor(model).sample(vectors(4), 2, seed=0)


def tensorflow_noise(x):
    return x + tf.random.normal(tf.shape(x))


def keras_noise(x):
    return x + keras.random.normal((1, 5))


def mlp_with_dropout():
    return keras.Sequential([keras.Input((5,)), layers.Dense(5), layers.Dropout(0.5)])


def test_what_only_counts_is_left_alone():
    counter = Counter()
    model = keras.Sequential([keras.Input((5,)), counter, MCDropout(0.4), softmax()])
    before = counter.calls.numpy()
    Predictor(model).sample(vectors(4), 2, seed=0)
    assert counter.calls.numpy() == before


def test_an_error_leaves_no_broken_graph_behind():
    predictor = Predictor(mlp())
    with pytest.raises(ValueError, match="incompatible"):
        predictor.sample(vectors(4, 7), 2, seed=0)
    with pytest.raises((TypeError, ValueError, tf.errors.OpError)):  # while tracing
        predictor.sample(np.full((4, 5), "word"), 2, seed=0)
    assert predictor.sample(vectors(4), 2, seed=0).shape == (2, 4, 3)
