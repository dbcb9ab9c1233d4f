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


def is_half(s: Subject) -> bool:
    return any("float16" in layer.compute_dtype for layer in s.bayesian.layers)


def losses(entry: zoo.Entry):
    """What the entry's model is compiled with."""
    return keras.tree.map_structure(lambda each: each() if callable(each) else each, entry.loss)


def nll(entry: zoo.Entry, y, y_pred) -> float:
    """Negative log likelihood per observation in NumPy, summed over the outputs of a model."""
    kinds = keras.tree.flatten(entry.likelihood)
    flat = zip(kinds, keras.tree.flatten(y), arrays(y_pred), strict=True)
    return float(sum(_nll(kind, a, b.astype("float64")).mean() for kind, a, b in flat))


def _nll(kind: str, y, p) -> np.ndarray:
    """Negative log likelihood of each observation; Keras clips probabilities at 1e-7."""
    p = p if kind == "normal" else p.clip(1e-7, 1 - 1e-7)
    if kind == "categorical":
        return -np.log(np.take_along_axis(p / p.sum(-1, keepdims=True), y[..., None], -1))
    if kind == "bernoulli":
        y = y.reshape(p.shape)
        return -(y * np.log(p) + (1 - y) * np.log1p(-p)).sum(-1)
    loc, scale = np.split(p, 2, axis=-1)
    z = (y - loc) / scale
    return (np.log(scale) + (z**2 + np.log(2 * np.pi)) / 2).sum(-1)


def check_conversion(s: Subject, folder) -> str | None:
    """There and back again is the same model: outputs, names, weights, what is trained."""
    if s.entry.inference is None:
        return "a subclass has no graph"
    back = to_deterministic(s.bayesian)
    x = as_tensors(s.x)
    for a, b in zip(arrays(s.plain(x, training=False)), arrays(back(x, training=False))):
        np.testing.assert_array_equal(a, b)

    def names(model):  # a Sequential model does not list its inputs
        layers = model.layers
        return [each.name for each in layers if not isinstance(each, keras.layers.InputLayer)]

    def facts(model):
        return [(w.path.split("/")[-1], w.trainable, tuple(w.shape)) for w in model.weights]

    assert facts(back) == facts(s.plain)
    assert names(back) == names(s.plain)
    return None


def check_samples(s: Subject, folder) -> None:
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
        for a, b in zip(expected, arrays(s.samples), strict=True):
            np.testing.assert_allclose(b[index], a, rtol=1e-4, atol=3e-3 if is_half(s) else 2e-6)


def check_batches(s: Subject, folder) -> None:
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


def check_served(s: Subject, folder) -> str | None:
    """A SavedModel gives the same answer."""
    if s.entry.inference is None or len(s.bayesian.outputs) > 1:
        return "export takes a graph with one output, and says so"
    export_saved_model(s.predictor, folder / "served", num_samples=SAMPLES)
    served = tf.saved_model.load(str(folder / "served"))
    answer = served.predict_uncertainty(as_tensors(s.x), SAMPLES, [3, 0])
    expected = s.predictor.predict_uncertainty(s.x, SAMPLES, seed=3)
    np.testing.assert_array_equal(answer["mean"], expected.mean)
    np.testing.assert_array_equal(answer["predictive_entropy"], expected.predictive_entropy)
    return None


def check_evaluate(s: Subject, folder) -> str | None:
    """`evaluate` gives the negative log likelihood that NumPy finds on what `predict` returns."""
    if s.entry.inference is None:
        return "a plain Keras model evaluates as Keras does"
    s.bayesian.compile("sgd", loss=losses(s.entry))
    actual = np.atleast_1d(s.bayesian.evaluate(as_tensors(s.x), s.y, verbose=0))[0]
    expected = nll(s.entry, s.y, s.bayesian.predict(as_tensors(s.x), verbose=0))
    np.testing.assert_allclose(actual, expected, rtol=2e-3 if is_half(s) else 1e-5, atol=1e-6)
    return None


CHECKS = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_")
}
