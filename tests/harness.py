"""Checks that every stochastic layer must pass."""

import random
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes import BayesianModel, KLWeight, Predictor, export_saved_model, kl_divergence
from tfp_bayes.layers import VariationalLayer, stochastic_layers, variational_layers


def inputs_for(case, rows=6, seed=0):
    rng = np.random.default_rng(seed)
    if case.num_words:
        return rng.integers(0, case.num_words, (rows, *case.input_shape)).astype("int32")
    return rng.uniform(0.5, 1.5, (rows, *case.input_shape)).astype("float32")


def run(case, layer, x, **arguments):
    """Call a layer with `x` as each of its inputs."""
    return layer(*[x] * case.num_inputs, **arguments)


def network(cases, dtype=None):
    """Return a classifier with the layers of several cases, each with an input and three classes.

    Most of the time of a graph is the same for one layer and for many.
    """
    inputs, outputs = [], []
    for name, case in cases.items():
        inputs.append(keras.Input(case.input_shape, dtype="int32" if case.num_words else None))
        x = keras.layers.Flatten()(run(case, case.make(name=name, dtype=dtype), inputs[-1]))
        outputs.append(keras.layers.Dense(3, activation="softmax", dtype="float32")(x))
    outputs = keras.layers.Concatenate(dtype="float32")(outputs) / len(cases)
    prior_scales = {case.prior_scale for case in cases.values()} - {None}
    if prior_scales:
        return BayesianModel(inputs, outputs, prior_scale=prior_scales.pop())
    return keras.Model(inputs, outputs)


def assert_equal_classes(cases, actual, expected):
    """Compare the probabilities of `network`, and name the layers that differ."""
    for i, name in enumerate(cases):
        of_layer = np.s_[:, 3 * i : 3 * i + 3]
        np.testing.assert_array_equal(actual[of_layer], expected[of_layer], err_msg=name)


def share_noise(model, twin):
    """Copy seed states, which are not weights, so that the twin's next draw is the model's."""
    for a, b in zip(stochastic_layers(model), stochastic_layers(twin), strict=True):
        b.seed_generator.state.assign(a.seed_generator.state)


def check_shapes(case):
    layer, x = case.make(), inputs_for(case)
    for training in (False, True):
        assert run(case, layer, x, training=training).shape == (6, *case.output_shape)
    shape = layer.compute_output_shape(*[(None, *case.input_shape)] * case.num_inputs)
    assert tuple(shape) == (None, *case.output_shape)
    # Convolutions of TensorFlow and recurrent cells of Keras refuse empty batches.
    if not isinstance(layer, VariationalLayer | keras.layers.RNN):
        assert run(case, layer, inputs_for(case, rows=0)).shape == (0, *case.output_shape)


def check_one_function_at_inference(case):
    """Equal rows give equal outputs at inference and different outputs in training.

    Reparameterization layers and BayesianLinear draw once for the batch in training too.
    """
    layer = case.make(seed=0)
    # A multiple of the CPU's vector length, because it rounds remaining rows differently.
    x = np.repeat(inputs_for(case, rows=1), 16, axis=0)
    at_inference = run(case, layer, x, training=False).numpy()
    np.testing.assert_array_equal(at_inference, np.repeat(at_inference[:1], 16, axis=0))
    assert not np.array_equal(at_inference, run(case, layer, x, training=False).numpy())
    in_training = run(case, layer, x, training=True).numpy()
    name = case.layer.__name__
    shared = name == "BayesianLinear" or ("Reparameterization" in name and "Local" not in name)
    assert (len(np.unique(in_training.reshape(16, -1), axis=0)) == 1) == shared


def check_seeds(case):
    """The seed alone determines the sequence of draws, independent of global seeds."""
    x = inputs_for(case)

    def draws(seed, trainings):
        layer = case.make(seed=seed)
        return np.stack([run(case, layer, x, training=t).numpy() for t in trainings])

    keras.utils.set_random_seed(1)
    first = draws(3, (False, False, True))
    keras.utils.set_random_seed(2)
    before = random.getstate()
    np.testing.assert_array_equal(first, draws(3, (False, False, True)))
    assert before == random.getstate()
    assert not np.array_equal(first[:1], draws(4, (False,)))


def check_config(case):
    layer = case.make(seed=5)
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    x = inputs_for(case)
    np.testing.assert_array_equal(run(case, layer, x), run(case, copy, x))


def check_mixed_precision(case):
    x = inputs_for(case)
    for policy in ("mixed_float16", "mixed_bfloat16", "float64"):
        layer = case.make(dtype=policy)
        y = run(case, layer, x, training=True)
        assert y.dtype == layer.compute_dtype
        assert np.isfinite(tf.cast(y, tf.float32)).all()


def check_losses(case):
    """In training a layer adds the KL of its weights times `kl_weight`, a float32 in nats."""
    layer, x = case.make(), inputs_for(case)
    run(case, layer, x, training=True)
    parts = variational_layers(layer)
    if not parts:
        assert layer.losses == []
        return
    for part in parts:
        part.kl_weight.assign(0.25)
    run(case, layer, x, training=True)
    assert len(layer.losses) == len(parts)
    assert {loss.dtype for loss in layer.losses} == {tf.float32}
    # The default prior and posterior have a closed form, so every draw gives the same value.
    np.testing.assert_allclose(sum(layer.losses), 0.25 * kl_divergence(layer), rtol=1e-6)
    half = case.make(dtype="mixed_float16")
    half.build(*[(None, *case.input_shape)] * case.num_inputs)
    half.set_weights(layer.get_weights())
    np.testing.assert_array_equal(kl_divergence(half), kl_divergence(layer))
    run(case, layer, x, training=False)
    assert layer.losses == []


def check_bad_arguments(case):
    for arguments, message in case.bad_arguments:
        with pytest.raises(ValueError, match=message):
            case.layer(**arguments)


CHECKS = {
    "shapes": check_shapes,
    "one function at inference": check_one_function_at_inference,
    "seeds": check_seeds,
    "config": check_config,
    "mixed precision": check_mixed_precision,
    "losses": check_losses,
    "bad arguments": check_bad_arguments,
}


def check_saved_by_value(cases, tmp_path):
    model = network(cases)
    x = [inputs_for(case) for case in cases.values()]
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    other = network(cases)
    other.load_weights(tmp_path / "model.weights.h5")
    for twin in (loaded, other):
        share_noise(model, twin)
        assert_equal_classes(cases, twin(x), model(x))


def different_at_inference(cases):
    """Return one case for layers that differ only in their estimator, which training alone uses."""
    estimator = "(Reparameterization|LocalReparameterization|Flipout)$"
    names = {re.sub(estimator, "", name): name for name in cases}.values()
    return {name: cases[name] for name in names}


def check_served(cases, tmp_path):
    cases = different_at_inference(cases)
    model = network(cases)
    x = [inputs_for(case) for case in cases.values()]
    predictor = Predictor(model)
    expected = predictor.predict_uncertainty(x, 5, seed=1)
    export_saved_model(predictor, tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    result = served.predict_uncertainty(x, 5, [1, 0])
    assert_equal_classes(cases, result["mean"], expected.mean)
    np.testing.assert_array_equal(expected.mutual_information, result["mutual_information"])


def check_prediction_in_mixed_precision(cases, tmp_path):
    cases = different_at_inference(cases)
    x = [inputs_for(case) for case in cases.values()]
    prediction = Predictor(network(cases, "mixed_float16")).predict_uncertainty(x, 4, seed=0)
    assert prediction.mean.dtype == "float32"
    assert np.isfinite(prediction.mean).all()
    assert np.isfinite(prediction.mutual_information).all()


def check_fit_step(cases, tmp_path):
    model = network(cases)
    rows = np.arange(2 * len(cases))
    x = [inputs_for(case, len(rows)) for case in cases.values()]
    labels = 3 * (rows % len(cases)) + rows % 3  # two rows for the classes of each layer
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = {name: model.get_layer(name).get_weights() for name in cases}
    history = model.fit(x, labels, callbacks=[KLWeight(len(rows))], verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    for name in cases:
        layer = model.get_layer(name)
        after = layer.get_weights()
        assert all(np.isfinite(each).all() for each in after), name
        change = max((np.abs(b - a).max() for a, b in zip(before[name], after)), default=0)
        assert (change > 1e-5) == bool(layer.trainable_variables), name


# Checks of several layers in one model.
CHECKS_OF_MODELS = {
    "saved by value": check_saved_by_value,
    "served": check_served,
    "prediction in mixed precision": check_prediction_in_mixed_precision,
    "fit step": check_fit_step,
}
