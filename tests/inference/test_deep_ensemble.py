"""Tests of deep ensembles: independent members, mixtures, votes, and resumed training."""

import functools
import os
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import vectors

import tfp_bayes
from tfp_bayes import Ensemble, Predictor, load_posterior
from tfp_bayes.inference import DeepEnsemble, Method
from tfp_bayes.inference.adversarial import _perturbed, adversarial_training
from tfp_bayes.inference.member import Member

RNG = np.random.default_rng(0)
X = vectors(40)
Y = X[:, :3].argmax(1)


def network():
    """Build a network with batch statistics, a frozen layer, dropout and an Adam optimizer."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    x = keras.layers.Dense(6, "relu", trainable=False)(inputs)
    x = keras.layers.BatchNormalization()(keras.layers.Dense(5, "relu")(x)) + inputs
    x = keras.layers.Dropout(0.2)(x)
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(x))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


GIVEN = ("callbacks", "sample_weight", "verbose")  # arguments of `fit`, not of the method
used_network = functools.cache(network)  # traced once for all tests, and reset for each member


def fit(model=None, x=X, y=Y, epochs=2, batch_size=16, **arguments):
    settings = {"num_members": 2, **arguments}
    given = {name: settings.pop(name) for name in GIVEN if name in settings}
    method = DeepEnsemble(**settings)
    assert isinstance(method, Method)
    given = {"verbose": 0, **given}
    return method.fit(model or used_network(), x, y, epochs=epochs, batch_size=batch_size, **given)


def weights_of(ensemble):
    return [[w.numpy() for w in ensemble.draw(i, None)] for i in range(ensemble.num_draws)]


def assert_equal(a, b):
    for one, other in zip(weights_of(a), weights_of(b), strict=True):
        for v, w in zip(one, other, strict=True):
            np.testing.assert_array_equal(v, w)


def test_members_differ_but_for_what_is_frozen(capsys):
    model = network()
    frozen = model.layers[1].kernel
    first, second = weights_of(fit(model, verbose=2))
    for v, a, b in zip(model.weights, first, second):
        is_kept = v.path.split("/")[0] == model.layers[1].name
        assert np.array_equal(a, b) == is_kept, v.path
        if v is frozen:
            np.testing.assert_array_equal(a, v)
    for v, expected in zip(model.weights, second):
        np.testing.assert_array_equal(v, expected)
    assert int(model.optimizer.iterations) == 0
    assert "member 2 of 2" in capsys.readouterr().out


def test_a_member_is_an_ordinary_training():
    model = network()
    ensemble = fit(model, num_members=3)
    assert_equal(fit(model), Ensemble(weights_of(ensemble)[:2], model))
    model.fit(X, Y, verbose=0)  # gives the optimizer moments, which must not leak into members
    assert int(model.optimizer.iterations) > 0
    assert_equal(fit(model, num_members=3), ensemble)


class KillOnce(keras.callbacks.Callback):
    """A callback that kills its process, unless one was killed before, and notes all epochs."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_epoch_begin(self, epoch, logs=None):
        with (self.folder / "epochs").open("a") as file:
            file.write(f"{epoch}\n")

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1 and self.folder.name == "killed" and is_first(self.folder / "kill"):
            os.kill(os.getpid(), signal.SIGKILL)


def is_first(path):
    """Create a file, and return whether it did not exist before."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


ARGUMENTS = {"num_members": 3, "epochs": 3, "bootstrap": True}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of three members, trained one after another, and their ensemble."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit(directory=folder, callbacks=[KillOnce(folder)], **ARGUMENTS)


def test_a_killed_worker_costs_an_epoch_and_no_bit(whole, tmp_path):
    (folder, expected), killed, model = whole, tmp_path / "killed", network()
    callbacks = [KillOnce(killed)]
    ensemble = fit(model, directory=killed, callbacks=callbacks, workers=2, **ARGUMENTS)
    assert_equal(ensemble, expected)
    epochs = [int(epoch) for epoch in (killed / "epochs").read_text().split()]
    assert sorted(epochs) == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    names = sorted(path.name for path in folder.glob("*.*"))
    assert names == sorted(path.name for path in killed.glob("*.*"))
    for name in set(names) - {"ensemble.lock"}:
        assert (folder / name).read_bytes() == (killed / name).read_bytes(), name
    # Another call has nothing to do. The file of a single member is a posterior.
    before = (killed / "member-1.npz").stat().st_mtime_ns
    fit(directory=killed, callbacks=callbacks, **ARGUMENTS)
    assert (killed / "member-1.npz").stat().st_mtime_ns == before
    assert load_posterior(killed / "member-3.npz", model).num_draws == 1


def test_members_of_a_ray_cluster_are_the_same(tmp_path):
    pytest.importorskip("ray")

    @keras.saving.register_keras_serializable("test_deep_ensemble")
    class Scaled(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

        def call(self, x):
            return self.scale * x

    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(Scaled()(inputs)))
    model.compile("adam", "sparse_categorical_crossentropy")
    assert_equal(fit(model, directory=tmp_path, engine="ray"), fit(model))


def test_another_ensemble_is_not_continued(tmp_path):
    fit(directory=tmp_path, num_members=1, epochs=1)
    for changed in ({"x": X + 1}, {"seed": 1}, {"bootstrap": True}, {"epochs": 2}, {"y": 2 - Y}):
        with pytest.raises(ValueError, match="Expected the configuration of the run"):
            fit(directory=tmp_path, **{"num_members": 1, "epochs": 1, **changed})
    other = network()
    other.layers[1].kernel.assign_add(np.ones((5, 6)))
    with pytest.raises(ValueError, match=r"Expected the configuration of the run.*start="):
        fit(other, directory=tmp_path, num_members=1, epochs=1)
    larger = fit(directory=tmp_path, num_members=2, epochs=1)
    assert_equal(larger, fit(network(), num_members=2, epochs=1))


def test_bootstrap_draws_rows_with_replacement():
    member = Member(1, 7, Path(), True, None)
    x = {"a": np.arange(1000), "b": [np.arange(1000) + 1]}
    chosen, y, weight = member.choose((x, np.arange(1000) + 2, np.arange(1000) + 3))
    np.testing.assert_array_equal(chosen["b"][0], chosen["a"] + 1)
    np.testing.assert_array_equal(y, chosen["a"] + 2)
    np.testing.assert_array_equal(weight, chosen["a"] + 3)
    assert member.choose((x, y, None))[2] is None
    share = len(np.unique(y)) / 1000
    assert abs(share - (1 - np.exp(-1))) < 5.5 * 0.0098  # share of rows drawn at least once
    other = member._replace(seed=8).choose((x, y, None))[0]["a"]
    assert (other != chosen["a"]).mean() > 0.9


def test_sample_weights_reach_the_members():
    """A weight of 0 leaves a row out: in one batch, half the rows of weight 2 are all the data."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, "softmax")])
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", run_eagerly=True)
    weighted = fit(model, batch_size=40, sample_weight=np.repeat([2.0, 0.0], 20))
    for one, other in zip(
        weights_of(weighted), weights_of(fit(model, X[:20], Y[:20], batch_size=20))
    ):
        for v, w in zip(one, other, strict=True):
            np.testing.assert_allclose(v, w, atol=1e-6)


def test_each_member_has_its_own_order_of_examples():
    dense = keras.layers.Dense(3, "softmax", kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((5,)), dense])
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", run_eagerly=True)
    with pytest.warns(UserWarning, match="starts from the same weights"):
        first, second = weights_of(fit(model, epochs=1))
    assert np.abs(first[0] - second[0]).min() > 0


def linear(scale=0.5, units=1):
    inputs = keras.Input((3,))
    loc = keras.layers.Dense(units)(inputs)
    model = keras.Model(inputs, keras.ops.concatenate([loc, 0 * loc + scale], axis=-1))
    return model


def test_the_mean_of_linear_members_is_the_linear_model_of_mean_weights():
    model, x = linear(), vectors(20, 3)
    ensemble = Ensemble(
        [[RNG.normal(size=w.shape) for w in model.weights] for _ in range(7)], model
    )
    mean = Predictor(model, "normal", ensemble).predict(x)
    kernel, bias = (w.numpy().astype("float64") for w in ensemble.center())
    np.testing.assert_allclose(mean, x @ kernel + bias, rtol=2e-6, atol=2e-6)


def test_randomized_ridge_members_are_the_exact_posterior():
    """Pearce et al. 2020, arXiv:1811.12188: MAP of noisy targets around draws of the prior."""
    noise, prior, num_members = 0.5, 2.0, 4000
    x = vectors(15, 3)
    design = np.column_stack([x, np.ones(15)])
    y = design @ [1.0, -2.0, 0.5, 3.0] + noise * RNG.normal(size=15)
    covariance = np.linalg.inv(design.T @ design / noise**2 + np.eye(4) / prior**2)
    anchors = prior * RNG.normal(size=(num_members, 4))
    noisy = y + noise * RNG.normal(size=(num_members, 15))
    members = (noisy @ design / noise**2 + anchors / prior**2) @ covariance
    model = linear(noise)
    ensemble = Ensemble([[m[:3, None], m[3:]] for m in members], model)
    at = vectors(6, 3, seed=5)
    p = Predictor(model, "normal", ensemble).predict_uncertainty(at)
    rows = np.column_stack([at, np.ones(6)])
    variance = np.einsum("nf,fg,ng->n", rows, covariance, rows)
    z = (p.mean[:, 0] - rows @ covariance @ design.T @ y / noise**2) / np.sqrt(
        variance / num_members
    )
    assert np.abs(z).max() < 5.5
    z = (p.epistemic_variance[:, 0] / variance - 1) / np.sqrt(2 / num_members)
    assert np.abs(z).max() < 5.5
    np.testing.assert_allclose(p.aleatoric_variance, noise**2, rtol=1e-6)


def test_regression_is_the_mixture_of_its_members():
    y = 1000 + X[:, :2] + 0.1 * vectors(40, 2, seed=3)
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(4, "tanh")(inputs)
    model = keras.Model(inputs, tfp_bayes.layers.NormalParameters(2)(hidden))
    model.compile(keras.optimizers.Adam(0.01), tfp_bayes.losses.NormalNLL())
    ensemble = fit(model, y=y, num_members=3)
    # The members agree to 1e-3 on targets near 1000, where E[m^2] - E[m]^2 would cancel.
    stacks = [np.stack(same) for same in zip(*weights_of(ensemble))]
    stacks[-1][:, :2] += 1000
    close = tfp_bayes.StoredPosterior(model, stacks)
    p = Predictor(model, "normal", close).predict_uncertainty(X, return_samples=True)
    loc, scale = np.split(p.samples.astype("float64"), 2, axis=-1)
    np.testing.assert_allclose(p.mean, loc.mean(0), rtol=1e-6)
    np.testing.assert_allclose(p.epistemic_variance, loc.var(0), rtol=1e-4)
    np.testing.assert_allclose(p.variance, loc.var(0) + (scale**2).mean(0), rtol=1e-5)
    for values, sample in zip(zip(*stacks), p.samples):
        model.set_weights(values)
        np.testing.assert_allclose(sample, model(X), rtol=1e-6)


def test_votes_count_members(tmp_path):
    model = used_network()
    ensemble = fit(model, num_members=5, combine="vote", epochs=1)
    p = Predictor(model, posterior=ensemble).predict_uncertainty(X, return_samples=True)
    mean = Ensemble(weights_of(ensemble), model)
    chosen = Predictor(model, posterior=mean).sample(X).argmax(-1)
    shares = np.stack([(chosen == k).mean(0) for k in range(3)], axis=-1)
    np.testing.assert_allclose(p.mean, shares, atol=1e-7)
    assert 0.2 < shares.max(1).min() < 1  # members disagree somewhere
    np.testing.assert_allclose(p.variation_ratio, 1 - shares.max(1), atol=1e-6)
    assert not p.expected_entropy.any()
    np.testing.assert_array_equal(p.samples.argmax(-1), chosen)
    ensemble.save(tmp_path / "votes.npz")
    loaded = load_posterior(tmp_path / "votes.npz", model)
    np.testing.assert_array_equal(Predictor(model, posterior=loaded).predict(X), p.mean)
    strange = np.where(np.arange(5) == 0, np.nan, X[:2])
    assert np.isnan(Predictor(model, posterior=ensemble).predict(strange)).all()


def test_votes_of_sigmoids_and_of_numbers():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.layers.Dense(2, "sigmoid")(inputs))
    members = [[RNG.normal(size=w.shape) for w in model.weights] for _ in range(5)]
    votes = Predictor(model, "bernoulli", Ensemble(members, model, combine="vote")).predict(X)
    samples = Predictor(model, "bernoulli", Ensemble(members, model)).sample(X)
    np.testing.assert_allclose(votes, (samples >= 0.5).mean(0), atol=1e-7)
    logits = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    voting = Ensemble(members, logits, combine="vote")
    with pytest.raises(ValueError, match="likelihood='bernoulli'"):
        Predictor(logits, "bernoulli", voting).predict(X)
    with pytest.raises(ValueError, match="Expected classes to vote for"):
        Predictor(logits, "normal", voting).predict(X)


def test_adversarial_twins_follow_the_sign_of_the_gradient():
    """Compare one step of SGD on a linear softmax with its closed form."""
    inputs = {"a": keras.Input((5,), name="a"), "b": keras.Input((2,), name="b")}
    joined = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(joined))
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    x = {"a": X, "b": vectors(40, 2, seed=9)}
    kernel, bias = (w.numpy().astype("float64") for w in model.weights)
    weight = np.linspace(0.5, 1.5, 40)
    with adversarial_training(model, x, 0.1):
        model.fit(x, Y, sample_weight=weight, batch_size=40, epochs=1, verbose=0)
    rows, onehot = np.concatenate([x["a"], x["b"]], axis=1).astype("float64"), np.eye(3)[Y]

    def residual(at):
        odds = np.exp(at @ kernel + bias)
        return odds / odds.sum(1, keepdims=True) - onehot

    twins = rows + 0.1 * np.ptp(rows, axis=0) * np.sign(residual(rows) @ kernel.T)
    both = np.concatenate([residual(rows), residual(twins)]) * np.tile(weight, 2)[:, None]
    slope = np.concatenate([rows, twins]).T @ both / 80
    np.testing.assert_allclose(model.weights[0], kernel - 0.5 * slope, atol=1e-5)
    np.testing.assert_allclose(model.weights[1], bias - 0.5 * both.mean(0), atol=1e-5)
    # After the context, training is as before.
    kernel, bias = (w.numpy().astype("float64") for w in model.weights)
    model.fit(x, Y, batch_size=40, epochs=1, verbose=0)
    slope = rows.T @ residual(rows) / 40
    np.testing.assert_allclose(model.weights[0], kernel - 0.5 * slope, atol=1e-5)


def test_adversarial_twins_are_those_of_the_network_without_dropout():
    dense = keras.layers.Dense(3, "softmax")
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dropout(0.5), dense])
    model.compile("sgd", "sparse_categorical_crossentropy")
    moved = _perturbed(model, tf.constant(X), tf.constant(Y), None, np.full(5, 0.1))
    kernel, bias = (w.numpy() for w in model.weights)
    odds = np.exp(X @ kernel + bias)
    slope = (odds / odds.sum(1, keepdims=True) - np.eye(3)[Y]) @ kernel.T
    np.testing.assert_allclose(moved, X + 0.1 * np.sign(slope), atol=1e-6)


def bayesian(prior_scale):
    inputs = keras.Input((5,))
    hidden = tfp_bayes.layers.MCDropout(0.3)(keras.layers.Dense(6, "relu")(inputs))
    outputs = keras.layers.Dense(3, "softmax")(hidden)
    model = tfp_bayes.BayesianModel(inputs, outputs, prior_scale=prior_scale)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def test_members_without_a_prior(tmp_path):
    model = bayesian(None)
    ensemble = fit(model, epochs=1)
    assert np.isnan(model.kl_weight)  # never set, and not a sign of divergence
    mean = Predictor(model, posterior=ensemble).predict(X, seed=0)
    assert np.isfinite(mean).all()
    ensemble.save(tmp_path / "ensemble.npz")
    loaded = load_posterior(tmp_path / "ensemble.npz", model)
    np.testing.assert_array_equal(Predictor(model, posterior=loaded).predict(X, seed=0), mean)


def test_adversarial_members_of_a_bayesian_model():
    model = bayesian(1.0)
    plain, moved = (fit(model, adversarial=share) for share in (0.0, 0.05))
    for v, a, b in zip(model.weights, weights_of(plain)[0], weights_of(moved)[0]):
        assert np.isfinite(b).all()
        assert not v.trainable or not np.array_equal(a, b)


def test_bad_arguments():
    with pytest.raises(ValueError, match="for `num_members`"):
        DeepEnsemble(0)
    with pytest.raises(ValueError, match="a folder for `directory` with engine='ray'"):
        DeepEnsemble(engine="ray")
    with pytest.raises(ValueError, match="for `combine`"):
        DeepEnsemble(combine="median")
    with pytest.raises(ValueError, match="for `adversarial`"):
        DeepEnsemble(adversarial=1.5)
    with pytest.raises(ValueError, match="Expected a compiled `model`"):
        fit(linear())
    with pytest.raises(ValueError, match=r"Expected arrays of floating-point.*uint8"):
        fit(x=X.astype("uint8"), adversarial=0.01)
    with pytest.raises(ValueError, match=r"Expected finite weights\..*kernel"):
        fit(x=np.full_like(X, 3e38), num_members=1)  # its square overflows
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    with pytest.raises(ValueError, match="Expected arrays for `x`"):
        fit(x=data, y=None, bootstrap=True)
    constant = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(3, "softmax", kernel_initializer="zeros")]
    )
    constant.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.warns(UserWarning, match="starts from the same weights"):
        fit(constant, x=data, y=None, epochs=1)
    unbuilt = keras.Sequential([keras.layers.Dense(3, "softmax")])
    unbuilt.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="Expected a built `model`"):
        fit(unbuilt)


@keras.saving.register_keras_serializable("test_deep_ensemble")
class Subclassed(keras.Model):
    """A network that the first call builds."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(units, "tanh")
        self.head = keras.layers.Dense(3, "softmax")

    def call(self, x):
        return self.head(self.hidden(x))

    def get_config(self):
        return {}  # lacks `units`


def test_subclassed_models_are_described_by_their_configuration():
    for units in (4, 5):
        model = Subclassed(units)
        model(X)
        model.compile("sgd", "sparse_categorical_crossentropy")
        if units == 4:
            first, second = weights_of(fit(model, epochs=1))
            assert np.abs(first[0] - second[0]).max() > 0.1
        else:
            with pytest.raises(ValueError, match="whose from_config makes 4 variables of 4, or"):
                fit(model, epochs=1)


def test_seeds_of_the_model_do_not_make_members_alike():
    shared = keras.initializers.HeNormal(1)
    layers = [keras.layers.Dense(n, kernel_initializer=shared) for n in (4, 3)]
    plain = keras.Sequential([keras.Input((5,)), *layers, keras.layers.Softmax()])
    ready = tfp_bayes.BayesianMLP((5,), 3, hidden_units=(4,), seed=0)
    for model in (plain, ready):
        model.compile("sgd", "sparse_categorical_crossentropy")
        first, second = weights_of(fit(model, epochs=1))
        for v, a, b in zip(model.weights, first, second):
            if v.path.endswith("kernel"):
                assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.9, v.path


def test_mixed_precision_is_resumed(tmp_path):
    inputs = keras.Input((5,))
    x = keras.layers.Dense(4, "relu", dtype="mixed_float16")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax", dtype="float32")(x))
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))
    model.compile(optimizer, "sparse_categorical_crossentropy")
    expected = fit(model, directory=tmp_path, num_members=1)
    assert_equal(fit(model, num_members=1), expected)
    larger = fit(model, directory=tmp_path, num_members=2)
    assert_equal(fit(model, num_members=2), larger)
