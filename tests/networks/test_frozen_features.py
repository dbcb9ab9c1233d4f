"""Tests of the closed-form head on pretrained backbones, which must not change."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes import ActiveLearner, BayesianBasisRegression, Predictor
from tfp_bayes.layers import BayesianLinear

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (60, 32, 32, 3)).astype("uint8")
Y = np.arange(60) % 3


def small_backbone():
    """A backbone with adapted and random preprocessing, a skip, nesting and noise."""
    normalize = keras.layers.Normalization(name="adapted")
    normalize.adapt(X.astype("float32"))
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.RandomFlip(seed=0)(normalize(inputs))
    h = keras.layers.Conv2D(4, 3, 4, padding="same", name="stem")(x)
    h = keras.layers.BatchNormalization()(h)
    block_in = keras.Input((8, 8, 4))
    block_out = keras.layers.BatchNormalization()(
        keras.layers.Conv2D(4, 3, padding="same", activation="relu")(block_in)
    )
    block = keras.Model(block_in, block_out, name="block")
    h = keras.layers.Dropout(0.5)(keras.layers.add([h, block(h)]))
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(h)
    return keras.Model(inputs, {"map": h, "pooled": pooled})


def frozen_functional():
    backbone = small_backbone()
    backbone.trainable = False
    return keras.Model(backbone.inputs, backbone.output["pooled"])


def check_exact(model, features, phi):
    """Train and predict, and compare with the head alone on precomputed features."""
    before = [v.numpy() for v in features.weights]
    head = BayesianLinear(3, prior_scale=0.5, noise_scale=0.2)
    head.condition(phi, np.eye(3)[Y])
    expected = head.predictive(phi)
    model.compile("adam")
    history = model.fit(X, Y, epochs=3, verbose=0)
    assert (history.epoch, history.history) == ([], {})
    p = model.predict_uncertainty(X)
    np.testing.assert_allclose(p.mean, expected.mean, atol=1e-5)
    np.testing.assert_allclose(p.epistemic_variance, expected.epistemic_variance, rtol=1e-4)
    np.testing.assert_array_equal(model.embed(X), phi)
    for variable, value in zip(features.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)
    return p


def test_application_is_asked_and_never_moved():
    keras.utils.set_random_seed(0)
    backbone = keras.applications.MobileNet(
        (32, 32, 3), alpha=0.25, include_top=False, weights=None, pooling="avg"
    )
    backbone.trainable = False
    inputs = keras.Input((32, 32, 3))
    scaled = keras.applications.mobilenet.preprocess_input(keras.ops.cast(inputs, "float32"))
    features = keras.Model(inputs, backbone(scaled))
    model = BayesianBasisRegression(features, 3, prior_scale=0.5, noise_scale=0.2)
    check_exact(model, backbone, features.predict(X, batch_size=256, verbose=0))


def test_graph_is_asked_and_never_moved(tmp_path):
    keras.utils.set_random_seed(0)
    features = frozen_functional()
    model = BayesianBasisRegression(features, 3, prior_scale=0.5, noise_scale=0.2, seed=0)
    p = check_exact(model, features, features.predict(X, batch_size=256, verbose=0))
    # The sampled model uses the same backbone, in inference mode.
    sampled = Predictor(model, "normal").predict_uncertainty(X[:5], 500, seed=0)
    z = (sampled.mean - p.mean[:5]) / np.sqrt(p.epistemic_variance[:5] / 500)
    assert np.abs(z).max() < 5.5
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert not loaded.features.trainable_variables
    np.testing.assert_array_equal(loaded.predict_uncertainty(X).mean, p.mean)


def learner_of(model, x, **arguments):
    model.compile("adam")
    query = {"acquisition": "predictive_variance", "selector": "greedy_variance", "size": 2}
    test = {"test_data": (x[40:], Y[40:])}
    return ActiveLearner(
        model, x, Y, initial=range(3), query=query, refit={"steps": 1}, evaluation=test, **arguments
    )


def test_features_of_the_pool_are_computed_once(tmp_path):
    keras.utils.set_random_seed(0)
    features = frozen_functional()
    before = [v.numpy() for v in features.weights]
    whole = BayesianBasisRegression(features, 3, noise_scale=0.2, seed=0)
    each_round = learner_of(whole, X).run(3)
    for variable, value in zip(features.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)

    phi = whole.embed(X)
    model = BayesianBasisRegression(phi.shape[1], 3, noise_scale=0.2, seed=0)
    features.predict_on_batch = None  # any further call of the backbone would fail
    learner = learner_of(model, phi, checkpoint=tmp_path / "run.npz")
    rows = learner.run(3)
    assert [row.optimizer_steps for row in rows] == [0, 0, 0, 0]
    for ours, theirs in zip(rows, each_round, strict=True):
        assert ours.test_nll == pytest.approx(theirs.test_nll, rel=1e-4)
        assert ours.test_accuracy == theirs.test_accuracy
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a new head has no labels, which is no mistake
        again = learner_of(BayesianBasisRegression(phi.shape[1], 3, noise_scale=0.2, seed=0), phi)
    assert [r.test_nll for r in again.run(3)] == [r.test_nll for r in rows]


def test_given_features_are_saved_exported_and_checked(tmp_path):
    phi = RNG.normal(size=(30, 5))
    model = BayesianBasisRegression(5, 3, seed=0)
    model.condition(phi, Y[:30])
    head = BayesianLinear(3)
    head.condition(phi, np.eye(3)[Y[:30]])
    np.testing.assert_array_equal(model.predict_uncertainty(phi).mean, head.predictive(phi).mean)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.predict(phi), model.predict(phi))
    np.testing.assert_array_equal(loaded.embed(phi), phi)
    with pytest.raises(ValueError, match="Expected"):
        model.predict_uncertainty(phi[:, :4])
    with pytest.raises(ValueError, match="Expected an integer of at least 1 for `features`"):
        BayesianBasisRegression(0, 3)


def test_what_is_no_matrix_of_features_is_refused():
    inputs = keras.Input((4,))
    two = keras.Model(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(3)(inputs)])
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    images = keras.Input((8, 8, 1))
    maps = keras.Model(images, keras.layers.Conv2D(2, 3)(images))
    for features in (two, small_backbone(), unbuilt, maps):
        with pytest.raises(ValueError, match="Expected a built model with one output"):
            BayesianBasisRegression(features, 3)


def test_half_precision_reaches_the_head_as_it_is():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, "tanh", dtype="mixed_float16")(inputs)
    features = keras.Model(inputs, hidden)
    features.trainable = False
    x = RNG.normal(size=(30, 4)).astype("float32")
    phi = features.predict(x, verbose=0)
    assert phi.dtype == "float16"
    model = BayesianBasisRegression(features, 3, noise_scale=0.1)
    model.condition(x, Y[:30])
    head = BayesianLinear(3, noise_scale=0.1)
    head.condition(phi.astype("float64"), np.eye(3)[Y[:30]])
    p = model.predict_uncertainty(x)
    np.testing.assert_allclose(p.mean, head.predictive(phi.astype("float64")).mean, atol=1e-5)
    samples = model.sample(tf.constant(x), 400, seed=0)[..., :3]
    z = (samples.mean(0) - p.mean) / np.sqrt(p.epistemic_variance / 400)
    assert np.abs(z).max() < 5.5
