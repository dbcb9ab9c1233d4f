"""Tests of the claims in `docs/guides/several_gpus.md`, on two logical CPU devices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_bayes

RNG = np.random.default_rng(0)
X = RNG.normal(size=(42, 6)).astype("float32")  # the last batch is odd on each replica
Y = RNG.integers(0, 3, 42)


def network():
    """A model with both kinds of noise, batch statistics and a skip."""
    inputs = keras.Input((6,))
    x = tfp_bayes.layers.DenseFlipout(6, "relu")(inputs)
    x = keras.layers.BatchNormalization(synchronized=True)(x)  # shared by the replicas
    x = tfp_bayes.layers.MCDropout(0.3)(keras.layers.Add()([x, inputs]))
    outputs = keras.layers.Dense(3, "softmax")(x)
    model = tfp_bayes.BayesianModel(inputs, outputs, num_samples=5)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def test_a_model_of_two_replicas_answers_as_one_does(two_replicas, tmp_path):
    with two_replicas.scope():
        mirrored = network()
    before = [variable.numpy() for variable in mirrored.trainable_variables]
    history = mirrored.fit(X, Y, batch_size=16, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    after = [variable.numpy() for variable in mirrored.trainable_variables]
    assert all((a != b).any() for a, b in zip(before, after))
    for variable in mirrored.variables:  # the replicas are equal
        copies = getattr(variable.value, "values", ())
        assert len(copies) == 2
        np.testing.assert_array_equal(*(copy.numpy() for copy in copies))

    mirrored.save(tmp_path / "m.keras")
    single = keras.models.load_model(tmp_path / "m.keras")
    ours, theirs = (m.evaluate(X, Y, 16, verbose=0) for m in (mirrored, single))
    assert ours == pytest.approx(theirs, rel=1e-5)
    np.testing.assert_array_equal(mirrored.predict(X, 16, verbose=0), single.predict(X, verbose=0))
    p, q = (m.predict_uncertainty(X, num_samples=7, seed=3) for m in (mirrored, single))
    for measure in ("mean", "predictive_entropy", "mutual_information", "epistemic_variance"):
        np.testing.assert_array_equal(getattr(p, measure), getattr(q, measure), err_msg=measure)


def test_replicas_have_noise_of_their_own(two_replicas):
    layer = tfp_bayes.layers.MCDropout(0.5, seed=1)
    x = tf.ones((1, 200))
    with two_replicas.scope():
        layer.build(x.shape)
    outputs = two_replicas.run(tf.function(lambda: layer(x, training=True)))
    first, second = (each.numpy() for each in outputs.values)
    assert 60 < (first != second).sum() < 140  # half of 200 if independent
