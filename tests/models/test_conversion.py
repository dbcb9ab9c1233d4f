"""Tests of `to_bayesian`, and of `to_deterministic` as its inverse."""

import keras
import numpy as np
import pytest
from networks import vectors

import tfp_bayes
from tfp_bayes import layers, posteriors, priors, to_bayesian, to_deterministic

L = keras.layers
RNG = np.random.default_rng(0)


def image_model():
    """All convertible layers, batch normalization, a skip, a shared layer and a nested model."""
    inputs = keras.Input((8, 8, 3), name="images")
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="conv")(inputs)
    x = L.BatchNormalization(name="norm")(x)
    shared = L.Conv2D(4, 3, padding="same", name="shared")
    x = L.Add()([shared(x), shared(shared(x))])
    x = L.SeparableConv2D(
        6, 3, depth_multiplier=2, strides=2, padding="same", activation="relu", name="separable"
    )(x)
    x = L.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = L.SpatialDropout2D(0.2)(x)
    x = L.Conv2DTranspose(2, 2, strides=2, name="transpose")(x)
    nested = keras.Sequential(
        [keras.Input((8, 8, 2)), L.Flatten(), L.Dense(8, "relu", name="inner"), L.Dropout(0.5)],
        name="nested",
    )
    outputs = L.Dense(3, activation="softmax", name="probabilities")(nested(x))
    model = keras.Model(inputs, outputs, name="original")
    model.set_weights([RNG.uniform(0.02, 0.12, w.shape) for w in model.get_weights()])
    return model


IMAGES = RNG.normal(size=(4, 8, 8, 3)).astype("float32")
KINDS = ["conv", "shared", "separable", "depthwise", "transpose", "inner", "probabilities"]


def by_name(model):
    return {layer.name: layer for layer in model._flatten_layers()}


@pytest.mark.parametrize(
    "inference", ["flipout", "local_reparameterization", "reparameterization", "mc_dropout"]
)
def test_round_trip_reproduces_the_model(inference, tmp_path):
    model = image_model()
    before = model.get_weights()
    bayesian = to_bayesian(model, inference, num_samples=3, verbose=False)
    back = to_deterministic(bayesian)
    assert not layers.stochastic_layers(back)
    np.testing.assert_allclose(back(IMAGES), model(IMAGES), rtol=1e-6, atol=1e-7)
    assert bayesian.predict_uncertainty(IMAGES, 5, seed=0).mutual_information.min() > 0
    for a, b in zip(before, model.get_weights()):  # the original is unchanged
        np.testing.assert_array_equal(a, b)

    bayesian.compile("sgd", "sparse_categorical_crossentropy")
    bayesian.fit(IMAGES, np.arange(4) % 3, verbose=0)
    bayesian.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    a, b = (each.predict_uncertainty(IMAGES, 5, seed=0) for each in (bayesian, loaded))
    np.testing.assert_array_equal(a.mean, b.mean)
    np.testing.assert_array_equal(a.mutual_information, b.mutual_information)
    assert by_name(back)["norm"].get_config() == by_name(model)["norm"].get_config()


def test_converts_each_kind_and_keeps_the_graph():
    bayesian = to_bayesian(image_model(), "flipout", verbose=False)
    named = by_name(bayesian)
    kinds = {name: type(named[name]).__name__ for name in ("conv", "shared", "transpose", "inner")}
    assert kinds == {
        "conv": "Conv2DFlipout",
        "shared": "Conv2DFlipout",
        "transpose": "Conv2DTransposeFlipout",
        "inner": "DenseFlipout",
    }
    separable = named["separable"]
    assert [type(each).__name__ for each in (separable.depthwise, separable.pointwise)] == [
        "DepthwiseConv2DFlipout",
        "Conv2DFlipout",
    ]
    assert type(named["norm"]) is L.BatchNormalization
    assert len(named["shared"]._inbound_nodes) == 3  # still one layer, called three times
    assert len(layers.variational_layers(bayesian)) == len(KINDS) + 1


def test_reports_what_it_did(capsys):
    to_bayesian(image_model(), "local_reparameterization")
    assert capsys.readouterr().out == (
        "Converted to local_reparameterization: Conv2D 2, Dense 2. "
        "Other layers with weights: BatchNormalization 1, Conv2DTranspose 1, DepthwiseConv2D 1, "
        "SeparableConv2D 1.\n"
    )
    to_bayesian(image_model(), verbose=False)
    assert capsys.readouterr().out == ""


def test_means_and_scales():
    model = image_model()
    kernel, bias = by_name(model)["conv"].get_weights()
    plain = by_name(to_bayesian(model, verbose=False))["conv"]
    np.testing.assert_array_equal(plain.kernel_loc, kernel)
    np.testing.assert_array_equal(plain.bias_loc, bias)
    scale = posteriors.MeanFieldNormal().initial_scale
    np.testing.assert_allclose(plain.random_kernel.distribution().stddev(), scale, rtol=1e-4)
    kernel[0, 0, 0, 0] = 0.0
    by_name(model)["conv"].set_weights([kernel, bias])
    moped = by_name(to_bayesian(model, moped_delta=0.2, verbose=False))
    scales = moped["conv"].random_kernel.distribution().stddev().numpy()
    np.testing.assert_allclose(scales, np.maximum(0.2 * np.abs(kernel), 1e-6), rtol=1e-4)
    assert np.isfinite(moped["conv"].kl_divergence())
    depthwise, pointwise = moped["separable"].depthwise, moped["separable"].pointwise
    np.testing.assert_allclose(
        depthwise.random_kernel.distribution().stddev(),
        0.2 * np.abs(depthwise.kernel_loc),
        rtol=1e-4,
    )
    assert not depthwise.use_bias
    assert pointwise.use_bias


def test_a_choice_of_layers():
    chosen = to_bayesian(image_model(), layers=["conv", "inner"], verbose=False)
    assert [each.name for each in layers.variational_layers(chosen)] == ["conv", "inner"]
    last = to_bayesian(image_model(), last_layer_only=True, verbose=False)
    assert [each.name for each in layers.variational_layers(last)] == ["probabilities"]


def test_names_in_nested_models():
    def part(name):
        return keras.Sequential([keras.Input((4,)), L.Dense(4, name="dense")], name=name)

    left, right = part("left"), part("right")
    inputs = keras.Input((4,))
    x = left(inputs) + right(right(inputs))
    model = keras.Model(inputs, L.Dense(2, activation="softmax", name="out")(x))

    def converted(*names, **arguments):
        bayesian = to_bayesian(model, layers=names, verbose=False, **arguments)
        assert isinstance(bayesian.get_layer("left"), keras.Sequential)
        return [
            path
            for path in ("left/dense", "right/dense", "out")
            if isinstance(layer_at(bayesian, path), layers.VariationalLayer)
        ]

    assert converted("out", "right/dense") == ["right/dense", "out"]
    assert converted("out", "right/dense", last_layer_only=True) == ["out"]
    assert converted("left/dense", "right/dense") == ["left/dense", "right/dense"]
    message = r"Received: 'dense', the name of 2 layers\..*'right/dense', 'left/dense'"
    with pytest.raises(ValueError, match=message):
        converted("dense")
    with pytest.raises(
        ValueError, match=r"'left/out', no such.*can convert .*'left/dense', 'out'."
    ):
        converted("left/out")


def layer_at(model, path):
    for name in path.split("/"):
        model = model.get_layer(name)
    return model


def test_reports_dropout_that_stays_off(capsys):
    inputs = keras.Input((5, 4))
    x = L.TimeDistributed(L.Dropout(0.2))(L.Dropout(0.1)(inputs))
    x = L.RNN(L.LSTMCell(3, recurrent_dropout=0.2))(x)
    to_bayesian(keras.Model(inputs, L.Dense(2, activation="softmax")(x)), "mc_dropout")
    assert capsys.readouterr().out == (
        "Converted to mc_dropout: Dropout 1. Other layers with weights: Dense 1, RNN 1. "
        "Layers whose dropout is off at inference: RNN 1, TimeDistributed 1.\n"
    )


def test_spatial_dropout_1d_goes_back():
    for data_format in ("channels_last", "channels_first"):
        inputs = keras.Input((6, 4))
        x = layers.MCSpatialDropout1D(0.5, data_format, seed=3, name="drop")(inputs)
        back = to_deterministic(keras.Model(inputs, x)).get_layer("drop")
        y = np.asarray(back(np.ones((3, 6, 4)), training=True))
        axis = 1 if data_format == "channels_last" else 2
        assert np.all(np.ptp(y, axis=axis) == 0)
        assert set(np.unique(y)) == {0, 2}
    assert (back.rate, back.seed) == (0.5, 3)


def test_a_separable_convolution_is_one_layer_again(tmp_path):
    inputs = keras.Input((8, 8, 3))
    separable = L.SeparableConv2D(
        *(4, 3),
        **{"strides": 2, "padding": "same", "depth_multiplier": 2, "activation": "relu"},
        **{"depthwise_initializer": "he_normal", "bias_initializer": "ones", "name": "separable"},
    )
    x = L.GlobalAveragePooling2D()(separable(inputs))
    bayesian = to_bayesian(keras.Model(inputs, x), verbose=False)
    bayesian.save(tmp_path / "model.keras")
    for model in (bayesian, keras.models.load_model(tmp_path / "model.keras")):
        back = to_deterministic(model).get_layer("separable")
        assert type(back) is L.SeparableConv2D
        assert back.get_config() == separable.get_config()
        for a, b in zip(separable.get_weights(), back.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_priors():
    laplace = to_bayesian(image_model(), prior="laplace", verbose=False)
    for each in layers.variational_layers(laplace):
        assert isinstance(each.kernel_prior, priors.Laplace), each.name
    dropout = to_bayesian(image_model(), "mc_dropout", prior=priors.Normal(0, 0.3), verbose=False)
    assert dropout.prior_scale == 0.3
    flat = to_bayesian(image_model(), "mc_dropout", prior=None, verbose=False)
    assert float(flat.kl_divergence()) == 0


def test_learned_rates_start_from_those_of_the_layers():
    parts = [L.SpatialDropout2D(0.3), L.Flatten(), L.Dropout(0.45), L.Dense(2, "softmax")]
    model = keras.Sequential([keras.Input((3, 3, 4)), *parts])
    bayesian = to_bayesian(model, "concrete_dropout", verbose=False)
    rates = [each.rate for each in layers.stochastic_layers(bayesian)]
    assert rates == pytest.approx([0.3, 0.45])
    back = to_deterministic(bayesian).layers
    assert [each.rate for each in back if hasattr(each, "rate")] == pytest.approx([0.3, 0.45])


def test_sequential_and_one_dimension():
    model = keras.Sequential(
        [
            keras.Input((12, 2)),
            L.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu"),
            L.GlobalAveragePooling1D(),
            L.Dense(1, activation="sigmoid"),
        ]
    )
    x = RNG.normal(size=(5, 12, 2)).astype("float32")
    bayesian = to_bayesian(model, likelihood="bernoulli", verbose=False)
    assert bayesian.predict_uncertainty(x, 5, seed=0).mean.shape == (5, 1)
    np.testing.assert_allclose(
        to_deterministic(bayesian).predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )


def test_keras_applications(capsys):
    model = keras.applications.MobileNetV3Small((32, 32, 3), weights=None, classes=10)
    x = RNG.uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    random = to_bayesian(model, moped_delta=0.1)
    assert capsys.readouterr().out == (
        "Converted to flipout: Conv2D 43, DepthwiseConv2D 11. "
        "Other layers with weights: BatchNormalization 34.\n"
    )
    dropout = to_bayesian(model, "mc_dropout", verbose=False)
    for bayesian in (random, dropout):
        np.testing.assert_array_equal(to_deterministic(bayesian)(x), model(x))
    norms = [w.numpy() for w in dropout.weights if "moving" in w.path]
    assert dropout.sample(x, 2, seed=0).shape == (2, 2, 10)
    for a, b in zip(norms, [w for w in dropout.weights if "moving" in w.path], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_network_of_this_library():
    model = tfp_bayes.BayesianCNN((8, 8, 1), 3, inference="flipout", max_pixel=1, seed=0)
    plain = to_deterministic(model)
    assert not isinstance(plain, tfp_bayes.BayesianModel)
    again = to_bayesian(plain, verbose=False)
    for a, b in zip(layers.variational_layers(model), layers.variational_layers(again)):
        np.testing.assert_array_equal(a.kernel_loc, b.kernel_loc)


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def test_refusals():
    dense = keras.Sequential([keras.Input((5,)), L.Dense(3, activation="softmax", name="out")])
    norm = keras.Sequential([keras.Input((5,)), L.BatchNormalization()])
    l2 = keras.Sequential([keras.Input((5,)), L.Dense(3, kernel_regularizer="l2", name="out")])
    for arguments, message in (
        ((Subclassed(), "flipout"), "Expected a built functional or Sequential `model`"),
        ((norm, "flipout"), r"Dense or convolution layers.*Received: BatchNormalization 1"),
        ((dense, "mc_dropout"), r"Dropout layers for inference='mc_dropout'. Received: Dense 1"),
        ((dense, "deterministic"), "to_deterministic"),
        ((dense, "laplace"), "Received: inference='laplace'"),
        ((l2, "flipout"), "Expected no `kernel_regularizer` for layer 'out'"),
    ):
        with pytest.raises(ValueError, match=message):
            to_bayesian(*arguments, verbose=False)
    for arguments, message in (
        ({"layers": ["in"]}, "Received: 'in', no such layer. Hint: it can convert .'out'."),
        ({"moped_delta": 0}, "moped_delta=0"),
        ({"prior": "gauss"}, "prior='gauss'"),
        ({"moped_delta": 0.1, "prior": None}, "random kernels under a prior only.*prior=None"),
        ({"moped_delta": 0.1, "inference": "mc_dropout"}, "moped_delta=0.1, .*'mc_dropout'"),
    ):
        with pytest.raises(ValueError, match=message):
            to_bayesian(dense, verbose=False, **arguments)
    with pytest.raises(ValueError, match="Received: 'batch"):
        to_bayesian(norm, layers=[norm.layers[0].name])
    with pytest.raises(ValueError, match=r"priors\.Normal around 0"):
        to_bayesian(image_model(), "mc_dropout", prior="laplace", verbose=False)
    with pytest.raises(ValueError, match="no graph"):
        to_deterministic(Subclassed())


def test_a_flat_prior_makes_point_estimates():
    model = keras.Sequential([keras.Input((5,)), L.Dense(3, activation="softmax")])
    bayesian = to_bayesian(model, prior=None, verbose=False)
    np.testing.assert_allclose(bayesian(vectors(4)), model(vectors(4)), atol=1e-6)


def test_a_single_frozen_weight_stays_frozen():
    layers = [keras.layers.Dense(2), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.layers[0].kernel.trainable = model.layers[2].bias.trainable = False
    expected = [v.trainable for v in model.weights]
    random = to_bayesian(model, "flipout", verbose=False)
    names = ["kernel_loc", "kernel_untransformed_scale", "bias_loc"]
    assert [v.name for v in random.non_trainable_weights if v.name != "kl_weight"] == names
    for bayesian in (random, to_bayesian(model, "mc_dropout", prior=None, verbose=False)):
        assert [v.trainable for v in to_deterministic(bayesian).weights] == expected
