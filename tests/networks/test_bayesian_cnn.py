"""Tests of the ready-made networks."""

import keras
import numpy as np
import pytest
from harness import share_noise
from networks import images, small_cnn

import tfp_bayes
from tfp_bayes.layers import MCDropout, stochastic_layers


def test_is_gals_network():
    model = tfp_bayes.BayesianCNN()
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == [
        "InputLayer",
        "Rescaling",
        "Conv2D",
        "Conv2D",
        "MaxPooling2D",
        "Flatten",
        "MCDropout",
        "Dense",
        "MCDropout",
        "Dense",
    ]
    shapes = [w.shape for w in model.trainable_variables]
    assert shapes[::2] == [(4, 4, 1, 32), (4, 4, 32, 32), (3872, 128), (128, 10)]
    rates = [layer.rate for layer in model.layers if isinstance(layer, MCDropout)]
    assert rates == [0.25, 0.5]


def test_deterministic_twin_differs_in_its_dropout_only():
    bayesian, twin = small_cnn(seed=0), small_cnn(seed=0, inference="deterministic")
    for a, b in zip(bayesian.get_weights(), twin.get_weights()):
        np.testing.assert_array_equal(a, b)
    p = twin.predict_uncertainty(images(5))
    assert p.mutual_information.max() == 0
    assert bayesian.predict_uncertainty(images(5), 9, seed=0).mutual_information.min() > 0
    np.testing.assert_allclose(twin.predict(images(5), verbose=0), twin(images(5)), atol=1e-6)
    with pytest.raises(ValueError, match="num_samples=2"):
        twin.predict_uncertainty(images(5), 2)
    twin.compile("adam", "sparse_categorical_crossentropy")
    twin.fit(images(), np.arange(12) % 4, verbose=0)


def test_saved_by_value(tmp_path):
    model = small_cnn(dropout_rates=(0.1, 0.2), prior_scale=None, num_samples=5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(loaded) is tfp_bayes.BayesianCNN
    assert loaded.get_config() == model.get_config()
    x = images()
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def test_seed_decides_weights_and_noise():
    def trained(seed):
        model = small_cnn(seed=seed)
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(images(), np.arange(12) % 4, shuffle=False, verbose=0)
        return model.get_weights()

    for a, b in zip(trained(1), trained(1)):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(trained(1)[-1], trained(2)[-1])


def test_stored_and_float_pixels_are_the_same():
    model, x = small_cnn(), images()
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), model.predict(x.astype("float32"), verbose=0)
    )


def test_images_scaled_beforehand():
    scaled, y = (images() / 255).astype("float32"), np.arange(12) % 4
    model = small_cnn()
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"largest value 1\. Hint.*max_pixel=1"):
        model.fit(scaled, y, verbose=0)
    other = small_cnn(max_pixel=1)
    other.set_weights(model.get_weights())
    np.testing.assert_allclose(
        other.predict(scaled, verbose=0), model.predict(images(), verbose=0), atol=1e-6
    )
    other.compile("adam", "sparse_categorical_crossentropy")
    other.fit(scaled, y, verbose=0)


def test_bad_arguments():
    with pytest.raises(ValueError, match="inference='vi'"):
        small_cnn(inference="vi")
    for shape in [(28, 28), (4, 4, 1)]:
        with pytest.raises(ValueError, match="input_shape="):
            tfp_bayes.BayesianCNN(shape)
    with pytest.raises(ValueError, match=r"rate=1\.0"):
        small_cnn(dropout_rates=(1.0, 0.5))


# The other networks.


def test_kirschs_network():
    model = tfp_bayes.BayesianCNN(architecture="kirsch", seed=0)
    shapes = [tuple(w.shape) for w in model.trainable_variables][::2]
    assert shapes == [(5, 5, 1, 32), (5, 5, 32, 64), (1024, 128), (128, 10)]
    dropouts = [layer for layer in model.layers if isinstance(layer, MCDropout)]
    assert [(type(d).__name__, d.rate) for d in dropouts] == [
        ("MCSpatialDropout2D", 0.5),
        ("MCSpatialDropout2D", 0.5),
        ("MCDropout", 0.5),
    ]


NETWORKS = {
    "gal": (tfp_bayes.BayesianCNN, {"input_shape": (10, 10, 1)}, 4),
    "kirsch": (tfp_bayes.BayesianCNN, {"input_shape": (16, 16, 1), "architecture": "kirsch"}, 4),
    "mlp": (tfp_bayes.BayesianMLP, {"input_shape": (6,), "hidden_units": (8, 7)}, 3),
    "lenet5": (tfp_bayes.BayesianLeNet5, {"input_shape": (14, 14, 1)}, 5),
    "resnet20": (tfp_bayes.BayesianResNet20, {"input_shape": (8, 8, 3)}, 22),
}


INFERENCES = (
    "mc_dropout",
    "flipout",
    "local_reparameterization",
    "reparameterization",
    "deterministic",
)


@pytest.mark.parametrize("inference", INFERENCES)
@pytest.mark.parametrize("network", NETWORKS)
def test_layers_of_every_network_with_every_inference(network, inference):
    make, arguments, num_kernels = NETWORKS[network]
    model = make(num_classes=3, inference=inference, max_pixel=1, **arguments)
    random = inference not in ("mc_dropout", "deterministic")
    variational = tfp_bayes.layers.variational_layers(model)
    assert len(variational) == (num_kernels if random else 0)
    assert len(stochastic_layers(model)) > 0 or inference == "deterministic"


# Every network and every inference. Networks and inferences are independent of each other: each
# network is written once for all inferences, see `LayerFactory`.
@pytest.mark.parametrize(
    ("network", "inference"),
    [
        *[(network, "mc_dropout") for network in NETWORKS],
        ("gal", "local_reparameterization"),
        ("kirsch", "flipout"),
        ("mlp", "deterministic"),
        ("lenet5", "reparameterization"),
    ],
)
def test_every_network_and_every_inference(network, inference, tmp_path):
    """A network fits, predicts, and is unchanged after saving and loading."""
    make, arguments, _ = NETWORKS[network]
    model = make(num_classes=3, inference=inference, max_pixel=1, num_samples=None, **arguments)
    x = np.random.default_rng(0).uniform(size=(6, *model.input_shape[1:])).astype("float32")
    model.compile("adam", "sparse_categorical_crossentropy")
    history = model.fit(x, np.arange(6) % 3, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    samples = 1 if inference == "deterministic" else 3
    expected = model.predict_uncertainty(x, samples, seed=0)
    assert (expected.epistemic_variance.max() > 0) == (inference != "deterministic")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(loaded) is make
    assert loaded.get_config() == model.get_config()
    share_noise(model, loaded)
    np.testing.assert_array_equal(model(x), loaded(x))


def test_priors_of_random_kernels():
    layers = tfp_bayes.layers.variational_layers
    model = tfp_bayes.BayesianMLP((4,), 3, inference="flipout", prior_scale=0.3)
    assert layers(model)[0].kernel_prior.get_config() == {"loc": 0.0, "scale": 0.3}
    model = tfp_bayes.BayesianMLP((4,), 3, inference="flipout", kernel_prior="scale_mixture")
    assert isinstance(layers(model)[0].kernel_prior, tfp_bayes.priors.ScaleMixture)
    copy = tfp_bayes.BayesianMLP.from_config(model.get_config())
    assert copy.get_config() == model.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "lenet"}, "Received: architecture='lenet'"),
        ({"dropout_rates": (0.5,)}, r"Received: dropout_rates=\(0.5,\)"),
        ({"architecture": "kirsch", "input_shape": (8, 8, 1)}, "height and width of 16"),
        ({"kernel_prior": "laplace"}, "the prior of dropout with `prior_scale`"),
        ({"inference": "laplace"}, "Received: inference='laplace'"),
    ],
)
def test_bad_networks(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfp_bayes.BayesianCNN(**arguments)
