"""Tests that files for LiteRT and ONNX Runtime equal the predictor or are refused."""

import sys

import keras
import numpy as np
import pytest
from networks import bayesian_mlp, mlp, vectors

import tfp_bayes
from tfp_bayes import Ensemble, Predictor
from tfp_bayes.export import export_baked
from tfp_bayes.export.functions import DrawnFunctions
from tfp_bayes.inference import SWAGPosterior
from tfp_bayes.layers import (
    DenseFlipout,
    MCConcreteDropout,
    MCDropout,
    MCSpatialDropout2D,
    NormalParameters,
)

ai_edge_litert = pytest.importorskip("ai_edge_litert.interpreter")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")

RNG = np.random.default_rng(0)
SEED = 7


def answer(path, inputs):
    """Run a file as its users do, by the names of inputs and outputs."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(str(path))
        names = [each.name for each in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs)))
    run = ai_edge_litert.Interpreter(str(path)).get_signature_runner()
    return {name: np.array(value) for name, value in run(**inputs).items()}


def check_equal(result, expected, tolerance=1e-6):
    assert sorted(result) == [
        "aleatoric_variance",
        "epistemic_variance",
        "expected_entropy",
        "mean",
        "mutual_information",
        "predictive_entropy",
    ]
    for name, value in result.items():
        wanted = getattr(expected, name)
        np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=tolerance, err_msg=name)
    assert expected.mutual_information.max() > 1e-4  # the functions differ


# Models with unusual structures.


def residual():
    """Byte inputs, BatchNormalization, a skip, and dropout of maps and of units."""
    photo = keras.Input((8, 8, 1), dtype="uint8", name="photo")
    x = keras.layers.Rescaling(1 / 255)(photo)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    y = keras.layers.Conv2D(4, 3, padding="same")(MCSpatialDropout2D(0.4)(x))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(y) + x)
    model = keras.Model(photo, keras.layers.Dense(3, "softmax")(MCDropout(0.4)(x)))
    return Predictor(model), {"photo": RNG.integers(0, 256, (5, 8, 8, 1)).astype("uint8")}


def table():
    """Two named inputs, random weights and a learned rate, for two real-valued targets."""
    size, codes = keras.Input((2,), name="size"), keras.Input((3,), dtype="int32", name="codes")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(5, 2)(codes))
    x = DenseFlipout(8, activation="tanh")(keras.layers.Concatenate()([size, embedded]))
    x = keras.layers.Dense(4)(MCConcreteDropout(0.3)(x))
    model = keras.Model({"size": size, "codes": codes}, NormalParameters()(x))
    codes = RNG.integers(0, 5, (4, 3)).astype("int32")
    return Predictor(model, "normal"), {"size": vectors(4, 2), "codes": codes}


def plain(activation="sigmoid", normalization=keras.layers.BatchNormalization):
    return keras.Sequential(
        [
            keras.Input((5,), name="x"),
            keras.layers.Dense(6, "tanh"),
            normalization(),
            keras.layers.Dense(2, activation),
        ]
    )


def ensemble():
    members = [plain() for _ in range(4)]
    return Predictor(members[0], "bernoulli", Ensemble(members)), {"x": vectors()}


def swag():
    model = plain("softmax", keras.layers.LayerNormalization)  # without batch statistics
    mean = [v.numpy() for v in model.trainable_variables]
    spread = [0.3 * RNG.normal(size=(3, *m.shape)) for m in mean]
    posterior = SWAGPosterior(model, mean, [abs(s[0]) for s in spread], spread)
    return Predictor(model, posterior=posterior), {"x": vectors()}


CASES = [(residual, "litert"), (table, "onnx"), (ensemble, "onnx"), (swag, "litert")]


def test_softplus_of_large_numbers(tmp_path):
    """LiteRT's own softplus is infinite above 88, where targets or inputs are not scaled."""
    inputs = keras.Input((2,), name="x")
    outputs = NormalParameters()(MCDropout(0.5)(keras.ops.softplus(inputs)))
    predictor = Predictor(keras.Model(inputs, outputs), "normal")
    export_baked(predictor, tmp_path / "m.tflite", "litert", num_samples=5, seed=SEED)
    x = np.array([[-300, 2], [30, 70], [100, 50], [200, 300], [1e4, 1e5]], "float32")
    expected = predictor.predict_uncertainty(x, 5, seed=SEED)
    found = answer(tmp_path / "m.tflite", {"x": x})
    for name in ("mean", "aleatoric_variance", "predictive_entropy"):
        assert np.isfinite(getattr(expected, name)).all()
        np.testing.assert_allclose(found[name], getattr(expected, name), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(("make", "format"), CASES, ids=lambda x: getattr(x, "__name__", x))
def test_equals_the_predictor(make, format, tmp_path):
    predictor, inputs = make()
    path = tmp_path / ("model.onnx" if format == "onnx" else "model.tflite")
    export_baked(predictor, path, format, 4, SEED)
    x = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    check_equal(answer(path, inputs), predictor.predict_uncertainty(x, 4, seed=SEED))
    first = {name: value[:1] for name, value in inputs.items()}  # any number of rows
    one = keras.tree.map_structure(lambda a: a[:1], x)
    expected = predictor.predict_uncertainty(one, 4, seed=SEED)
    np.testing.assert_allclose(answer(path, first)["mean"], expected.mean, atol=1e-6)


def test_size_hardly_depends_on_the_number_of_samples(tmp_path):
    model = tfp_bayes.BayesianMLP((64,), 3, hidden_units=(128,), seed=0)
    sizes = []
    for num_samples in (1, 8):
        path = tmp_path / "model.onnx"
        model.export(path, "onnx", num_samples=num_samples)
        sizes.append(path.stat().st_size)
    weights = 4 * model.count_params()
    # Seven times the weights would be far more.
    assert weights < sizes[0] < sizes[1] < sizes[0] + 0.5 * weights


def test_model_export(tmp_path):
    model, path = bayesian_mlp(prior_scale=1.0), tmp_path / "model.tflite"
    model.export(path, "litert", num_samples=3, seed=2)
    x = vectors()
    x[1, 0], x[2, 3] = np.nan, np.inf
    result = answer(path, {model.inputs[0].name: x})
    assert np.isnan(result["mean"][1:3]).all()
    assert np.isnan(result["mutual_information"][1:3]).all()
    expected = model.predict_uncertainty(x, 3, seed=2)
    np.testing.assert_allclose(result["mean"], expected.mean, atol=1e-6)
    assert [each.name for each in tmp_path.iterdir()] == ["model.tflite"]


@pytest.mark.parametrize("kind", ["vector", "bernoulli"])
def test_calibration_is_baked(kind, tmp_path):
    inputs = keras.Input((5,), name="x")
    hidden = MCDropout(0.4)(keras.layers.Dense(16, "relu")(inputs))
    activation = "sigmoid" if kind == "bernoulli" else "softmax"
    outputs = keras.layers.Dense(3, activation)(hidden)
    likelihood = "bernoulli" if kind == "bernoulli" else "categorical"
    model = tfp_bayes.BayesianModel(inputs, outputs, likelihood=likelihood)
    before = model.predict_uncertainty(vectors(), 4, seed=0).mean
    if kind == "vector":
        arrays = {"scale": [0.5, 1.0, 2.0], "offset": [0.3, -0.2, 0.0]}
        model._set_calibration("vector", arrays)
    else:
        model.output_temperature.assign(0.4)
    model.export(tmp_path / "model.onnx", "onnx", num_samples=4)
    expected = model.predict_uncertainty(vectors(), 4, seed=0)
    assert np.abs(expected.mean - before).max() > 0.05
    check_equal(answer(tmp_path / "model.onnx", {"x": vectors()}), expected, 2e-6)


def test_calibration_in_litert(tmp_path):
    model = bayesian_mlp()
    model.output_temperature.assign(2.0)
    model.export(tmp_path / "model.tflite", "litert", num_samples=4)
    (name,) = (each.name for each in model.inputs)
    expected = model.predict_uncertainty(vectors(), 4, seed=0)
    check_equal(answer(tmp_path / "model.tflite", {name: vectors()}), expected, 2e-6)


def test_fresh_functions_are_compared_with_themselves(tmp_path):
    export_baked(Predictor(mlp()), tmp_path / "model.onnx", "onnx", 2, seed=None)
    assert (tmp_path / "model.onnx").exists()


def test_int8(tmp_path):
    model, path = (
        tfp_bayes.BayesianMLP((64,), 3, hidden_units=(256,), seed=0),
        tmp_path / "m.tflite",
    )
    model.export(path, "litert", num_samples=2, int8=True)
    assert path.stat().st_size < 0.6 * 4 * model.count_params()
    x = vectors(6, 64)
    rounded = answer(path, {model.inputs[0].name: x})["mean"]
    np.testing.assert_allclose(rounded, model.predict_uncertainty(x, 2, seed=0).mean, atol=0.05)


# Errors.


def lstm():
    inputs = keras.Input((4, 2), name="x")
    return keras.Model(
        inputs, keras.layers.Dense(2, "softmax")(MCDropout(0.4)(keras.layers.LSTM(3)(inputs)))
    )


def half_precision():
    inputs = keras.Input((4,), name="x")
    x = MCDropout(0.4)(keras.layers.Dense(3, dtype="mixed_float16", name="half")(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, "softmax")(x))


def free_size():
    inputs = keras.Input((None, 2), name="x")
    x = keras.layers.GlobalMaxPooling1D()(MCDropout(0.4)(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, "softmax")(x))


def strings():
    inputs = keras.Input((1,), dtype="string", name="word")
    x = keras.layers.StringLookup(vocabulary=["a"], output_mode="multi_hot")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, "softmax")(MCDropout(0.4)(x)))


@pytest.mark.parametrize(
    ("make", "format", "message"),
    [
        (lstm, "litert", "operations TensorListReserve.*unroll=True"),
        (half_precision, "onnx", "layer 'half', which computes in float16.*set_weights"),
        (free_size, "onnx", "one of their free sizes.*fix all sizes"),
        (strings, "litert", "'word' of dtype string.*out of the model"),
    ],
)
def test_models_that_a_runtime_cannot_hold(make, format, message, tmp_path):
    path = tmp_path / ("model.onnx" if format == "onnx" else "model.tflite")
    with pytest.raises(ValueError, match=message):
        export_baked(Predictor(make()), path, format, 2)
    assert not list(tmp_path.iterdir())


def test_arguments(tmp_path, monkeypatch):
    predictor = Predictor(mlp())
    for path, format, more, message in [
        ("model.onnx", "tflite", {}, r"one of \['litert', 'onnx'\]"),
        ("model.onnx", "litert", {}, "ending in '.tflite'.*Hint: model.tflite"),
        ("model.onnx", "onnx", {"int8": True}, "quantize_dynamic"),
        ("model.onnx", "onnx", {"num_samples": True}, "integer of at least 1 for `num_samples`"),
        ("model.onnx", "onnx", {"seed": -1}, "integer in"),
    ]:
        with pytest.raises(ValueError, match=message):
            export_baked(predictor, tmp_path / path, format, **more)
    inputs = keras.Input((5,))
    two = keras.Model(inputs, [mlp()(inputs), mlp()(inputs)])
    with pytest.raises(ValueError, match="with one output"):
        export_baked(Predictor(two), tmp_path / "model.onnx", "onnx")
    calibrated = bayesian_mlp()
    curves = {"inputs": [[0.0, 1.0]] * 3, "outputs": [[0.1, 0.9]] * 3}
    calibrated._set_calibration("isotonic", curves)
    with pytest.raises(ValueError, match=r"or vector scaling.*calibrated by 'isotonic'"):
        calibrated.export(tmp_path / "model.onnx", "onnx")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ImportError, match=r'pip install "tfp_bayes\[onnx\]"'):
        export_baked(predictor, tmp_path / "model.onnx", "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format", "name", "more", "runtime"),
    [
        ("onnx", "model.onnx", {}, "ONNX Runtime"),
        ("litert", "model.tflite", {"int8": True}, "LiteRT"),
    ],
)
def test_a_wrong_answer_is_not_written(format, name, more, runtime, tmp_path, monkeypatch):
    outputs = DrawnFunctions.outputs
    monkeypatch.setattr(
        DrawnFunctions, "outputs", lambda *args: [p[:, ::-1] for p in outputs(*args)]
    )
    with pytest.raises(ValueError, match=rf"Expected the .* of the predictor from {runtime}"):
        export_baked(Predictor(mlp()), tmp_path / name, format, 2, **more)
    assert not list(tmp_path.iterdir())
