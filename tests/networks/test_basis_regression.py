"""Tests of basis regression: training, the closed-form head, prediction and saving."""

import functools

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tfp_bayes import BayesianBasisRegression, Predictor, to_deterministic
from tfp_bayes.layers import BayesianLinear, ClassProbabilities, MCDropout
from tfp_bayes.networks import basis_data

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 4)).astype("float32")
LABELS = X[:, :3].argmax(1)
REAL = np.stack([X.sum(1), np.sin(X[:, 0])], axis=1) + 0.05 * RNG.normal(size=(90, 2))


def features(seed=0):
    init = keras.initializers.GlorotUniform(seed)
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(16, "tanh", kernel_initializer=init)]
    )


def fitted(y=LABELS, **arguments):
    keras.utils.set_random_seed(0)
    outputs = 3 if y is LABELS else 2
    task = "classification" if y is LABELS else "regression"
    arguments = {"optimize_evidence": True, **arguments}
    model = BayesianBasisRegression(features(), outputs, task=task, seed=0, **arguments)
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(X, y, epochs=3, verbose=0)
    return model


@functools.cache
def shared(task):
    """Return a fitted model that several tests use and none changes."""
    return fitted(LABELS if task == "classification" else REAL)


@pytest.mark.parametrize("y", [LABELS, REAL], ids=["classes", "real"])
def test_head_is_conditioned_on_trained_features(y, monkeypatch):
    model = shared("classification" if y is LABELS else "regression")
    phi = model.features.predict(X, verbose=0)
    assert not np.array_equal(phi, features().predict(X, verbose=0))
    targets = np.eye(3)[LABELS] if y is LABELS else REAL
    head = BayesianLinear(targets.shape[1])
    head.condition(phi, targets, optimize_evidence=True)
    expected = head.predictive(phi)
    p = model.predict_uncertainty(X, batch_size=40)
    np.testing.assert_allclose(p.mean, expected.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(p.epistemic_variance, expected.epistemic_variance, rtol=1e-5)
    np.testing.assert_allclose(p.aleatoric_variance[0], expected.noise_variance, rtol=1e-6)
    np.testing.assert_array_equal(model.predict(X, verbose=0), model.predict_uncertainty(X).mean)
    assert (p.mean.argmax(1) == LABELS).mean() > 0.6 or y is REAL
    monkeypatch.setattr(basis_data, "_ROWS_AT_A_TIME", 50)  # several blocks of several batches
    blocks = model.predict_uncertainty(X, batch_size=20)
    np.testing.assert_allclose(blocks.mean, p.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(blocks.mutual_information, p.mutual_information, rtol=1e-5)


def test_entropies_are_those_of_normals():
    model = fitted(output_covariance=[[1, 0.3, 0], [0.3, 1, 0], [0, 0, 1]])
    p = model.predict_uncertainty(X[:5])
    total = p.variance
    expected = scipy.stats.norm(scale=np.sqrt(total)).entropy().sum(1)
    np.testing.assert_allclose(p.predictive_entropy, expected, rtol=1e-6)
    # The information that a target carries about the weights is a difference of two log
    # determinants, for any output covariance.
    covariance = model.head.predictive(model.features.predict(X[:5], verbose=0), True).covariance
    noise = model.head.noise_scales.numpy()[0] ** 2 * model.head.scatter.numpy()
    information = [(np.linalg.slogdet(c)[1] - np.linalg.slogdet(noise)[1]) / 2 for c in covariance]
    np.testing.assert_allclose(p.mutual_information, information, rtol=1e-6)
    assert np.isnan(p.variation_ratio).all()


def test_samples_agree_with_the_closed_form():
    model = shared("regression")
    exact = model.predict_uncertainty(X[:4], 2000, seed=1, return_samples=True)
    loc = exact.samples[..., :2]
    z = (loc.mean(0) - exact.mean) / np.sqrt(exact.epistemic_variance / 2000)
    assert np.abs(z).max() < 4
    z = (loc.var(0) / exact.epistemic_variance - 1) / np.sqrt(2 / 2000)
    assert np.abs(z).max() < 4
    sampled = Predictor(model, "normal").predict_uncertainty(X[:4], 2000, seed=1)
    np.testing.assert_allclose(sampled.epistemic_variance, loc.var(0), rtol=1e-4)
    np.testing.assert_allclose(sampled.aleatoric_variance, exact.aleatoric_variance, rtol=1e-4)


def test_evaluate():
    model = shared("regression")
    p = model.predict_uncertainty(X)
    results = model.evaluate(X, REAL, return_dict=True)
    scale = p.std
    nll = -scipy.stats.norm(p.mean, scale).logpdf(REAL).sum(1).mean()
    assert results["loss"] == pytest.approx(nll, rel=1e-6)
    rmse = np.sqrt(((p.mean - REAL) ** 2).mean())
    assert results["root_mean_squared_error"] == pytest.approx(rmse, rel=1e-6)
    dataset = tf.data.Dataset.from_tensor_slices((X, REAL)).batch(32)
    assert model.evaluate(dataset) == pytest.approx(list(results.values()), rel=1e-6)


def test_evaluate_takes_one_target_with_or_without_an_axis():
    model = BayesianBasisRegression(4, 1, task="regression")
    model.condition(X, REAL[:, 0])
    p = model.predict_uncertainty(X)
    nll = -scipy.stats.norm(p.mean, p.std).logpdf(REAL[:, :1]).mean()
    for y in (REAL[:, 0], REAL[:, :1]):
        assert model.evaluate(X, y)[0] == pytest.approx(nll, rel=1e-6)
    with pytest.raises(ValueError, match=r"Expected finite `targets` of shape \(N, 1\)"):
        model.evaluate(X, REAL)


@pytest.mark.parametrize("posterior", ["matrix_normal", "mean_field"])
def test_saved_by_value(posterior, tmp_path):
    model = fitted(posterior=posterior, per_output=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    own = set(model.get_config()) - {"features"}  # loading adds entries to it
    assert {k: loaded.get_config()[k] for k in own} == {k: model.get_config()[k] for k in own}
    one, other = (m.predict_uncertainty(X, 5, seed=0, return_samples=True) for m in (model, loaded))
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.epistemic_variance, other.epistemic_variance)
    np.testing.assert_array_equal(one.samples, other.samples)
    loaded.fit(X, LABELS, verbose=0)  # compiled as before


def test_served(tmp_path):
    model = shared("classification")
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    result = served.predict_uncertainty(X[:16], 20, [5, 0])
    expected = model.predictor.predict_uncertainty(X[:16], 20, 5)
    np.testing.assert_array_equal(result["epistemic_variance"], expected.epistemic_variance)


def test_datasets():
    model = fitted()
    dataset = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(30)
    model.fit(dataset, verbose=0)
    assert model.head.num_conditioned == 90
    with pytest.raises(ValueError, match="Expected `condition_on` for data that are endless"):
        model.fit(dataset.repeat(), steps_per_epoch=1, verbose=0)
    model.fit(dataset.repeat(), steps_per_epoch=1, verbose=0, condition_on=(X[:50], LABELS[:50]))
    assert model.head.num_conditioned == 50


def head_of(phi, targets, **arguments):
    head = BayesianLinear(targets.shape[1])
    head.condition(phi, targets, True, **arguments)
    return head


def check_head(model, rows, sample_weight=None):
    phi = model.features.predict(X[rows], verbose=0)
    expected = head_of(phi, np.eye(3)[LABELS[rows]], sample_weight=sample_weight)
    np.testing.assert_allclose(model.head.kernel_loc, expected.kernel_loc, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.head.root, expected.root, rtol=1e-5, atol=1e-6)
    assert model.head.num_conditioned == pytest.approx(expected.num_conditioned)


def test_head_learns_from_what_the_features_learned_from():
    model = fitted()
    weight, class_weight = np.arange(90) % 4 / 2, {0: 2.0, 2: 0.5}
    model.fit(X, LABELS, validation_split=0.5, verbose=0)
    check_head(model, slice(45))
    model.fit(X, LABELS, validation_split=0.5, validation_data=(X, LABELS), verbose=0)
    check_head(model, slice(None))
    model.fit(X, LABELS, 30, verbose=0, sample_weight=weight)
    check_head(model, slice(None), weight)
    model.fit(X, LABELS, verbose=0, class_weight=class_weight)
    check_head(model, slice(None), np.array([2.0, 1.0, 0.5])[LABELS])
    model.condition(X, LABELS, sample_weight=weight)
    check_head(model, slice(None), weight)
    model.fit(tf.data.Dataset.from_tensor_slices((X, LABELS, weight)).batch(40), verbose=0)
    check_head(model, slice(None), weight)
    results = model.evaluate(X, LABELS, sample_weight=weight, return_dict=True)
    kept = [model.evaluate(X[[i]], LABELS[[i]])[0] for i in range(4)]
    first = model.evaluate(X[:4], LABELS[:4], sample_weight=weight[:4])[0]
    assert first == pytest.approx(np.average(kept, weights=weight[:4]))
    assert np.isfinite(results["loss"])


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs(as_dict):
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    inputs = {"a": a, "b": b} if as_dict else [a, b]
    dense = keras.layers.Dense(8, "tanh")(keras.layers.Concatenate()([a, b]))
    model = BayesianBasisRegression(keras.Model(inputs, dense), 2, task="regression")
    model.compile()
    x = {"a": X, "b": -X} if as_dict else [X, -X]
    model.fit(x, REAL, validation_split=0.2, verbose=0)
    assert model.head.num_conditioned == 72
    p = model.predict_uncertainty(x, 3, return_samples=True, batch_size=50)
    assert p.mean.shape == (90, 2)
    assert p.samples.shape == (3, 90, 4)
    dataset = tf.data.Dataset.from_tensor_slices((x if as_dict else tuple(x), REAL)).batch(20)
    assert model.evaluate(dataset) == pytest.approx(model.evaluate(x, REAL), rel=1e-5)


class Endless(keras.utils.PyDataset):
    def __getitem__(self, index):
        return X[:30], LABELS[:30]

    @property
    def num_batches(self):
        return None


def test_data_without_an_end_or_targets():
    model = fitted()
    generator = ((X[:30], LABELS[:30]) for _ in range(3))
    for data in (Endless(), generator):
        with pytest.raises(ValueError, match="`condition_on` for data that are endless"):
            model.fit(data, steps_per_epoch=2, verbose=0)
    finite = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(30)
    model.fit(Endless(), steps_per_epoch=2, verbose=0, condition_on=finite)
    assert model.head.num_conditioned == 90
    model.fit(generator, steps_per_epoch=2, verbose=0, condition_on=(X, LABELS, np.full(90, 0.5)))
    assert model.head.num_conditioned == 45
    with pytest.raises(ValueError, match="Expected finite data"):
        model.condition(finite.repeat())
    for use in (model.condition, model.fit):
        with pytest.raises(ValueError, match=r"each example once.*repeats them 6 times"):
            use(finite.repeat(2).prefetch(1).repeat(3))
    with pytest.raises(ValueError, match="Expected targets"):
        model.condition(X)
    with pytest.raises(ValueError, match="its own targets"):
        model.evaluate(finite, LABELS)
    with pytest.raises(ValueError, match="at least one batch"):
        model.predict_uncertainty(finite.take(0))


def test_random_features_are_refused():
    inner = keras.Sequential([keras.Input((4,)), MCDropout(0.5, name="noise")])
    with pytest.raises(ValueError, match=r"\['noise'\].*to_deterministic"):
        BayesianBasisRegression(keras.Sequential([keras.Input((4,)), inner]), 3)


def test_deterministic_is_the_predictive_mean():
    model = shared("classification")
    plain = to_deterministic(keras.Model(model.inputs, model.head(model.features(model.inputs[0]))))
    np.testing.assert_allclose(plain.predict(X, verbose=0)[:, :3], model.predict(X), atol=1e-5)


def test_a_backbone():
    backbone = keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, weights=None, include_top=False, pooling="avg"
    )
    model = BayesianBasisRegression(backbone, 2)
    images = RNG.uniform(size=(6, 32, 32, 3)).astype("float32")
    model.condition(images, np.arange(6) % 2)  # without training the features
    assert model.predict(images).shape == (6, 2)


def test_gals_network_is_the_default():
    model = BayesianBasisRegression()
    assert model.features.output_shape == (None, 128)
    assert model.input_shape == (None, 28, 28, 1)


def test_bad_arguments():
    with pytest.raises(ValueError, match="Received: task='classes'"):
        BayesianBasisRegression(features(), task="classes")
    images = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match=r"one output \(N, F\)"):
        BayesianBasisRegression(images)
    with pytest.raises(ValueError, match="Expected a compiled model"):
        BayesianBasisRegression(features(), 3).fit(X, LABELS)
    model = fitted()
    with pytest.raises(ValueError, match=r"integer labels in \[0, 3\)"):
        model.condition(X, LABELS + 1)


# Classifiers and greedy batches.


def test_class_probabilities_are_those_of_the_largest_target():
    rng = np.random.default_rng(0)
    loc, scale = np.array([0.7, 0.2, 0.1]), 0.3
    probabilities = ClassProbabilities(dtype="float64")(np.r_[loc, 3 * [scale]][None])[0].numpy()
    # Exact for Gumbel noise of that variance.
    noise = rng.gumbel(scale=scale * np.sqrt(6) / np.pi, size=(20_000, 3))
    assert np.std(noise) == pytest.approx(scale, rel=0.02)
    counts = np.bincount((loc + noise).argmax(1), minlength=3)
    assert scipy.stats.chisquare(counts, 20_000 * probabilities).pvalue > 1e-3
    # Approximate for normal noise.
    normal = np.bincount((loc + scale * rng.normal(size=(20_000, 3))).argmax(1), minlength=3)
    np.testing.assert_allclose(probabilities, normal / 20_000, atol=0.03)


def test_class_probabilities_of_unequal_noise_and_bad_shapes(tmp_path):
    loc = np.array([0.7, 0.1])
    answer = ClassProbabilities(dtype="float64")(np.r_[loc, 0.1, 0.7][None])[0]
    z = np.pi / np.sqrt(6) * loc / np.sqrt((0.01 + 0.49) / 2)
    np.testing.assert_allclose(answer, np.exp(z) / np.exp(z).sum(), rtol=1e-6)
    with pytest.raises(ValueError, match="even last axis"):
        ClassProbabilities()(np.ones((2, 3)))


def test_classifier_shares_the_posterior(tmp_path):
    model = fitted()
    classifier = model.to_classifier()
    p = classifier.predict_uncertainty(X, 200, seed=0)
    np.testing.assert_allclose(p.mean.sum(1), 1, rtol=1e-5)
    assert (p.mutual_information > 0).all()
    assert np.mean(p.mean.argmax(1) == model.predict(X).argmax(1)) > 0.9
    samples = model.sample(X, 3, seed=0)[..., :3] * np.pi / np.sqrt(6)
    expected = scipy.special.softmax(samples / model.head.noise_scales.numpy(), -1)
    np.testing.assert_allclose(classifier.sample(X, 3, seed=0), expected, rtol=1e-4)
    classifier.save(tmp_path / "c.keras")
    again = keras.models.load_model(tmp_path / "c.keras")
    np.testing.assert_array_equal(
        again.predict_uncertainty(X, 5, 0).mean, classifier.predict_uncertainty(X, 5, 0).mean
    )
    model.optimize_evidence = False
    model.condition(X[:4], LABELS[:4])  # the classifier shares the new posterior
    assert (
        classifier.predict_uncertainty(X, 200, seed=0).mutual_information > p.mutual_information
    ).mean() > 0.9
    with pytest.raises(ValueError, match="model for classification"):
        BayesianBasisRegression(features(), 2, task="regression").to_classifier()


def test_greedy_batch_is_that_of_the_head():
    model = shared("classification")
    picked = model.greedy_batch(X, 5, batch_size=16)
    np.testing.assert_array_equal(picked, model.head.greedy_batch(model.features.predict(X), 5))


def test_inputs_that_are_not_finite_stay_visible_behind_relu():
    features = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, "relu")])
    model = BayesianBasisRegression(features, 3, seed=0)
    model.compile("adam")
    x, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 3
    model.fit(x, y, verbose=0)
    bad = x.copy()
    bad[[2, 5], 0] = np.nan, np.inf
    assert np.flatnonzero(np.isnan(model.embed(bad)).any(-1)).tolist() == [2, 5]
    with pytest.raises(ValueError, match=r"Expected finite `features`.*12 values not finite"):
        model.predict_uncertainty(bad)
    with pytest.raises(ValueError, match=r"infinity in the examples \[2, 5\]"):
        model.fit(bad, y, verbose=0)
    with pytest.raises(ValueError, match="finite"):
        model.condition(bad, y)
