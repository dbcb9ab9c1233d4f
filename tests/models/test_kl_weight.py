"""Tests of the weight of the KL divergence in training."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import vectors

import tfp_bayes
from tfp_bayes import KLWeight, kl_divergence
from tfp_bayes.layers import DenseFlipout, DenseReparameterization, MCDropout

X, Y = vectors(30), np.arange(30) % 3


def graph(**kwargs):
    inputs = keras.Input((5,))
    hidden = DenseFlipout(4, activation="relu", seed=0, **kwargs)(inputs)
    return inputs, DenseFlipout(3, activation="softmax", seed=1, **kwargs)(hidden)


def plain(**kwargs):
    model = keras.Model(*graph(**kwargs))
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    return model


def bayesian(**kwargs):
    model = tfp_bayes.BayesianModel(*graph(), num_samples=5, **kwargs)
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    return model


shared = functools.cache(bayesian)  # for schedules, which depend only on the data and callbacks


def weights_seen(model, epochs, callbacks, steps=3):
    """Return the KL weight at each step of a fit."""
    seen = []
    (layer, *_) = tfp_bayes.layers.variational_layers(model)
    spy = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, **__: seen.append(float(layer.kl_weight))
    )
    model.fit(X, Y, batch_size=30 // steps, epochs=epochs, verbose=0, callbacks=[*callbacks, spy])
    return np.array(seen)


def test_a_weight_that_was_never_set_cannot_train():
    for settings in ({}, {"jit_compile": True}, {"run_eagerly": True}):
        model = plain()
        model.compile("sgd", "sparse_categorical_crossentropy", **settings)
        with pytest.raises(ValueError, match="kl_weight, which was never set"):
            model.fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match=r"KLWeight\(num_train=len\(x_train\)\)"):
        plain().fit(X, Y, verbose=0, callbacks=[KLWeight()])
    with pytest.raises(ValueError, match="set_kl_weight"):
        bayesian().train_on_batch(X, Y)
    model = bayesian()
    with pytest.raises(ValueError, match="set_kl_weight"):
        model.compute_loss(X, Y, model(X, training=True))
    endless = tf.data.Dataset.from_tensor_slices((X, Y)).repeat().batch(10)
    with pytest.raises(ValueError, match=r"fit\(x, num_train="):
        bayesian().fit(endless, steps_per_epoch=2, verbose=0)


def test_a_model_without_weights_has_no_prior_to_weight():
    model = keras.Sequential([DenseFlipout(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="Expected a built model"):
        model.fit(X, Y, verbose=0, callbacks=[KLWeight(len(X))])


def test_a_weight_that_was_never_set_can_be_explored():
    model = plain()
    assert np.isfinite(model(X, training=True)).all()
    assert np.isfinite(model.predict(X, verbose=0)).all()
    assert np.isfinite(model.evaluate(X, Y, verbose=0))
    with tf.GradientTape() as tape:  # a custom loop that weights the KL divergence itself
        nll = keras.losses.sparse_categorical_crossentropy(Y, model(X, training=True))
        loss = tf.reduce_mean(nll) + kl_divergence(model) / 30
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(np.isfinite(g).all() for g in gradients)


def test_plain_and_bayesian_models_train_alike():
    """Plain and Bayesian models compute NLL + KL / num_train; evaluation has no KL."""
    models = plain(), bayesian()
    for a, b in zip(models[0].trainable_variables, models[1].trainable_variables):
        b.assign(a)
    kl = float(kl_divergence(models[0]))  # it draws, so it comes before the seeds are set equal
    for a, b in zip(*(tfp_bayes.layers.variational_layers(m) for m in models)):
        b.seed_generator.state.assign(a.seed_generator.state)
    once = {"batch_size": 30, "shuffle": False, "verbose": 0}
    first = models[0].fit(X, Y, callbacks=[KLWeight(30)], **once).history
    second = models[1].fit(X, Y, **once).history
    assert second["kl"][0] == pytest.approx(kl, rel=1e-5)
    assert second["loss"][0] == pytest.approx(second["nll"][0] + kl / 30, rel=1e-5)
    assert first["loss"][0] == pytest.approx(second["loss"][0], rel=1e-5)
    for a, b in zip(models[0].trainable_variables, models[1].trainable_variables):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert models[1].evaluate(X, Y, verbose=0) < 2  # without the KL, which is about 150 / 30


def test_the_same_number_for_any_batch_size():
    model = bayesian()
    model.optimizer.learning_rate = 0.0
    a, b = (model.fit(X, Y, batch_size=size, verbose=0).history["kl"][0] for size in (30, 5))
    assert a == pytest.approx(b, rel=1e-6)


def test_layers_with_a_prior_beside_kernels_without():
    """`prior_scale` applies only to kernels without a prior of their own."""
    inputs = keras.Input((5,))
    hidden = MCDropout(0.5)(keras.layers.Dense(4, activation="relu")(inputs))
    outputs = DenseFlipout(3, activation="softmax")(hidden)
    model = tfp_bayes.BayesianModel(inputs, outputs, prior_scale=0.5)
    kernel = model.layers[1].kernel.numpy()
    expected = float(model.layers[-1].kl_divergence()) + (kernel**2).sum() / (2 * 0.25)
    assert float(model.kl_divergence()) == pytest.approx(expected, rel=1e-6)
    assert float(kl_divergence(model)) == pytest.approx(expected, rel=1e-6)
    model.compile("sgd", "sparse_categorical_crossentropy")
    history = model.fit(X, Y, batch_size=30, verbose=0).history
    assert history["kl"][0] == pytest.approx(expected, rel=1e-5)
    assert history["loss"][0] == pytest.approx(history["nll"][0] + expected / 30, rel=1e-5)


def test_a_shared_layer_counts_once():
    inputs = keras.Input((5,))
    shared = DenseFlipout(5, activation="relu")
    outputs = keras.layers.Dense(3, activation="softmax")(shared(shared(inputs)))
    model = tfp_bayes.BayesianModel(inputs, outputs)
    model.compile("sgd", "sparse_categorical_crossentropy")
    kl = float(shared.kl_divergence())
    assert model.fit(X, Y, batch_size=30, verbose=0).history["kl"][0] == pytest.approx(kl)


@pytest.mark.parametrize("make", [plain, bayesian])
def test_counted_once_under_a_strategy(make, two_replicas):
    """Two logical CPU devices count the KL once, although their noise differs."""
    with two_replicas.scope():
        mirrored = make()
    single = make()
    single.set_weights(mirrored.get_weights())
    for model in (mirrored, single):
        for layer in tfp_bayes.layers.variational_layers(model):  # negligible noise
            for weight in layer.trainable_variables:
                if "untransformed" in weight.name:
                    weight.assign(np.full(weight.shape, -1.2))
        model.optimizer.learning_rate = 1e-3
        losses = model.fit(
            X, Y, batch_size=30, shuffle=False, verbose=0, callbacks=[KLWeight(30)]
        ).history["loss"]
        model.measured = losses[0]
    assert mirrored.measured == pytest.approx(single.measured, rel=1e-4)
    for a, b in zip(mirrored.trainable_variables, single.trainable_variables):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_replicas_draw_different_noise(two_replicas):
    with two_replicas.scope():
        layer = DenseReparameterization(3, seed=0)
        layer.build((None, 4))

    def draws(training):
        call = tf.function(lambda: layer(tf.ones([1, 4]), training=training))
        return two_replicas.experimental_local_results(two_replicas.run(call))

    a, b = draws(training=True)
    assert not np.array_equal(a, b)
    a, b = draws(training=False)  # the same function
    np.testing.assert_array_equal(a, b)


# Schedules.


def test_constant_and_cold():
    model = plain()
    np.testing.assert_allclose(weights_seen(model, 2, [KLWeight(60)]), 1 / 60)
    counted = np.full(50, True).sum()  # a NumPy integer
    np.testing.assert_allclose(weights_seen(model, 1, [KLWeight(counted)]), 1 / 50)
    np.testing.assert_allclose(weights_seen(shared(), 2, []), 1 / 30)
    cold = weights_seen(shared(), 1, [KLWeight(temperature=0.1)])
    np.testing.assert_allclose(cold, 0.1 / 30)


def test_linear_warm_up():
    seen = weights_seen(shared(), 3, [KLWeight(warmup_epochs=2)])
    rise = np.array([1, 2, 3, 4, 5, 6, 6, 6, 6]) / 6
    np.testing.assert_allclose(seen, rise / 30, rtol=1e-6)


def test_cycles():
    seen = weights_seen(shared(), 4, [KLWeight(warmup_epochs=1, cycle_epochs=2)])
    rise = np.array([1, 2, 3, 3, 3, 3] * 2) / 3
    np.testing.assert_allclose(seen, rise / 30, rtol=1e-6)


@pytest.mark.parametrize("known", [True, False])
def test_generators_and_lists_of_callbacks(known):
    """If data have no known length, the callback gives it, also in Keras' `CallbackList`."""

    def batches():
        while True:
            yield X, Y

    model = bayesian()
    model.fit(batches(), steps_per_epoch=1, verbose=0, callbacks=[[KLWeight(num_train=32)]])
    assert (model.num_train, float(model.kl_weight)) == (32, 1 / 32)
    own = [KLWeight(temperature=0.5)] if known else []
    callbacks = keras.callbacks.CallbackList(own, add_history=True)
    for num_train in (30, 10):  # twice with the same list
        model.fit(X[:num_train], Y[:num_train], verbose=0, callbacks=callbacks)
        weight = (0.5 if known else 1) / num_train
        assert float(model.kl_weight) == pytest.approx(weight)


def test_restarts_with_the_data():
    """As in active learning: the same callback and model, more labels, and no retrace."""
    model, callback = bayesian(), KLWeight(warmup_epochs=1)
    first = weights_seen(model, 2, [callback])
    function = model.train_function
    model.fit(X[:10], Y[:10], epochs=1, batch_size=5, verbose=0, callbacks=[callback])
    layer = model.layers[1]
    assert float(layer.kl_weight) == pytest.approx(1 / 10)
    np.testing.assert_allclose(weights_seen(model, 2, [callback]), first)
    assert model.train_function is function


def test_unknown_length_of_an_epoch_warms_up_by_epochs():
    data = tf.data.Dataset.from_generator(
        lambda: ((X[i : i + 10], Y[i : i + 10]) for i in (0, 10, 20)),
        output_signature=(tf.TensorSpec([None, 5]), tf.TensorSpec([None], tf.int64)),
    )
    model, seen = plain(), []
    spy = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_, **__: seen.append(float(model.layers[1].kl_weight))
    )
    model.fit(data, epochs=2, verbose=0, callbacks=[KLWeight(30, warmup_epochs=2), spy])
    np.testing.assert_allclose(seen[1], 1 / 30, rtol=1e-6)
    assert 0 < seen[0] <= 1 / 30


def test_bad_arguments():
    for arguments, message in (
        ({"num_train": 0}, "num_train=0"),
        ({"num_train": 0.5}, "num_train=0.5"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1"),
        ({"warmup_epochs": float("nan")}, "warmup_epochs=nan"),
        ({"warmup_epochs": 4, "cycle_epochs": 2}, "cycle_epochs=2"),
        ({"cycle_epochs": 2}, "warmup_epochs=0.0, cycle_epochs=2"),
    ):
        with pytest.raises(ValueError, match=message):
            KLWeight(**arguments)
    with pytest.raises(ValueError, match="weight=0"):
        tfp_bayes.set_kl_weight(plain(), 0)
    with pytest.raises(ValueError, match=r"num_train=30 in `fit`, and KLWeight\(num_train=20\)"):
        bayesian().fit(X, Y, num_train=30, callbacks=[KLWeight(num_train=20)])
    inputs = keras.Input((5,))
    outputs = keras.layers.Dense(3)(inputs)
    features = tfp_bayes.BayesianModel(inputs, outputs, prior_scale=1.0, num_samples=1)
    head = tfp_bayes.BayesianBasisRegression(features, 2)
    head.compile()
    with pytest.raises(ValueError, match=r"num_train=0\.5"):
        head.fit(X, Y, num_train=0.5)


def test_saved_with_its_weight(tmp_path):
    model = bayesian()
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    for a, b in zip(model.weights, loaded.weights):
        np.testing.assert_array_equal(a, b)
    loaded.train_on_batch(X, Y)
