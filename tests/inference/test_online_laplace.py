"""Tests of the Laplace approximation for data that arrive in parts."""

import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf

import tfp_bayes
from tfp_bayes import BayesianModel, Laplace, load_posterior
from tfp_bayes.inference import online_laplace
from tfp_bayes.inference.online_laplace import EarlierData, _dense
from tfp_bayes.layers import NormalParameters

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 2)).astype("float32")
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)


def covariance_of(posterior):
    """Compute the posterior covariance of each layer's weights as a full matrix."""
    size = [block.eigenvalues.size for block in posterior._blocks]
    precisions = [scipy.linalg.block_diag(*_dense(block)) for block in posterior._blocks]
    return [
        np.linalg.inv(p + np.eye(n) / posterior.prior_scale**2) for p, n in zip(precisions, size)
    ]


@pytest.mark.parametrize("num_parts", [2, 5])
@pytest.mark.parametrize("covariance", ["kronecker", "diagonal"])
def test_linear_regression_in_parts_equals_all_at_once(covariance, num_parts):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(num_parts, 6, 3))
    if covariance == "diagonal":  # exact only for orthogonal features
        x = np.linalg.qr(x)[0]
    x = x.reshape(-1, 3)
    y = x @ [1.0, -2.0, 0.5] + 0.3 * rng.normal(size=len(x))
    dense = L.Dense(1, use_bias=False, dtype="float64")
    normal = NormalParameters(heteroscedastic=False, dtype="float64", trainable=False)
    inputs = keras.Input((3,), dtype="float64")
    model = BayesianModel(
        inputs, normal(dense(inputs)), likelihood="normal", prior_scale=2.0, num_samples=1
    )
    scale = float(model(x)[0, 1])
    posterior = None
    for part in range(num_parts):
        seen, rows = slice(0, 6 * (part + 1)), slice(6 * part, 6 * (part + 1))
        exact = np.linalg.inv(x[seen].T @ x[seen] / scale**2 + np.eye(3) / 4)
        mean = exact @ x[seen].T @ y[seen] / scale**2
        dense.set_weights([mean[:, None]])
        if posterior is not None:  # the mean maximizes the density of this part under the prior
            prior = EarlierData(posterior, model, covariance == "diagonal")
            with tf.GradientTape() as tape:
                kernel = dense.kernel.value
                tape.watch(kernel)
                residual = y[rows] - tf.linalg.matvec(x[rows], kernel[:, 0])
                energy = tf.reduce_sum(residual**2) / (2 * scale**2)
                energy += posterior.quadratic_form(0) / 2
            assert prior.covered == {id(dense.kernel)}
            assert np.abs(tape.gradient(energy, kernel)).max() < 1e-10
        posterior = Laplace(covariance).fit(model, x[rows], y[rows], prior=posterior)
        np.testing.assert_allclose(covariance_of(posterior)[0], exact, atol=1e-10)
    marginal = scale**2 * np.eye(len(x)) + 4 * x @ x.T
    evidence = -0.5 * np.linalg.slogdet(2 * np.pi * marginal)[1]
    evidence -= 0.5 * y @ np.linalg.solve(marginal, y)
    assert posterior.log_marginal_likelihood() == pytest.approx(evidence, abs=1e-8)


def body_and_model(body=None, num_classes=3, prior_scale=1.0):
    body = body or L.Dense(4, "tanh", name="body")
    inputs = keras.Input((2,))
    model = BayesianModel(
        inputs,
        L.Dense(num_classes, "softmax")(body(inputs)),
        prior_scale=prior_scale,
        num_samples=1,
    )
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    return body, model


@pytest.fixture(scope="module")
def first():
    """A model and its posterior of a first task."""
    keras.utils.set_random_seed(0)
    body, model = body_and_model()
    posterior = Laplace().fit(model, X, Y, epochs=20, verbose=0)
    return body, model, posterior, [w.copy() for w in model.get_weights()]


def test_precisions_add_up_and_files_keep_them(first, tmp_path):
    _, model, posterior, weights = first
    model.set_weights(weights)
    assert posterior._blocks[0].input_vectors is not None
    alone = Laplace(prior_scale=1.0).fit(model, X[:20], Y[:20])
    both = Laplace().fit(model, X[:20], Y[:20], prior=posterior)
    for a, b, c in zip(*map(covariance_of, (posterior, alone, both))):
        expected = np.linalg.inv(a) + np.linalg.inv(b) - np.eye(len(a))
        np.testing.assert_allclose(np.linalg.inv(c), expected, rtol=1e-8, atol=1e-8)
    both.save(tmp_path / "posterior.npz")
    loaded = load_posterior(tmp_path / "posterior.npz", model)
    seed = tf.constant([1, 2])
    for a, b in zip(loaded.draw(0, seed), both.draw(0, seed)):
        np.testing.assert_array_equal(a, b)
    sample = tf.function(
        lambda: tf.map_fn(
            lambda i: both.draw(i, tf.stack([i, 3]))[2],
            tf.range(2000),
            fn_output_signature=tf.float32,
        ),
        autograph=False,
    )
    draws = sample().numpy().reshape(2000, -1)
    expected = covariance_of(both)[1].reshape(5, 3, 5, 3)[:4, :, :4].reshape(12, 12)
    error = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / 2000)
    assert np.abs((np.cov(draws.T) - expected) / error).max() < 5.5
    assert not both.assign(posterior)
    three = Laplace().fit(model, X[20:], Y[20:], prior=loaded)
    assert three.prior_share < both.prior_share < posterior.prior_share


def test_training_stays_near_earlier_weights_and_leaves_the_model_as_it_was(first):
    _, model, posterior, weights = first
    distances, kls = [], []
    for prior in (None, posterior):
        model.set_weights(weights)
        history = []
        note = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda _, logs, history=history: history.append(logs["kl"])
        )
        Laplace(prior_scale=None if prior else 1.0).fit(
            model, X, (Y + 1) % 3, epochs=15, prior=prior, callbacks=[note], verbose=0
        )
        moved = [w - old for w, old in zip(model.get_weights(), weights)]
        distances.append(np.sqrt(sum((each**2).sum() for each in moved)))
        kls.append(history)
    assert distances[1] < 0.8 * distances[0]
    assert kls[1][-1] > kls[1][0] > 0  # it starts at zero, for the earlier weights
    assert int(model.optimizer.iterations) == 15 * 2  # only the steps of these epochs
    assert model.earlier_data is None
    kernels = [w for w in model.get_weights() if w.ndim == 2]
    half = sum((w**2).sum() for w in kernels) / 2
    assert float(model.kl_divergence()) == pytest.approx(half, rel=1e-5)


def test_tasks_share_layers_and_have_heads_of_their_own(first):
    body, model, posterior, weights = first
    model.set_weights(weights)
    _, second = body_and_model(body, num_classes=2)
    both = Laplace().fit(second, X, Y // 2, epochs=1, prior=posterior, verbose=0)
    assert both._blocks[0].vectors is not None
    assert both._blocks[1].vectors is None
    with pytest.raises(ValueError, match=r"over trainable weights of `model`.*\['"):
        Laplace().fit(body_and_model()[1], X, Y, prior=posterior)


def test_what_does_not_add_up_is_refused(first, monkeypatch):
    _, model, posterior, weights = first
    model.set_weights(weights)

    def fit(method, prior=posterior, network=model, **arguments):
        return method.fit(network, X, Y, prior=prior, **arguments)

    with pytest.raises(ValueError, match=r"Received: a Kronecker-factored one"):
        fit(Laplace("diagonal"))
    with pytest.raises(ValueError, match=r"Expected None or 1.0, as in `prior`, for `prior_scale`"):
        fit(Laplace(prior_scale=2.0))
    with pytest.raises(ValueError, match=r"variables='all' and no `validation_data`"):
        fit(Laplace(), validation_data=(X, Y))
    with pytest.raises(ValueError, match=r"variables='last_layer'"):
        fit(Laplace("full", variables="last_layer"))
    with pytest.raises(ValueError, match=r"Expected a LaplacePosterior .* Received: LastLayer"):
        fit(Laplace(), Laplace(variables="last_layer", prior_scale=1.0).fit(model, X, Y))
    with pytest.raises(ValueError, match=r"temperature=1, .* Received: temperature=0.5"):
        fit(Laplace(), Laplace(temperature=0.5).fit(model, X, Y))
    plain = keras.Model(model.input, model.output)
    plain.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="Expected a BayesianModel for training with `prior`"):
        fit(Laplace(), network=plain, epochs=1)
    monkeypatch.setattr(online_laplace, "_MAX_SIZE", 14)
    with pytest.raises(ValueError, match=r"with more than 14 weights, because .*kernel'\]"):
        fit(Laplace())


def test_statistics_and_weights_without_a_posterior_are_refused():
    inputs = keras.Input((2,))
    norm = L.BatchNormalization(name="norm")
    outputs = L.Dense(3, "softmax")(norm(L.Dense(4, "relu")(inputs)))
    model = BayesianModel(inputs, outputs, prior_scale=1.0, num_samples=1)
    model.compile("adam", "sparse_categorical_crossentropy")
    posterior = Laplace("diagonal").fit(model, X, Y)
    problems = r"norm/gamma', 'norm/beta', 'norm/moving statistics'\].*set layer.trainable = False"
    with pytest.raises(ValueError, match=problems):
        Laplace("diagonal").fit(model, X, Y, epochs=1, prior=posterior, verbose=0)
    norm.trainable = False
    assert tfp_bayes.kl_divergence(model) > 0
    Laplace("diagonal").fit(model, X, Y, epochs=1, prior=posterior, verbose=0)
