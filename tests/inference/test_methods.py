"""Tests of the contract that all methods for posteriors over weights fulfill."""

import functools
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from methods import CASES
from networks import vectors
from processes import run_python

import tfp_bayes
from tfp_bayes import Predictor, load_posterior
from tfp_bayes.active import ActiveLearner, Evaluation, Query, Refit
from tfp_bayes.inference import Method

X = vectors(48)
Y = X[:, :3].argmax(1)
NAMES = list(CASES)


# The chains of the test cases are too short to mix.
pytestmark = pytest.mark.filterwarnings("ignore:The predictions of the chains disagree")


def network(prior_scale=None):
    """Build a model with batch statistics and a skip connection, Bayesian if it has a prior.

    Its optimizer has a state, but fewer operations than Adam, which take long to trace.
    """
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(5, "relu")(inputs)) + inputs
    outputs = keras.layers.Dense(3, "softmax")(x)
    model = keras.Model(inputs, outputs)
    if prior_scale is not None:
        model = tfp_bayes.BayesianModel(inputs, outputs, prior_scale=prior_scale, num_samples=1)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.5), "sparse_categorical_crossentropy")
    return model


class EpochCount(keras.callbacks.Callback):
    """A count of epochs over all training runs of one fit, with a simulated Ctrl-C."""

    def __init__(self, interrupt_at=None):
        super().__init__()
        self.interrupt_at, self.count = interrupt_at, 0

    def on_epoch_begin(self, epoch, logs=None):
        if self.count == self.interrupt_at:
            raise KeyboardInterrupt
        self.count += 1


def fitted(name, count=None, **settings):
    """Return a new model and the posterior of a method that is fitted to it."""
    case = CASES[name]
    model = network(prior_scale=case.prior_scale)
    if case.steps:
        model.fit(X, Y, epochs=2, shuffle=False, verbose=0)
    given = {} if count is None else {"callbacks": [count]}
    return model, case.make(**settings).fit(model, X, Y, **case.fit_arguments, **given)


@functools.cache
def fitted_once(name):
    """Return the same model, posterior and count of epochs to all tests."""
    count = EpochCount() if CASES[name].stop_at is not None else None
    return *fitted(name, count), count


@pytest.fixture(scope="module", params=NAMES)
def once(request):
    """Fit each method once, without interruption, and compute samples."""
    model, posterior, _ = fitted_once(request.param)
    predictor = Predictor(model, posterior=posterior)
    num_samples = posterior.num_draws or 4
    samples = predictor.sample(X, num_samples, seed=3)
    return request.param, predictor, num_samples, samples


def test_settings_make_the_method_again():
    for case in CASES.values():
        method = case.make()
        assert isinstance(method, Method)
        again = type(method)(**method.get_config())
        assert again.get_config() == method.get_config()


def test_samples_are_functions_that_differ(once):
    _, predictor, num_samples, samples = once
    assert len(samples) == num_samples
    np.testing.assert_allclose(samples.sum(-1), 1, atol=1e-5)
    assert len(np.unique(samples[:, 0], axis=0)) == num_samples
    # BatchNormalization is in inference mode, so predictions do not depend on other rows.
    np.testing.assert_array_equal(predictor.sample(X[:2], num_samples, seed=3), samples[:, :2])
    for center, variable in zip(predictor.posterior.center(), predictor.posterior.variables):
        assert center.shape == variable.shape
        assert np.isfinite(np.asarray(center, "float64")).all()


def test_a_row_that_is_not_finite_is_nan(once):
    _, predictor, num_samples, _ = once
    strange = X[:3].copy()
    strange[1, 2] = np.inf
    p = predictor.predict(strange, num_samples, seed=3)
    assert np.isnan(p[1]).all()
    assert np.isfinite(p[[0, 2]]).all()


def test_exported_and_served(once, tmp_path):
    _, predictor, num_samples, _ = once
    tfp_bayes.export_saved_model(predictor, tmp_path / "served", num_samples)
    served = tf.saved_model.load(tmp_path / "served")
    found = served.predict_uncertainty(X, num_samples, [3, 0])
    expected = predictor.predict_uncertainty(X, num_samples, seed=3)
    for measure, value in found.items():
        np.testing.assert_array_equal(value, getattr(expected, measure), err_msg=measure)


LOAD = """
import sys
import keras, numpy as np
from tfp_bayes import Predictor, load_posterior
folder = sys.argv[1]
x = np.load(folder + "/x.npy")
for name in sys.argv[2:]:
    model = keras.models.load_model(f"{folder}/{name}.keras", safe_mode=True)
    predictor = Predictor(model, posterior=load_posterior(f"{folder}/{name}.npz", model))
    expected = np.load(f"{folder}/{name}.npy")
    np.testing.assert_array_equal(predictor.sample(x, len(expected), seed=3), expected)
print("equal")
"""


def test_saved_and_loaded_in_a_fresh_process(tmp_path):
    np.save(tmp_path / "x.npy", X)
    for name in NAMES:
        model, posterior, _ = fitted_once(name)
        model.save(tmp_path / f"{name}.keras")
        posterior.save(tmp_path / f"{name}.npz")
        samples = Predictor(model, posterior=posterior).sample(X, posterior.num_draws or 4, seed=3)
        np.save(tmp_path / f"{name}.npy", samples)
        assert type(load_posterior(tmp_path / f"{name}.npz", model)) in type(posterior).__mro__
    done = run_python(LOAD, tmp_path, *NAMES)
    assert done.stdout == "equal\n", done.stderr[-2000:]


@pytest.mark.parametrize("name", [name for name in NAMES if CASES[name].stop_at is not None])
def test_an_interrupted_fit_goes_on_to_the_same_bits(name, tmp_path):
    _, expected, whole = fitted_once(name)
    with pytest.raises(KeyboardInterrupt):
        fitted(name, EpochCount(CASES[name].stop_at), directory=tmp_path)
    resumed = EpochCount()
    _, posterior = fitted(name, resumed, directory=tmp_path)
    assert resumed.count == whole.count - CASES[name].stop_at  # completed epochs are not repeated
    for index in range(expected.num_draws or 2):
        seed = tf.constant([index, 5])
        for a, b in zip(posterior.draw(index, seed), expected.draw(index, seed), strict=True):
            np.testing.assert_array_equal(a, b)


def learner(case, **more):
    arguments = {name: v for name, v in case.fit_arguments.items() if name != "verbose"}
    return ActiveLearner(
        network(prior_scale=case.prior_scale),
        X,
        Y,
        initial=np.arange(8),
        query=Query(size=3, ignore=np.arange(36, 48)),
        refit=Refit(steps=case.steps, posterior=case.make(), fit_arguments=arguments),
        evaluation=Evaluation(test_data=(X[36:], Y[36:])),
        **more,
    )


# HMC and BatchEnsemble would take too long in a learner, and MultiSWAG only repeats SWAG.
@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("hmc", "multi_swag", "batch_ensemble")]
)
def test_learns_actively_and_goes_on_to_the_same_bits(name, tmp_path):
    case = CASES[name]
    first = learner(case, checkpoint=tmp_path / "first" / "checkpoint.npz")
    first.run(0)
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    path = tmp_path / "second" / "checkpoint.npz"
    second = learner(case, checkpoint=path)
    first.run(1)
    second.run(1)
    for a, b in zip(first.history, second.history, strict=True):
        assert a.test_nll == b.test_nll
        assert a.round == 0 or a.pool_uncertainty == b.pool_uncertainty > 0
    np.testing.assert_array_equal(first.pool.acquired_at, second.pool.acquired_at)
    found = [each.predictor.predict_uncertainty(X, seed=1).mean for each in (first, second)]
    np.testing.assert_array_equal(*found)


class Other:
    """A different method, which is never fitted."""

    def fit(self, model, x, y=None, **fit_arguments):
        raise NotImplementedError

    def get_config(self):
        return {}


def test_a_checkpoint_of_another_method_is_refused(tmp_path):
    case, path = CASES["laplace"], tmp_path / "checkpoint.npz"
    learner(case, checkpoint=path)
    with pytest.raises(ValueError, match=r"Expected the configuration of the run.*posterior="):
        learner(case._replace(make=Other), checkpoint=path)
