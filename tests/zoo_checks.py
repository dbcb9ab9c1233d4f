"""What is checked of every model of the zoo."""

import functools
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import zoo

from tfp_bayes import Predictor, export_saved_model, to_bayesian, to_deterministic
from tfp_bayes._plumbing.seeds import as_seed, fold_in
from tfp_bayes.layers import stochastic_layers

ROWS = 5
SAMPLES = 3


@dataclass(frozen=True)
class Subject:
    """A model of the zoo, its Bayesian twin and its data; checks leave all of it as it was."""

    entry: zoo.Entry
    plain: keras.Model
    bayesian: keras.Model
    x: Any
    y: Any

    @functools.cached_property
    def predictor(self) -> Predictor:
        return getattr(self.bayesian, "predictor", None) or Predictor(self.bayesian)

    @functools.cached_property
    def samples(self):
        return self.predictor.sample(self.x, SAMPLES, seed=3)


@functools.lru_cache(maxsize=1)
def subject(name: str) -> Subject:
    keras.utils.set_random_seed(1)
    entry = zoo.ZOO[name]
    plain = entry.build()
    bayesian = plain
    if entry.inference is not None:
        bayesian = to_bayesian(
            plain,
            entry.inference,
            likelihood=entry.likelihood,
            num_samples=SAMPLES,
            verbose=False,
        )
    return Subject(entry, plain, bayesian, entry.x(ROWS), entry.y(ROWS))


def as_tensors(x):
    return keras.tree.map_structure(tf.convert_to_tensor, x)


def arrays(structure):
    return [np.asarray(each) for each in keras.tree.flatten(structure)]


def check_conversion(s: Subject) -> str | None:
    """There and back again is the same model: outputs, names, weights, what is trained."""
    if s.entry.inference is None:
        return "a subclass has no graph"
    back = to_deterministic(s.bayesian)
    x = as_tensors(s.x)
    for a, b in zip(arrays(s.plain(x, training=False)), arrays(back(x, training=False))):
        np.testing.assert_array_equal(a, b)

    def facts(model):
        return [(w.path.split("/")[-1], w.trainable, tuple(w.shape)) for w in model.weights]

    assert facts(back) == facts(s.plain)
    assert [layer.name for layer in back.layers] == [layer.name for layer in s.plain.layers]
    return None


def check_samples(s: Subject) -> None:
    """The predictor equals the whole model, run once for each sample with the same noise."""
    x = as_tensors(s.x)
    for index in range(SAMPLES):
        seed = fold_in(as_seed(3), index)
        states = [
            (layer.seed_generator.state, tf.cast(fold_in(seed, i), "int64"))
            for i, layer in enumerate(stochastic_layers(s.bayesian))
        ]
        with keras.StatelessScope(states):
            expected = arrays(s.bayesian(x, training=False))
        half = any("float16" in layer.compute_dtype for layer in s.bayesian.layers)
        for a, b in zip(expected, arrays(s.samples), strict=True):
            np.testing.assert_allclose(b[index], a, rtol=1e-4, atol=3e-3 if half else 2e-6)


def check_batches(s: Subject) -> None:
    """An answer does not depend, bit for bit, on the rows that are asked with it."""
    for size in (1, 2, 4):
        actual = s.predictor.sample(s.x, SAMPLES, seed=3, batch_size=size)
        for a, b in zip(arrays(s.samples), arrays(actual), strict=True):
            np.testing.assert_array_equal(a, b)


def check_saved(s: Subject, folder) -> str | None:
    """A `.keras` file gives the same samples."""
    if s.entry.inference is None:
        return "a class of the test's own cannot be loaded"
    s.bayesian.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    actual = loaded.sample(s.x, SAMPLES, seed=3)
    for a, b in zip(arrays(s.samples), arrays(actual), strict=True):
        np.testing.assert_array_equal(a, b)
    return None


def check_served(s: Subject, folder) -> None:
    """A SavedModel gives the same answer."""
    export_saved_model(s.predictor, folder / "served", num_samples=SAMPLES)
    served = tf.saved_model.load(str(folder / "served"))
    answer = served.predict_uncertainty(as_tensors(s.x), SAMPLES, [3, 0])
    expected = s.predictor.predict_uncertainty(s.x, SAMPLES, seed=3)
    flat = keras.tree.flatten(expected)
    means = (
        [part["mean"] for part in keras.tree.flatten_up_to(expected, answer)]
        if (len(flat) > 1)
        else [answer["mean"]]
    )
    for a, b in zip(flat, means, strict=True):
        np.testing.assert_array_equal(a.mean, b)
