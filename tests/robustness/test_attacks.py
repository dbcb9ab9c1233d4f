"""Attacks against analytic gradients and finite differences, and the constraints that they keep."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes import BayesianModel, Ensemble, Predictor, StoredPosterior, metrics
from tfp_bayes.layers import DenseFlipout, MCDropout
from tfp_bayes.prediction.gradient import MeanGradient
from tfp_bayes.robustness import fgsm, pgd

L = keras.layers
RNG = np.random.default_rng(0)
SHAPE = (8, 8, 1)
SEED = np.array([0, 0], "int32")


def nll(mean, targets):
    return -tf.reduce_sum(targets * tf.math.log(mean), -1)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def images(rows=6, max_pixel=1.0, seed=0):
    return np.random.default_rng(seed).uniform(0, max_pixel, (rows, *SHAPE)).astype("float32")


def labels(rows=6, num_classes=3):
    return np.arange(rows) % num_classes


def logistic_regression(scale=1.0, dtype=None):
    model = keras.Sequential(
        [
            keras.Input(SHAPE, dtype=dtype),
            L.Rescaling(scale),
            L.Flatten(),
            L.Dense(3, "softmax", kernel_initializer=keras.initializers.RandomNormal(seed=3)),
        ]
    )
    return Predictor(model)


@pytest.fixture(scope="module")
def dropout_network():
    keras.utils.set_random_seed(0)
    x = keras.Input(SHAPE)
    h = L.Conv2D(4, 3, padding="same", activation="gelu")(x)
    h = L.Add()([h, L.BatchNormalization()(h)])
    h = MCDropout(0.4)(L.Flatten()(h))
    h = L.Dense(8, "tanh")(h)
    model = BayesianModel(x, L.Dense(3, "softmax")(MCDropout(0.5)(h)))
    model.layers[2].set_weights([RNG.uniform(0.5, 2, 4) for _ in range(4)])
    return model


@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm_of_logistic_regression_is_the_analytic_sign(targeted):
    predictor = logistic_regression()
    x, y = images(), labels()
    W, b = predictor.model.get_weights()
    p = softmax(x.reshape(6, -1) @ W + b)
    slopes = ((p - np.eye(3)[y]) @ W.T).reshape(x.shape)
    expected = np.clip(x + (-0.1 if targeted else 0.1) * np.sign(slopes), 0, 1)
    found = fgsm(predictor, x, y, 0.1, 1, num_samples=1, targeted=targeted)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_gradient_is_that_of_the_mean_of_the_same_draws():
    """The oracle is NumPy: a network with one hidden layer and five stored draws of its weights."""
    model = keras.Sequential([keras.Input((4,)), L.Dense(5, "tanh"), L.Dense(3, "softmax")])
    draws = [RNG.normal(size=(5, *w.shape)) for w in model.get_weights()]
    predictor = Predictor(model, posterior=StoredPosterior(model, draws))
    x, y = RNG.normal(size=(7, 4)).astype("float32"), np.eye(3, dtype="float32")[labels(7)]
    losses, slopes = MeanGradient(predictor, nll)(x, y, 5, SEED)

    likelihoods, gradients = [], []
    for W1, b1, W2, b2 in zip(*draws):
        h = np.tanh(x @ W1 + b1)
        p = softmax(h @ W2 + b2)
        p_y = (p * y).sum(1, keepdims=True)
        likelihoods.append(p_y)
        gradients.append(((p_y * (y - p)) @ W2.T * (1 - h**2)) @ W1.T)
    mean = np.mean(likelihoods, 0)
    np.testing.assert_allclose(losses, -np.log(mean[:, 0]), rtol=1e-5)
    np.testing.assert_allclose(slopes, -np.mean(gradients, 0) / mean, rtol=1e-4, atol=1e-6)


def test_the_gradient_through_dropout_and_a_shared_prefix(dropout_network):
    predictor = dropout_network.predictor
    x, y = images(3), np.eye(3, dtype="float32")[labels(3)]
    gradient = MeanGradient(predictor, nll)
    losses, slopes = gradient(x, y, 6, SEED)
    mean = predictor.predict(x, 6, seed=0)  # the same posterior samples
    np.testing.assert_allclose(losses, -np.log((mean * y).sum(1)), rtol=1e-6)
    for direction in RNG.normal(size=(3, *x.shape)).astype("float32"):
        step = 1e-2
        up, down = (gradient(x + s * direction, y, 6, SEED)[0] for s in (step, -step))
        found = (slopes * direction).sum((1, 2, 3))
        np.testing.assert_allclose(found, (up - down) / (2 * step), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("posterior", ["dropout", "flipout"])
def test_pgd_stays_in_the_box_and_beats_fgsm(posterior, dropout_network):
    model = dropout_network
    if posterior == "flipout":
        keras.utils.set_random_seed(1)
        x = keras.Input(SHAPE)
        h = DenseFlipout(8, activation="tanh")(L.Flatten()(x))
        model = BayesianModel(x, DenseFlipout(3, activation="softmax")(h))
    x, y = images(20), labels(20)
    clean = model.predict_uncertainty(x, 8, seed=2).mean
    quick = fgsm(model, x, y, 0.2, 1, num_samples=8, seed=2)
    strong = pgd(model, x, y, 0.2, 1, num_samples=8, seed=2)
    for attacked in (quick, strong):
        assert np.abs(attacked - x).max() < 0.2 + 1e-6
        assert 0 <= attacked.min() <= attacked.max() <= 1
    first, second = (
        metrics.nll(y, model.predict_uncertainty(each, 8, seed=2).mean) for each in (quick, strong)
    )
    assert metrics.nll(y, clean) < first <= second


def test_pgd_keeps_the_best_image_on_the_way():
    kernels = [keras.initializers.RandomNormal(stddev=0.5, seed=i) for i in (0, 1)]
    waves = L.Dense(8, keras.ops.sin, kernel_initializer=kernels[0])  # so that steps overshoot
    last = L.Dense(3, "softmax", kernel_initializer=kernels[1])
    predictor = Predictor(keras.Sequential([keras.Input(SHAPE), L.Flatten(), waves, last]))
    x, y = images(20), labels(20)
    losses = []
    for steps in (1, 2, 4):
        attacked = pgd(predictor, x, y, 0.5, 1, num_samples=1, steps=steps, step_size=0.4)
        losses.append(-np.log(predictor.predict(attacked, 1)[np.arange(20), y]))
    assert (np.diff(losses, axis=0) > -1e-5).all()
    assert np.diff(losses, axis=0).max() > 0.1


def test_a_targeted_attack_leads_to_the_target(dropout_network):
    x, y = images(8), np.full((8, 1), 2)  # labels as a column
    found = pgd(dropout_network, x, y, 0.3, 1, num_samples=8, steps=5, targeted=True)
    before, after = (dropout_network.predict_uncertainty(a, 8, seed=0).mean for a in (x, found))
    assert (after[:, 2] > before[:, 2]).all()


@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_integer_images_stay_integers_in_the_box(attack):
    x = RNG.integers(0, 256, (5, *SHAPE)).astype("uint8")
    predictor = logistic_regression(1 / 255)
    found = attack(predictor, x, labels(5), 8.7, num_samples=1)
    assert found.dtype == x.dtype
    change = found.astype(int) - x
    assert np.abs(change).max() == 8
    inside = (x >= 8) & (x <= 247)
    assert (np.abs(change)[inside] == 8).mean() > 0.9  # corners are best for a linear model
    assert attack(predictor, x[:0], [], 8, num_samples=1).shape == (0, *SHAPE)
    assert attack(predictor, x[:1], [0], 8, num_samples=1).shape == (1, *SHAPE)


def test_a_sigmoid_is_attacked_too():
    kernel = keras.initializers.RandomNormal(seed=3)
    model = keras.Sequential(
        [keras.Input(SHAPE), L.Flatten(), L.Dense(1, "sigmoid", kernel_initializer=kernel)]
    )
    x = images(2)
    found = fgsm(Predictor(model, "bernoulli"), x, [0, 1], 0.1, 1, num_samples=1)
    sign = np.sign(model.get_weights()[0]).reshape(SHAPE)
    expected = np.clip(x + 0.1 * np.stack([sign, -sign]), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_random_start_belongs_to_the_image():
    predictor, x, y = logistic_regression(), images(), labels()
    whole = pgd(predictor, x, y, 0.3, 1, num_samples=1, steps=1, step_size=0.01)
    parts = pgd(predictor, x, y, 0.3, 1, num_samples=1, steps=1, step_size=0.01, batch_size=4)
    np.testing.assert_allclose(whole, parts, atol=1e-6)  # independent of the batch size
    other = pgd(predictor, x, y, 0.3, 1, num_samples=1, steps=1, step_size=0.01, seed=1)
    assert np.abs(whole - other).max() > 0.1


def test_images_without_a_direction_are_counted():
    predictor = logistic_regression(1e6)
    with pytest.warns(UserWarning, match="gradient of 6 of 6 images is exactly 0"):
        fgsm(predictor, images(), labels(), 0.1, 1, num_samples=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": images(max_pixel=0.9), "max_pixel": 255}, "Hint: pass max_pixel=1"),
        ({"x": images() * np.nan}, "finite images"),
        ({"x": images()[..., 0]}, r"Hint: use x\[..., None\]"),
        ({"x": (images() * 255).astype("uint8"), "max_pixel": 255, "eps": 8 / 255}, "at least 1"),
        ({"eps": 0}, "for `eps`"),
        ({"eps": np.inf}, "for `eps`"),
        ({"y": [0, 1, 2, 3, 0, 1]}, r"integer labels in \[0, 3\)"),
        ({"y": [0, 1]}, "Expected 6 integer labels"),
        ({"y": np.eye(3)[labels()]}, "Expected 6 integer labels"),
        ({"num_samples": 5}, "stochastic layers"),
        ({"batch_size": 0}, "for `batch_size`"),
        ({"seed": -1}, "for `seed`"),
    ],
)
def test_refused(change, message):
    arguments = {"x": images(), "y": labels(), "eps": 0.1, "max_pixel": 1, "num_samples": 1}
    with pytest.raises(ValueError, match=message):
        fgsm(logistic_regression(), **{**arguments, **change})


def test_models_without_a_gradient_are_refused():
    x, y = images(max_pixel=255.0), labels()
    with pytest.raises(ValueError, match="can be differentiated"):
        fgsm(logistic_regression(dtype="uint8"), x.round(), y, 1, num_samples=1)
    members = [logistic_regression().model for _ in range(2)]
    members[1].set_weights([w + 1 for w in members[1].get_weights()])
    posterior = Ensemble(members, combine="vote")
    with pytest.raises(ValueError, match="combine='vote'"):
        fgsm(Predictor(members[0], posterior=posterior), x, y, 1)


def test_other_models_are_refused():
    x, y = images(), labels()
    model = logistic_regression().model
    with pytest.raises(ValueError, match=r"Hint: use Predictor\(model\)"):
        fgsm(model, x, y, 0.1, 1)
    with pytest.raises(ValueError, match="likelihood='normal'"):
        fgsm(Predictor(model, "normal"), x, y, 0.1, 1, num_samples=1)
    two = keras.Model(model.inputs, [model.outputs[0], model.outputs[0]])
    with pytest.raises(ValueError, match="model with one output"):
        fgsm(Predictor(two), x, y, 0.1, 1, num_samples=1)
    with pytest.raises(ValueError, match="at least 1 for `steps`"):
        pgd(Predictor(model), x, y, 0.1, 1, num_samples=1, steps=0)
    with pytest.raises(ValueError, match="for `step_size`"):
        pgd(Predictor(model), x, y, 0.1, 1, num_samples=1, step_size=-1)
