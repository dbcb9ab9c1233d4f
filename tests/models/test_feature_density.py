"""Tests of feature densities against the discriminant analyses of scikit-learn."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import mlp, vectors
from processes import run_python
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)

from tfp_bayes import BayesianModel, FeatureDensity, StoredPosterior, metrics, to_deterministic
from tfp_bayes.layers import MCDropout
from tfp_bayes.models import FittedFeatureDensity
from tfp_bayes.models.class_normals import ClassMoments

L = keras.layers
K, F = 3, 4
X = vectors(90)
Y = np.repeat(np.arange(K), [20, 30, 40])
TINY = 1e-12


def network(dtype=None, classes=K):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    x = L.Dense(F, "tanh", name="hidden", dtype=dtype)(inputs)
    return keras.Model(inputs, L.Dense(classes, "softmax", dtype=dtype)(x))


def features(model, x):
    kernel, bias = model.get_layer("hidden").get_weights()
    return np.tanh(np.float64(x) @ kernel + bias)


def log_joint(h, priors, means, covariances):
    columns = [
        np.log(p) + multivariate_normal(m, c).logpdf(h)
        for p, m, c in zip(priors, means, covariances, strict=True)
    ]
    return np.stack(columns, axis=1)


def test_own_covariances_are_quadratic_discriminant_analysis():
    model = network()
    h = features(model, X)
    density = FeatureDensity("own", ridge=TINY).fit(model, X, Y)
    expected = QuadraticDiscriminantAnalysis().fit(h, Y).decision_function(h)
    expected -= F / 2 * np.log(2 * np.pi)
    np.testing.assert_allclose(density.class_log_densities(X), expected, atol=1e-4)
    np.testing.assert_allclose(density.score(X), -logsumexp(expected, axis=1), atol=1e-4)


def test_a_shared_covariance_is_linear_discriminant_analysis():
    model = network()
    h = features(model, X)
    density = FeatureDensity("shared", ridge=TINY).fit(model, X, Y)
    lda = LinearDiscriminantAnalysis("lsqr", store_covariance=True).fit(h, Y)
    expected = log_joint(h, lda.priors_, lda.means_, [lda.covariance_] * K)
    np.testing.assert_allclose(density.class_log_densities(X), expected, atol=1e-4)


def test_a_covariance_of_its_own_needs_more_examples_than_features():
    moments = ClassMoments(2, own=True)
    for label, count in enumerate((F, F + 1)):
        moments.add(vectors(count, F, seed=label).astype("float64"), np.full(count, label))
    normals, small = moments.normals(1e-3)
    assert small.tolist() == [0]
    assert len(set(normals.groups.tolist())) == 2


@pytest.mark.parametrize("covariance", ["own", "shared"])
def test_batches_in_any_order_give_the_same(covariance):
    """Batches lack some classes, and features are far from 0, where sums of squares cancel."""
    model = keras.Sequential([keras.Input((5,)), L.Dense(K, "softmax")])  # features are inputs
    x = X + 3e3
    density = FeatureDensity(covariance).fit(model, x, Y)
    order = np.random.default_rng(1).permutation(len(x))
    dataset = tf.data.Dataset.from_tensor_slices((x[order], Y[order, None])).batch(7)
    again = FeatureDensity(covariance).fit(model, dataset)
    h = x.astype("float64")
    counts = np.bincount(Y)
    scatters = [np.cov(h[k == Y].T, bias=True) for k in range(K)]
    shared = np.average(scatters, axis=0, weights=counts)
    ridge = 1e-3 * np.trace(shared) / 5 * np.eye(5)
    used = [ridge + (c if covariance == "own" else shared) for c in scatters]
    means = [h[k == Y].mean(0) for k in range(K)]
    expected = log_joint(h, counts / len(Y), means, used)
    np.testing.assert_allclose(again.class_log_densities(x), expected, atol=1e-6)
    np.testing.assert_allclose(density.class_log_densities(x), expected, atol=1e-6)
    assert np.argmax(density.score(np.concatenate([x, x[:1] + 50]))) == len(x)


def test_a_class_of_one_example_takes_what_all_share():
    model, y = network(classes=5), Y.copy()
    y[0], y[1:3] = 3, 1  # one example of class 3, none of class 4
    h = features(model, X)
    with pytest.warns(UserWarning, match=r"Classes \[3\] have no more than 4 examples"):
        density = FeatureDensity("own", ridge=TINY).fit(model, X, y)
    assert density.classes.tolist() == [0, 1, 2, 3]
    counts = np.bincount(y)
    covariances = [np.cov(h[y == k].T, bias=True) for k in range(3)]
    shared = sum(c * n for c, n in zip(covariances, counts)) / len(y)  # 0 for class 3
    means = [h[y == k].mean(0) for k in range(4)]
    expected = log_joint(h, counts / len(y), means, [*covariances, shared])
    np.testing.assert_allclose(density.class_log_densities(X), expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Classes")
@pytest.mark.parametrize("covariance", ["own", "shared"])
def test_more_features_than_examples_and_constant_ones(covariance):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((5,)), L.Dense(30, "relu", name="hidden"), L.Dense(K, "softmax")]
    )
    kernel, bias = model.get_layer("hidden").get_weights()
    kernel[:, :10], bias[:10] = 0, np.arange(10)
    model.get_layer("hidden").set_weights([kernel, bias])
    x, y = X[::5], Y[::5]
    density = FeatureDensity(covariance).fit(model, x, y)
    inside, outside = density.score(X), density.score(20 + X)
    assert np.isfinite(inside).all()
    assert metrics.auroc(inside, outside) == 1


IN_A_FRESH_PROCESS = """
import sys
import keras, numpy as np
from tfp_bayes.models import FittedFeatureDensity
folder = sys.argv[1]
keras.layers.Dense(3)  # so that automatic names differ
model = keras.models.load_model(folder + "/model.keras", safe_mode=True)
density = FittedFeatureDensity.load(folder + "/density.npz", model)
x = np.load(folder + "/x.npy")
np.testing.assert_array_equal(density.score({"a": x, "b": x}), np.load(folder + "/scores.npy"))
print("equal")
"""


def test_saved_and_loaded_in_a_fresh_process(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = {"a": keras.Input((5,), name="a"), "b": keras.Input((5,), name="b")}
    x = L.BatchNormalization()(L.Dense(5, "relu")(inputs["a"])) + inputs["b"]
    model = BayesianModel(inputs, L.Dense(K, "softmax")(MCDropout(0.5)(x)))
    density = FeatureDensity("own").fit(model, {"a": X, "b": X}, Y)
    model.save(tmp_path / "model.keras")
    density.save(tmp_path / "density.npz")
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "scores.npy", density.score({"a": X, "b": X}))
    done = run_python(IN_A_FRESH_PROCESS, tmp_path)
    assert done.stdout == "equal\n", done.stderr[-2000:]
    with pytest.raises(ValueError, match="of the same architecture"):
        FittedFeatureDensity.load(tmp_path / "density.npz", network())
    plain = network()
    weights = [np.zeros((2, *v.shape)) for v in plain.variables]
    StoredPosterior(plain, weights).save(tmp_path / "posterior.npz")
    with pytest.raises(ValueError, match="with a StoredPosterior"):
        FittedFeatureDensity.load(tmp_path / "posterior.npz", plain)


def test_stochastic_networks_are_taken_at_their_means():
    model = mlp()
    density = FeatureDensity().fit(model, X, Y)
    expected = FeatureDensity().fit(to_deterministic(model), X, Y).score(X)
    np.testing.assert_allclose(density.score(X), expected, rtol=1e-6)
    np.testing.assert_array_equal(density.score(X[:1]), density.score(X)[:1])


def test_half_precision_and_rows_that_are_not_finite():
    density = FeatureDensity().fit(network("mixed_float16"), X, Y)
    plain = FeatureDensity().fit(network(), X, Y)
    np.testing.assert_allclose(density.score(X), plain.score(X), atol=0.1)
    x = X[:3].copy()
    x[1, 2] = np.inf
    assert np.flatnonzero(np.isnan(density.score(x))).tolist() == [1]
    assert np.flatnonzero(np.isnan(density.class_log_densities(x)).all(1)).tolist() == [1]
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        FeatureDensity().fit(network(), x, Y[:3])


def test_a_network_that_was_trained_further_is_refused():
    model = network()
    density = FeatureDensity().fit(model, X, Y)
    model.get_layer("hidden").bias.assign_add([0.0, 0.1, 0.0, 0.0])
    with pytest.raises(ValueError, match="again after training"):
        density.score(X)


def test_two_classes_behind_one_output():
    model = keras.Sequential([keras.Input((5,)), L.Dense(F, "tanh"), L.Dense(1, "sigmoid")])
    assert FeatureDensity().fit(model, X, Y % 2).classes.tolist() == [0, 1]


def pixels():
    return keras.Sequential([keras.Input((4, 4, 1)), L.Conv2D(2, 2), L.Dense(K, "softmax")])


def pooled():
    layers = [L.Conv2D(K, 2), L.GlobalAveragePooling2D(), L.Softmax()]
    return keras.Sequential([keras.Input((4, 4, 1)), *layers])


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (pixels, (X, Y), r"one output \(N, K\).*\(None, 3, 3, 3\)"),
        (pooled, (X, Y), r"inputs \(N, F\).*they are \(None, 4, 4, 1\)"),
        (network, (X, Y + 1), "from 1 to 3"),
        (network, (X, np.eye(K)[Y]), "argmax"),
        (network, (X,), "for `y`. Received: none"),
        (network, (X[:0], Y[:0]), "`x`. Received: none"),
        (network, (X[:K], np.arange(K)), "3 examples of 3 classes, with the same features"),
        (network, (np.ones_like(X), Y), "90 examples of 3 classes, with the same features"),
    ],
)
def test_models_and_data_that_do_not_fit_are_refused(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        FeatureDensity().fit(make(), *arguments)


def test_settings():
    assert FeatureDensity(**FeatureDensity("own", 0.1).get_config()).ridge == 0.1
    with pytest.raises(ValueError, match="covariance='full'"):
        FeatureDensity("full")
    with pytest.raises(ValueError, match=r"ridge=0"):
        FeatureDensity(ridge=0)
