"""Tests of concrete dropout: its prior by enumeration of masks, its gradients, its learned rate."""

import itertools

import keras
import layer_by_layer
import numpy as np
import pytest
import tensorflow as tf

import tfp_bayes
from tfp_bayes import Predictor, layers, to_bayesian, to_deterministic
from tfp_bayes.layers import MCConcreteDropout, MCConcreteSpatialDropout2D
from tfp_bayes.models.dropout_prior import gaussian_penalty

RNG = np.random.default_rng(0)
L = keras.layers


def network(units=4, prior_scale=0.7, rate=0.3, readers=1):
    inputs = keras.Input((units,))
    x = MCConcreteDropout(rate, name="dropout")(inputs)
    each = [L.Dense(3, name=f"reader_{i}")(x) for i in range(readers)]
    outputs = L.Softmax()(sum(each[1:], each[0]))
    return tfp_bayes.BayesianModel(inputs, outputs, prior_scale=prior_scale, num_samples=2)


def enumerated_divergence(kernel, rate, scale):
    """Return E_q log q(m) - E_q log p(W m / (1 - p)) over all masks m, up to a constant."""
    total = 0.0
    for mask in itertools.product([0, 1], repeat=len(kernel)):
        mask = np.array(mask)
        probability = np.prod(np.where(mask, 1 - rate, rate))
        drawn = kernel * mask[:, None] / (1 - rate)
        total += probability * (np.log(probability) + np.square(drawn).sum() / (2 * scale**2))
    return total


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.8])
@pytest.mark.parametrize("readers", [1, 2])
def test_the_divergence_is_that_of_all_masks(rate, readers):
    model = network(rate=rate, readers=readers)
    kernel = np.concatenate(
        [each.kernel.numpy() for each in model.layers if hasattr(each, "kernel")], 1
    )
    expected = enumerated_divergence(kernel.astype("float64"), rate, 0.7)
    assert float(model.kl_divergence()) == pytest.approx(expected, rel=1e-5)
    logit = model.get_layer("dropout").logit
    with tf.GradientTape() as tape:
        kl = model.kl_divergence()
    step, value = 1e-4, np.log(rate / (1 - rate))
    rates = [1 / (1 + np.exp(-(value + sign * step))) for sign in (1, -1)]
    up, down = (enumerated_divergence(kernel.astype("float64"), each, 0.7) for each in rates)
    assert float(tape.gradient(kl, logit.value)) == pytest.approx(
        (up - down) / (2 * step), rel=1e-3
    )


def test_each_call_draws_a_mask_of_its_own_and_counts():
    inputs = keras.Input((4,))
    dropout = MCConcreteDropout(0.3)
    first, second = L.Dense(4), L.Dense(3)
    model = tfp_bayes.BayesianModel(
        inputs, second(dropout(first(dropout(inputs)))), prior_scale=0.7
    )
    expected = sum(enumerated_divergence(each.kernel.numpy(), 0.3, 0.7) for each in (first, second))
    assert float(model.kl_divergence()) == pytest.approx(expected, rel=1e-5)


def test_the_model_weights_it_once():
    model = network()
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = RNG.normal(size=(8, 4)).astype("float32"), np.arange(8) % 3
    kl = float(model.kl_divergence())
    history = model.fit(x, y, batch_size=8, verbose=0).history
    assert history["kl"][0] == pytest.approx(kl, rel=1e-5)
    assert history["loss"][0] == pytest.approx(history["nll"][0] + kl / 8, rel=1e-5)
    rate = model.get_layer("dropout").rate
    assert history["dropout_rate"] == [pytest.approx(rate, rel=1e-5)]
    assert rate != 0.3
    assert sorted(model.evaluate(x, y, verbose=0, return_dict=True)) == ["loss"]
    assert len(model.train_on_batch(x, y)) == 4


def test_the_gradient_of_cold_masks_is_that_of_the_expectation():
    """The gradient approaches that of the enumerated mean loss as the temperature goes to 0."""
    rate, target = 0.3, 0.4
    x = np.array([0.5, -1.0, 2.0])

    def expected_loss(logit):
        p = 1 / (1 + np.exp(-logit))
        masks = np.array(list(itertools.product([0, 1], repeat=3)))
        weights = np.where(masks, 1 - p, p).prod(1)
        return weights @ np.square((masks * x / (1 - p)).sum(1) - target)

    layer = MCConcreteDropout(rate, 0.02, seed=0)
    rows = np.repeat(x[None].astype("float32"), 200_000, 0)
    layer.build(rows.shape)
    layer.negative_entropy()
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(layer(rows, training=True), 1)
        loss = tf.reduce_mean(tf.square(y - target))
    found = float(tape.gradient(loss, layer.logit.value))
    logit, step = np.log(rate / (1 - rate)), 1e-4
    exact = (expected_loss(logit + step) - expected_loss(logit - step)) / (2 * step)
    # At this temperature the estimate is 0.03 too small, with a standard deviation of 0.03.
    assert found == pytest.approx(exact, abs=5.5 * 0.03 + 0.03)


@pytest.mark.parametrize("training", [True, False])
def test_masks_have_the_mean_of_the_rate(training):
    layer = MCConcreteDropout(0.3, 0.01, seed=0)
    y = layer(np.ones((1, 50_000), "float32"), training=training).numpy()
    z = (y.mean() - 1) / np.sqrt(0.3 / 0.7 / y.size)
    assert abs(z) < 5.5
    hard = np.isclose(y, 0) | np.isclose(y, 1 / 0.7)
    assert (hard.mean() > 0.9) if training else hard.all()


@pytest.mark.parametrize("training", [True, False])
def test_maps_are_whole_where_channels_come_first(training):
    layer = MCConcreteSpatialDropout2D(0.5, data_format="channels_first", seed=0)
    y = layer(np.ones((2, 16, 3, 4), "float32"), training=training).numpy()
    assert layer.units == 16
    assert (np.ptp(y, axis=(2, 3)) == 0).all()
    assert (np.ptp(y, axis=1) > 1).all()


@pytest.mark.parametrize("logit", [-1e4, -100.0, -20.0, 20.0, 100.0, 1e4])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_extreme_rates_stay_finite_and_lead_back(logit, dtype):
    inputs = keras.Input((4,))
    x = MCConcreteDropout(0.3, name="dropout", dtype=dtype)(inputs)
    outputs = L.Dense(3, activation="softmax", dtype="float32")(x)
    model = tfp_bayes.BayesianModel(inputs, outputs, prior_scale=1.0)
    dropout = model.get_layer("dropout")
    dropout.logit.assign(logit)
    with tf.GradientTape() as tape:
        y = model(np.ones((5, 4), "float32"), training=True)
        kl = gaussian_penalty(model)
    gradient = tape.gradient([kl, y], dropout.logit.value)
    assert np.isfinite(kl)
    assert np.isfinite(y).all()
    assert np.isfinite(model(np.ones((5, 4), "float32"))).all()
    assert np.isfinite(gradient)
    assert 0 < dropout.rate < 1
    if logit > 7:
        assert gradient > 1  # a larger rate costs more, so a step decreases the rate


def fitted_rate(num_train):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (num_train, 1)).astype("float32")
    y = np.sin(2 * x) + 0.1 * rng.normal(size=x.shape)
    inputs = keras.Input((1,))
    dropout = MCConcreteDropout(0.1)
    hidden = dropout(L.Dense(30, activation="relu")(inputs))
    outputs = layers.NormalParameters()(L.Dense(2)(hidden))
    model = tfp_bayes.BayesianModel(inputs, outputs, likelihood="normal", prior_scale=1.0)
    model.compile(keras.optimizers.Adam(0.02), tfp_bayes.losses.NormalNLL())
    data = tf.data.Dataset.from_tensor_slices((x, y)).repeat().batch(50)
    model.fit(data, epochs=1, steps_per_epoch=300, verbose=0, num_train=num_train)
    return dropout.rate


def test_more_data_make_the_rate_smaller():
    assert fitted_rate(2000) < fitted_rate(50) / 2


# The predictor.


def test_skipped_units_follow_a_rate_that_is_trained_on():
    inputs = keras.Input((8, 8, 2))
    x = MCConcreteSpatialDropout2D(0.4)(L.Conv2D(64, 3, activation="relu")(inputs))
    x = MCConcreteSpatialDropout2D(0.4)(L.Conv2D(64, 3, activation="relu")(x))
    x = MCConcreteDropout(0.4)(L.Dense(64, activation="relu")(L.GlobalAveragePooling2D()(x)))
    outputs = L.Dense(3, activation="softmax")(x)
    model = tfp_bayes.BayesianModel(inputs, outputs, prior_scale=1.0)
    predictor = Predictor(model)
    assert len(predictor._split._dropouts) == 3
    assert len(predictor._split._makers()) == 2
    images = RNG.normal(size=(4, 8, 8, 2)).astype("float32")
    for logit in (-0.4, -6.0, 3.0):  # the same graph for all
        for each in layers.stochastic_layers(model):
            each.logit.assign(logit)
        found = predictor.sample(images, 5, seed=0)
        np.testing.assert_allclose(
            found, layer_by_layer.sample(model, images, 5, seed=0), rtol=2e-5, atol=2e-6
        )


# Errors.


def fit_error(model, match):
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=match):
        model.fit(RNG.normal(size=(6, 4)), np.arange(6) % 3, verbose=0)


def test_a_rate_without_a_prior_is_not_trained():
    match = r"Expected a prior term for the learned rate of 'dropout'.*prior_scale=1.0"
    fit_error(network(prior_scale=None), match)
    plain = keras.Sequential(
        [keras.Input((4,)), MCConcreteDropout(name="dropout"), L.Dense(3, "softmax")]
    )
    fit_error(plain, match)
    plain.layers[0].trainable = False
    plain.compile("sgd", "sparse_categorical_crossentropy")
    plain.fit(RNG.normal(size=(6, 4)), np.arange(6) % 3, verbose=0)
    assert plain.layers[0].rate == 0.1


@pytest.mark.parametrize("eagerly", [False, True])
def test_a_prior_of_another_model_does_not_count(eagerly):
    model = network()
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=eagerly)
    x, y = RNG.normal(size=(6, 4)).astype("float32"), np.arange(6) % 3
    model.fit(x, y, verbose=0)
    plain = keras.Model(model.inputs[0], model.outputs[0])
    with pytest.raises(ValueError, match="Expected a prior term for the learned rate"):
        fit_in(plain, x, y, eagerly)
    # A custom loop that computes the prior term after the call is allowed.
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(plain(x, training=True)) + model.kl_divergence() / 6
    logit = model.get_layer("dropout").logit
    assert tape.gradient(loss, logit.value) is not None
    model.fit(x, y, verbose=0)


def fit_in(model, x, y, eagerly):
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=eagerly)
    model.fit(x, y, verbose=0)


def test_a_rate_whose_units_reach_no_kernel_is_refused():
    def model(build):
        inputs = keras.Input((4,))
        x = MCConcreteDropout(name="dropout")(inputs)
        return tfp_bayes.BayesianModel(inputs, L.Softmax()(build(inputs, x)), prior_scale=1.0)

    match = "Expected the units of a dropout layer with a learned rate.*'dropout'"
    fit_error(model(lambda inputs, x: L.Dense(3)(L.BatchNormalization()(x))), match)
    fit_error(model(lambda inputs, x: L.Dense(3)(x + inputs)), match)
    fit_error(model(lambda inputs, x: layers.DenseFlipout(3)(x)), match)
    shared = L.Dense(3)
    fit_error(model(lambda inputs, x: shared(x) + shared(inputs)), match)
    last = L.Dense(3)
    fit_error(model(lambda inputs, x: last(inputs) + last(x)), match)


def test_inputs_that_are_no_units_are_refused():
    with pytest.raises(ValueError, match="ndim=2"):
        MCConcreteDropout()(np.ones((2, 3, 4)))
    with pytest.raises(ValueError, match="Expected a known number of units for 'dropout'"):
        MCConcreteDropout(name="dropout")(keras.Input((None,)))


# Conversion.


def plain_network():
    inputs = keras.Input((8, 8, 3))
    x = L.Dropout(0.1, name="of_pixels")(inputs)
    x = L.SpatialDropout2D(0.2, name="of_maps")(L.Conv2D(4, 3, activation="relu")(x))
    x = L.Dense(8, activation="relu")(L.Flatten()(x))
    outputs = L.Dense(3, activation="softmax")(L.Dropout(0.3, name="of_units")(x))
    return keras.Model(inputs, outputs)


def test_conversion_and_back(capsys, tmp_path):
    model = plain_network()
    bayesian = to_bayesian(model, "concrete_dropout", num_samples=2)
    assert capsys.readouterr().out == (
        "Converted to concrete_dropout: Dropout 1, SpatialDropout2D 1. Other layers with weights: "
        "Conv2D 1, Dense 2. Layers whose dropout is off at inference: Dropout 1.\n"
    )
    assert bayesian.get_layer("of_maps").rate == 0.2
    back = to_deterministic(bayesian)
    assert [(type(a), a.get_config()) for a in back.layers] == [
        (type(a), a.get_config()) for a in model.layers
    ]
    images = RNG.normal(size=(6, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(back.predict(images, verbose=0), model.predict(images, verbose=0))
    bayesian.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    bayesian.fit(images, np.arange(6) % 3, verbose=0)
    trained = to_deterministic(bayesian).get_layer("of_units").rate
    assert trained == bayesian.get_layer("of_units").rate != 0.3
    bayesian.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.get_layer("of_units").rate == trained
    np.testing.assert_array_equal(
        bayesian.predict(images, verbose=0), loaded.predict(images, verbose=0)
    )


def test_conversion_needs_a_prior():
    with pytest.raises(ValueError, match="Expected a `prior` for inference='concrete_dropout'"):
        to_bayesian(plain_network(), "concrete_dropout", prior=None)
