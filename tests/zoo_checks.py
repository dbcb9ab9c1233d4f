"""Checks that run on every model of the zoo."""

import dataclasses
import functools
import re
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import zoo
from harness import share_noise

from tfp_bayes import (
    Prediction,
    Predictor,
    export_saved_model,
    posteriors,
    to_bayesian,
    to_deterministic,
)
from tfp_bayes._plumbing.seeds import as_seed, fold_in
from tfp_bayes.export.saved_model import PREDICT_SEED
from tfp_bayes.layers import stochastic_layers, variational_layers

ROWS = 5
SAMPLES = 3


@dataclass(frozen=True)
class Subject:
    """A model of the zoo, its Bayesian version and its data. Checks restore what they change."""

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


def tolerance(s: Subject) -> float:
    """Relative tolerance for a training loss.

    Batch statistics of five images through 50 layers amplify rounding: even a plain
    `ResNet50` differs in a graph from what it is eagerly.
    """
    return 5e-3 if is_half(s) else 1e-3 if s.entry.large else 1e-4


def losses(entry: zoo.Entry):
    """Return the losses that the entry's model is compiled with."""
    return keras.tree.map_structure(lambda each: each() if callable(each) else each, entry.loss)


def nll(s: Subject, y_pred) -> tuple[float, int]:
    """Return the mean negative log likelihood per observation and the number of observations."""
    kinds = keras.tree.flatten(s.entry.likelihood)
    parts = zip(kinds, keras.tree.flatten(s.y), arrays(y_pred), strict=True)
    values = [_nll(kind, y, p.astype("float64")) for kind, y, p in parts]
    if s.entry.seen is not None:
        values = [each[s.entry.seen(s.x)] for each in values]
    values = np.concatenate([each.ravel() for each in values])
    return values.mean(), values.size


def _nll(kind: str, y, p) -> np.ndarray:
    """Return the values for each observation. Like Keras, it clips probabilities at 1e-7."""
    if kind == "categorical":
        p = (p / p.sum(-1, keepdims=True)).clip(1e-7, 1 - 1e-7)
        return -np.log(np.take_along_axis(p, y[..., None], -1)[..., 0])
    if kind == "bernoulli":
        y, p = y.reshape(p.shape), p.clip(1e-7, 1 - 1e-7)
        return -(y * np.log(p) + (1 - y) * np.log1p(-p))
    loc, scale = np.split(p, 2, axis=-1)
    return (np.log(scale) + (((y - loc) / scale) ** 2 + np.log(2 * np.pi)) / 2).sum(-1)


def kl_divergence(s: Subject) -> float:
    """Return the KL of independent normals from N(0, 1), or for dropout that of the library."""
    random_layers = variational_layers(s.bayesian)
    if not random_layers:
        return float(s.bayesian.kl_divergence())
    total = 0.0
    for layer in random_layers:
        for weight in layer.random_weights.values():
            if isinstance(weight.posterior, posteriors.MeanFieldNormal):
                q = weight.distribution()
                loc, scale = (np.asarray(each, "float64") for each in (q.loc, q.scale))
                total += (-np.log(scale) + (scale**2 + loc**2 - 1) / 2).sum()
    return total


def state(model) -> list:
    """Return the values of all variables: weights and seed states."""
    return [variable.numpy() for variable in model.variables]


def restore(model, values) -> None:
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


def one_step(s: Subject, model=None, **compiled) -> dict:
    """Return the metrics of one training step, and restore weights and seed states."""
    model = s.bayesian if model is None else model
    before = state(model)
    model.compile(keras.optimizers.SGD(0.0), losses(s.entry), **compiled)
    history = model.fit(as_tensors(s.x), s.y, batch_size=ROWS, shuffle=False, verbose=0).history
    restore(model, before)
    return {name: values[0] for name, values in history.items()}


def check_conversion(s: Subject, folder) -> str | None:
    """Conversion and back keeps outputs, names, weights and trainable flags."""
    if s.entry.inference is None:
        return "a subclassed model has no graph"
    back = to_deterministic(s.bayesian)
    x = as_tensors(s.x)
    for a, b in zip(arrays(s.plain(x, training=False)), arrays(back(x, training=False))):
        np.testing.assert_array_equal(a, b)

    def names(model):  # a Sequential model does not list its inputs
        layers = model.layers
        return [each.name for each in layers if not isinstance(each, keras.layers.InputLayer)]

    def facts(model):
        return [(name(w), w.trainable, tuple(w.shape)) for w in model.weights]

    def name(weight):  # Keras numbers unnamed weights
        return re.sub(r"^variable(_\d+)?$", "variable", weight.path.split("/")[-1])

    assert facts(back) == facts(s.plain)
    assert names(back) == names(s.plain)
    return None


def check_samples(s: Subject, folder) -> None:
    """The predictor equals the whole model run once per sample with the same noise."""
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
    """Samples are bit-equal for any batch size."""
    for size in (1, 2, 4):
        actual = s.predictor.sample(s.x, SAMPLES, seed=3, batch_size=size)
        for a, b in zip(arrays(s.samples), arrays(actual), strict=True):
            np.testing.assert_array_equal(a, b)


def check_saved(s: Subject, folder) -> str | None:
    """A model loaded from a `.keras` file gives the same outputs with the same noise."""
    if s.entry.inference is None:
        return "a class defined in the test cannot be loaded"
    s.bayesian.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    before, x = state(s.bayesian), as_tensors(s.x)
    share_noise(s.bayesian, loaded)
    for a, b in zip(
        arrays(s.bayesian(x, training=False)), arrays(loaded(x, training=False)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    restore(s.bayesian, before)
    return None


def check_served(s: Subject, folder) -> str | None:
    """A SavedModel gives the same predictions."""
    if s.entry.inference is None or len(s.bayesian.outputs) > 1:
        return "export refuses models without a graph or with several outputs"
    export_saved_model(s.predictor, folder / "served", num_samples=SAMPLES)
    served = tf.saved_model.load(str(folder / "served"))
    answer = served.predict_uncertainty(as_tensors(s.x), SAMPLES, [3, 0])
    expected = s.predictor.predict_uncertainty(s.x, SAMPLES, seed=3, return_samples=True)
    np.testing.assert_array_equal(answer["mean"], expected.mean)
    np.testing.assert_array_equal(answer["predictive_entropy"], expected.predictive_entropy)
    mean = s.bayesian.predict(as_tensors(s.x), verbose=0)
    np.testing.assert_array_equal(served.serve(as_tensors(s.x)), mean)
    return None


def check_evaluate(s: Subject, folder) -> str | None:
    """`evaluate` returns the negative log likelihood that NumPy computes from the prediction."""
    if s.entry.inference is None:
        return "a plain Keras model uses the `evaluate` of Keras"
    s.bayesian.compile("sgd", loss=losses(s.entry))
    actual = np.atleast_1d(s.bayesian.evaluate(as_tensors(s.x), s.y, verbose=0))[0]
    # With samples, like all other predictions of these checks, which saves another graph.
    p = s.predictor.predict_uncertainty(s.x, SAMPLES, PREDICT_SEED, return_samples=True)
    expected, _ = nll(s, keras.tree.map_structure(distribution, p))
    np.testing.assert_allclose(actual, expected, rtol=2e-3 if is_half(s) else 1e-5, atol=1e-6)
    return None


def distribution(p: Prediction) -> np.ndarray:
    """Return a prediction in the form of the outputs of a model."""
    if p.likelihood == "normal":
        return np.concatenate([p.mean, p.std], axis=-1)
    return p.mean


def expected_step(s: Subject) -> dict[str, float]:
    """Return the metrics of the first training step as computed in NumPy."""
    before = state(s.bayesian)
    y_pred = s.bayesian(as_tensors(s.x), training=True)
    penalty = float(sum(s.bayesian.losses))
    restore(s.bayesian, before)
    data, count = nll(s, y_pred)
    kl = kl_divergence(s)
    expected = {"loss": data + kl / count + penalty, "nll": data, "kl": kl}
    return expected | ({"penalty": penalty} if penalty else {})


def compare_step(s: Subject, **compiled) -> str | None:
    if s.entry.inference is None:
        return "a plain Keras model uses the `fit` of Keras"
    shown = one_step(s, **compiled)
    for name, value in expected_step(s).items():
        rtol = 1e-4 if name == "kl" else tolerance(s)
        np.testing.assert_allclose(shown[name], value, rtol=rtol)
    return None


def check_fit(s: Subject, folder) -> str | None:
    """One step of `fit` reports the loss, NLL, KL and penalty that NumPy computes."""
    return compare_step(s)


def check_eager(s: Subject, folder) -> str | None:
    """One step with run_eagerly=True reports the same values."""
    return compare_step(s, run_eagerly=True)


def check_xla(s: Subject, folder) -> str | None:
    """One step with jit_compile=True reports the same KL, and a loss that is the sum of its parts.

    XLA draws different noise, so the NLL differs.
    """
    if s.entry.inference is None:
        return "a plain Keras model uses the `fit` of Keras"
    try:
        shown = one_step(s, jit_compile=True)
    except Exception as error:
        if cannot_be_compiled(s):
            return "Keras cannot compile the model with XLA"
        raise error
    expected = expected_step(s)
    np.testing.assert_allclose(shown["kl"], expected["kl"], rtol=1e-4)
    count = nll(s, s.plain(as_tensors(s.x)))[1]
    whole = shown["nll"] + shown["kl"] / count + shown.get("penalty", 0.0)
    np.testing.assert_allclose(shown["loss"], whole, rtol=tolerance(s))
    return None


def cannot_be_compiled(s: Subject) -> bool:
    s.plain.compile("sgd", losses(s.entry), jit_compile=True)
    before = state(s.plain)
    try:
        s.plain.fit(as_tensors(s.x), s.y, verbose=0)
    except Exception:
        return True
    finally:
        restore(s.plain, before)
    return False


def check_replicas(s: Subject, folder) -> str | None:
    """With two replicas the KL counts once, and `evaluate` equals that of one device."""
    if s.entry.inference is None:
        return "a plain Keras model uses the `fit` of Keras"
    if any(each.dtype.kind in "OU" for each in arrays(s.x)):
        return "`fit` in Keras sums its inputs under a strategy, which fails for strings"
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    s.bayesian.save(folder / "model.keras")  # includes the state of preprocessing layers
    with strategy.scope():
        mirrored = keras.models.load_model(folder / "model.keras")
    even = dataclasses.replace(s, x=s.entry.x(4), y=s.entry.y(4))  # Keras needs equal shares
    shown = one_step(even, mirrored)
    np.testing.assert_allclose(shown["kl"], kl_divergence(s), rtol=1e-4)
    evaluated = mirrored.evaluate(as_tensors(even.x), even.y, verbose=0)
    s.bayesian.compile("sgd", losses(s.entry))
    expected = s.bayesian.evaluate(as_tensors(even.x), even.y, verbose=0)
    np.testing.assert_allclose(
        np.atleast_1d(evaluated)[0],
        np.atleast_1d(expected)[0],
        rtol=5e-3 if is_half(s) else 1e-4,
    )
    return None


CHECKS = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_")
}
# Slow checks. `pytest` runs them only for these models, and `pytest --zoo` for all.
SLOW = ("served", "eager", "xla", "replicas")
QUICK_MODELS = ("u_net", "two_outputs", "regularized")


def is_left_to_option(name: str, check: str) -> bool:
    """Return whether a check of a model runs only with `pytest --zoo`."""
    return check in SLOW and name not in QUICK_MODELS
