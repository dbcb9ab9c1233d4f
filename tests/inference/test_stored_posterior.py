"""Tests of stored draws: saved, loaded in a fresh process, and exported."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import vectors
from processes import run_python

import tfp_bayes
from tfp_bayes import Ensemble, Predictor, StoredPosterior

X = vectors()
RNG = np.random.default_rng(0)


def network(seed=0, dtype=None):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((5,))
    x = keras.layers.BatchNormalization(dtype=dtype)(
        keras.layers.Dense(6, "relu", dtype=dtype)(inputs)
    )
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax", dtype=dtype)(x + x))
    model.set_weights([0.5 + RNG.random(w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


IN_A_FRESH_PROCESS = """
import sys
import keras, numpy as np, tensorflow as tf
from tfp_bayes import Predictor, StoredPosterior
folder = sys.argv[1]
x = np.load(folder + "/x.npy")
keras.layers.Dense(3)  # so that automatic names differ
model = keras.models.load_model(folder + "/model.keras", safe_mode=True)
posterior = StoredPosterior.load(folder + "/posterior.npz", model)
np.save(folder + "/samples.npy", Predictor(model, posterior=posterior).sample(x))
regression = keras.models.load_model(folder + "/regression.keras", safe_mode=True)
posterior = StoredPosterior.load(folder + "/linearized.npz", regression)
p = Predictor(regression, "normal", posterior).predict_uncertainty(x)
server = tf.saved_model.load(folder + "/served")
served = server.predict_uncertainty(x, 4, [0, 0])
np.savez(folder + "/linearized.npz", loaded=[p.mean, p.epistemic_variance, p.aleatoric_variance],
    served=[served[name] for name in ("mean", "epistemic_variance", "aleatoric_variance")])
"""


def run(code, folder):
    done = run_python(code, folder)
    assert done.returncode == 0, done.stderr


def save_linearized_regression(folder):
    """Save a model without scales and its linearized posterior; return the predictive moments."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2, "tanh")])
    draws = [RNG.normal(size=(4, *w.shape)) for w in model.get_weights()]
    center = [0.1 * RNG.normal(size=w.shape) for w in model.get_weights()]
    posterior = StoredPosterior(model, draws, center=center, noise_scales=[[0.5, 2.0]])
    model.save(folder / "regression.keras")
    posterior.save(folder / "linearized.npz")
    tfp_bayes.export_saved_model(Predictor(model, "normal", posterior), folder / "served")
    at_center = np.tanh(X @ center[0] + center[1])
    changes = [X @ (w - center[0]) + b - center[1] for w, b in zip(*draws)]
    samples = at_center + (1 - at_center**2) * changes
    return samples.mean(0), samples.var(0), np.square([[0.5, 2.0]] * len(X))


def test_saved_and_loaded_in_a_fresh_process(tmp_path):
    members = [network(seed) for seed in range(3)]
    predictor = Predictor(members[0], posterior=Ensemble(members))
    expected = predictor.predict_uncertainty(X, return_samples=True)
    members[0].save(tmp_path / "model.keras")
    predictor.posterior.save(tmp_path / "posterior.npz")
    np.save(tmp_path / "x.npy", X)
    found = save_linearized_regression(tmp_path)
    run(IN_A_FRESH_PROCESS, str(tmp_path))
    np.testing.assert_array_equal(np.load(tmp_path / "samples.npy"), expected.samples)
    with np.load(tmp_path / "linearized.npz") as others:
        np.testing.assert_allclose(others["loaded"], found, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(others["served"], found, rtol=1e-6, atol=1e-7)


def test_weights_are_not_inlined_into_the_served_graph(tmp_path):
    inputs = keras.Input((500,))
    model = keras.Model(inputs, keras.layers.Dense(200, "softmax")(inputs))
    members = [[RNG.random(w.shape) for w in model.get_weights()] for _ in range(4)]
    predictor = Predictor(model, posterior=Ensemble(members, model=model))
    tfp_bayes.export_saved_model(predictor, tmp_path / "served")
    assert (tmp_path / "served" / "saved_model.pb").stat().st_size < 200_000
    served = tf.saved_model.load(tmp_path / "served")
    for num_samples in (1, 8):
        with pytest.raises(tf.errors.InvalidArgumentError, match="posterior of 4 draws"):
            served.predict_uncertainty(vectors(2, 500), num_samples, [0, 0])


def test_some_variables_only():
    model = network()
    kernel = model.layers[-1].kernel
    draws = RNG.normal(size=(5, *kernel.shape))
    posterior = StoredPosterior(model, [draws], [kernel])
    predictor = Predictor(model, posterior=posterior)
    samples = predictor.sample(X)
    np.testing.assert_allclose(posterior.center()[0], draws.mean(0), atol=1e-6)
    for sample, value in zip(samples, draws):
        kernel.assign(value)
        np.testing.assert_allclose(sample, model(X), atol=1e-6)
    # The layers before the last one run only once for all samples.
    names = [operation.name for operation in predictor._split._suffix.operations]
    assert [n for n in names if "dense" in n] == [model.layers[-1].name]


def test_half_precision_weights_keep_their_values(tmp_path):
    for dtype in ("bfloat16", "float16"):
        members = [network(seed, dtype) for seed in range(2)]
        posterior = Ensemble(members)
        posterior.save(tmp_path / "posterior.npz")
        loaded = StoredPosterior.load(tmp_path / "posterior.npz", members[1])
        for s in range(2):
            for a, b in zip(posterior.draw(s, None), loaded.draw(s, None)):
                assert a.dtype == b.dtype == dtype
                np.testing.assert_array_equal(a, b)


def test_refuses_what_does_not_fit(tmp_path):
    model = network()
    path = tmp_path / "posterior.npz"
    Ensemble([model, network(1)]).save(path)
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, "softmax")])
    with pytest.raises(ValueError, match="or one of the same architecture"):
        StoredPosterior.load(path, other)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="Expected the file of a posterior"):
        StoredPosterior.load(path, model)
    with pytest.raises(ValueError, match="Expected the file of a posterior"):
        StoredPosterior.load(tmp_path / "none.npz", model)
    weights = [np.stack([w, w]) for w in model.get_weights()]
    for draws in (weights[:-1], [weights[0][:1], *weights[1:]], [w[:0] for w in weights], []):
        with pytest.raises(ValueError, match=r"Expected arrays \(S, ...\)"):
            StoredPosterior(model, draws)
    with pytest.raises(ValueError, match=r"those of `variables`, for `center`"):
        StoredPosterior(model, weights, center=weights)
    with pytest.raises(ValueError, match=r"positive, finite standard deviations"):
        StoredPosterior(model, weights, noise_scales=[[1.0, 0.0]])


def test_weights_outside_the_posterior_must_be_the_same(tmp_path):
    model = network()
    head = model.layers[-1].weights
    draws = [RNG.random((4, *w.shape)) for w in head]
    posterior = StoredPosterior(model, draws, head)
    posterior.save(tmp_path / "head.npz")
    predictor = Predictor(model, posterior=posterior)
    head[0].assign(np.zeros(head[0].shape))  # draws replace it
    before = predictor.predict(X)
    assert tfp_bayes.inference.load_posterior(tmp_path / "head.npz", model).num_draws == 4
    model.layers[1].kernel.assign_add(0.001 * np.ones((5, 6), "float32"))
    with pytest.raises(ValueError, match="weights that the posterior does not include differ"):
        tfp_bayes.inference.load_posterior(tmp_path / "head.npz", model)
    for use in (
        lambda: predictor.predict(X),
        lambda: Predictor(model, posterior=posterior),
        lambda: posterior.save(tmp_path / "later.npz"),
        lambda: tfp_bayes.export_saved_model(predictor, tmp_path / "served"),
    ):
        with pytest.raises(ValueError, match="does not include have changed since"):
            use()
    refitted = StoredPosterior(model, draws, head)
    assert posterior.assign(refitted)  # as a learner does in each round
    assert np.abs(predictor.predict(X) - before).max() > 0


def test_the_weight_of_a_prior_may_change():
    inputs = keras.Input((5,))
    model = tfp_bayes.BayesianModel(inputs, keras.layers.Dense(3, "softmax")(inputs), num_samples=1)
    draws = [RNG.random((2, *v.shape)) for v in model.trainable_variables]
    posterior = StoredPosterior(model, draws, model.trainable_variables)
    model.kl_weight.assign(0.1)
    assert Predictor(model, posterior=posterior).predict(X).shape == (len(X), 3)


def test_members_adapted_to_other_data_are_refused():
    """Normalization computes with constants, which draws cannot replace."""

    def adapted(scale):
        normalization = keras.layers.Normalization()
        normalization.adapt(scale * X)
        return keras.Sequential(
            [keras.Input((5,)), normalization, keras.layers.Dense(2, "softmax")]
        )

    model = adapted(1)
    weights = model.get_weights(), adapted(2).get_weights()
    assert Ensemble(weights[:1], model).num_draws == 1
    with pytest.raises(ValueError, match=r"Expected draws with the mean.*layer 'normalization"):
        Ensemble(weights, model)


def test_the_default_precision_of_the_process_does_not_matter(tmp_path):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2, "softmax")])
    model.save(tmp_path / "model.keras")
    Ensemble([model, model]).save(tmp_path / "posterior.npz")
    keras.config.set_dtype_policy("mixed_float16")
    try:
        loaded = keras.models.load_model(tmp_path / "model.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    posterior = tfp_bayes.load_posterior(tmp_path / "posterior.npz", loaded)
    found = Predictor(loaded, posterior=posterior).predict(X)
    np.testing.assert_array_equal(found, Predictor(model).predict(X, num_samples=1))
    half = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(2, "softmax", dtype="mixed_float16")]
    )
    with pytest.raises(ValueError, match=r"differs in .*\.dtype"):
        tfp_bayes.load_posterior(tmp_path / "posterior.npz", half)
