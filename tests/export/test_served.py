"""Tests of all kinds of inputs and outputs, served by a process with TensorFlow alone."""

import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import bayesian_mlp, vectors
from processes import run_python

import tfp_bayes
from tfp_bayes import Ensemble, Predictor, datasets, export_saved_model
from tfp_bayes.layers import MCDropout, MCSpatialDropout2D, NormalParameters
from tfp_bayes.uncertainty import Conformal, SelectiveClassifier

TRAINED = Path(__file__).parents[2] / "saved_models" / "mnist_mc_dropout"
RNG = np.random.default_rng(0)


def segmentation():
    """A small U-Net on bytes, with class probabilities for each pixel."""
    inputs = keras.Input((8, 8, 1), dtype="uint8", name="scan")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    skip = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = MCSpatialDropout2D(0.4)(keras.layers.MaxPooling2D()(skip))
    x = keras.layers.UpSampling2D()(keras.layers.Conv2D(4, 3, padding="same")(x))
    x = keras.layers.Concatenate()([skip, x])
    outputs = keras.layers.Conv2D(3, 1, activation="softmax")(x)
    x = RNG.integers(0, 256, (5, 8, 8, 1)).astype("uint8")
    model = tfp_bayes.BayesianModel(inputs, outputs)
    model.output_temperature.assign(2.5)  # as if calibrated
    return Predictor(model), {"scan": x}, []


def table():
    """Named inputs of text, numbers and codes, for two real-valued targets."""
    word = keras.Input((1,), dtype="string", name="word")
    size = keras.Input((2,), name="size")
    codes = keras.Input((3,), dtype="int32", name="codes")
    lookup = keras.layers.StringLookup(vocabulary=["a", "b", "c"], output_mode="multi_hot")
    embedded = keras.layers.Embedding(5, 2)(codes)
    x = keras.layers.Concatenate()([lookup(word), size, keras.layers.Flatten()(embedded)])
    x = MCDropout(0.3)(keras.layers.Dense(8, "relu")(x))
    model = keras.Model(
        {"word": word, "size": size, "codes": codes}, NormalParameters()(keras.layers.Dense(4)(x))
    )
    data = {
        "word": np.array([["a"], ["c"], ["?"]], dtype=object),
        "size": vectors(3, 2),
        "codes": RNG.integers(0, 5, (3, 3)).astype("int32"),
    }
    return Predictor(model, "normal"), data, []


def ensemble():
    def network():
        inputs = keras.Input((5,), name="x")
        x = keras.layers.BatchNormalization()(keras.layers.Dense(6, "relu")(inputs))
        model = keras.Model(inputs, keras.layers.Dense(2, "sigmoid")(x))
        model.set_weights([0.5 + RNG.random(w.shape) for w in model.get_weights()])
        return model

    members = [network() for _ in range(3)]
    return Predictor(members[0], "bernoulli", Ensemble(members)), {"x": vectors()}, []


def decisions_on_classes():
    inputs, x = keras.Input((5,), name="x"), vectors(80)
    hidden = MCDropout(0.4)(keras.layers.Dense(16, "relu")(inputs))
    outputs = keras.layers.Dense(3, "softmax")(hidden)
    model = tfp_bayes.BayesianModel(inputs, outputs, num_samples=4)
    model.output_temperature.assign(0.5)
    y = np.arange(80) % 3
    conformal = Conformal(model, "raps", penalty=0.1, seed=3).fit(x, y, coverage=0.8)
    selective = SelectiveClassifier(model, "mutual_information").fit(x, y, coverage=0.7)
    return model.predictor, {"x": x}, [conformal, selective]


def decisions_on_real_targets():
    inputs, x = keras.Input((5,), name="x"), vectors(80)
    hidden = MCDropout(0.4)(keras.layers.Dense(16, "relu")(inputs))
    outputs = NormalParameters()(keras.layers.Dense(2)(hidden))
    model = tfp_bayes.BayesianModel(inputs, outputs, likelihood="normal", num_samples=4)
    intervals = Conformal(model, "normalized", num_samples=3).fit(x, x[:, 0], coverage=0.8)
    return model.predictor, {"x": x}, [intervals]


MAKE = [segmentation, table, ensemble, decisions_on_classes, decisions_on_real_targets]
CASES = {make.__name__: make for make in MAKE}

SERVE = """
import pickle, sys
sys.modules["tfp_bayes"] = sys.modules["keras"] = None  # importing either is an error
import tensorflow as tf
folder, answers = sys.argv[1], {}
for name, (path, inputs, num_samples) in pickle.load(open(folder + "/inputs", "rb")).items():
    served = tf.saved_model.load(path)
    tensors = {key: tf.constant(value) for key, value in inputs.items()}
    answer = {"mean": served.signatures["serving_default"](**tensors)["output_0"]}
    x = tensors if len(tensors) > 1 else next(iter(tensors.values()))
    answer["measures"] = served.predict_uncertainty(x, num_samples, [7, 0])
    for signature in {"sets", "intervals", "decide"} & set(served.signatures):
        answer[signature] = getattr(served, signature)(x)
    answers[name] = tf.nest.map_structure(lambda value: value.numpy(), answer)
pickle.dump(answers, open(folder + "/answers", "wb"))
"""


@pytest.fixture(scope="module")
def cases():
    """Return the predictor, inputs and decisions of each case."""
    return {name: make() for name, make in CASES.items()}


@pytest.fixture(scope="module")
def digits():
    data = datasets.load("mnist")
    return data.x_test[:500].astype("float32"), data.y_test[:500]


@pytest.fixture(scope="module")
def answers(cases, digits, tmp_path_factory):
    """Return the outputs of a process without this package, for each case and the trained model."""
    folder = tmp_path_factory.mktemp("served")
    given = {"trained": (str(TRAINED), {"images": digits[0]}, 20)}
    for name, (predictor, inputs, decisions) in cases.items():
        given[name] = (str(folder / name), inputs, 3)
        export_saved_model(predictor, folder / name, num_samples=3, decisions=decisions)
    with (folder / "inputs").open("wb") as file:
        pickle.dump(given, file)
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(folder)], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    with (folder / "answers").open("rb") as file:
        return pickle.load(file)


@pytest.mark.parametrize("name", CASES)
def test_served_equals_the_predictor(name, cases, answers):
    predictor, inputs, _ = cases[name]
    x = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    expected = predictor.predict_uncertainty(x, 3, seed=7)
    for measure, value in answers[name]["measures"].items():
        np.testing.assert_array_equal(value, getattr(expected, measure), err_msg=measure)
    np.testing.assert_array_equal(answers[name]["mean"], predictor.predict(x, 3, seed=0))


def test_served_decisions_equal_those_of_the_objects(cases, answers):
    _, inputs, (conformal, selective) = cases["decisions_on_classes"]
    answer, x = answers["decisions_on_classes"], inputs["x"]
    np.testing.assert_array_equal(answer["sets"]["sets"], conformal.sets(x))
    assert 0 < answer["sets"]["sets"].mean() < 1
    decided = selective.predict(x)
    for name in ("labels", "trusted", "uncertainty"):
        np.testing.assert_array_equal(answer["decide"][name], getattr(decided, name))
    _, inputs, (intervals,) = cases["decisions_on_real_targets"]
    bounds = answers["decisions_on_real_targets"]["intervals"]
    np.testing.assert_array_equal(bounds["lower"], intervals.intervals(inputs["x"])[0])
    np.testing.assert_array_equal(bounds["upper"], intervals.intervals(inputs["x"])[1])


# The trained model that comes with the repository.


def test_trained_model_serves_in_plain_tensorflow(digits, answers):
    answer, labels = answers["trained"], digits[1]
    wrong = np.argmax(answer["mean"], axis=1) != labels
    assert wrong.mean() < 0.02
    uncertainty = answer["measures"]["mutual_information"]
    assert uncertainty.min() >= 0
    assert uncertainty[wrong].mean() > 5 * uncertainty[~wrong].mean()


def test_trained_model_runs_in_saved_model_cli(digits, tmp_path):
    images, labels = digits
    np.save(tmp_path / "images.npy", images)
    done = run_python(
        Path(sys.executable).with_name("saved_model_cli"),
        *["run", "--dir", TRAINED, "--tag_set", "serve"],
        *["--signature_def", "serving_default", "--inputs", f"images={tmp_path / 'images.npy'}"],
        *["--outdir", tmp_path],
    )
    assert done.returncode == 0, done.stderr
    mean = np.load(tmp_path / "output_0.npy")
    assert (mean.argmax(1) == labels).mean() > 0.98


def test_trained_model_is_small():
    assert sum(f.stat().st_size for f in TRAINED.rglob("*") if f.is_file()) < 5e6


# Paths that an export may replace.


def test_what_is_not_a_saved_model_is_left_alone(tmp_path):
    model = bayesian_mlp(num_samples=2)
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "epoch-1.keras").write_bytes(b"weeks of work")
    with pytest.raises(ValueError, match=r"with \['epoch-1.keras'\].*Nothing was changed"):
        model.export(checkpoints)
    (tmp_path / "file").write_bytes(b"a file")
    with pytest.raises(ValueError, match="file', a file"):
        model.export(tmp_path / "file")
    assert (checkpoints / "epoch-1.keras").read_bytes() == b"weeks of work"

    (tmp_path / "empty").mkdir()
    model.export(tmp_path / "empty")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    model.export(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "empty" / "notes.txt").write_text("added later")
    with pytest.raises(ValueError, match=r"with \['notes.txt'\]"):
        model.export(tmp_path / "empty")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "empty", "file", "link"]


def test_signature_of_keras(tmp_path):
    ours, theirs = (
        list(inspect.signature(c.export).parameters) for c in (tfp_bayes.BayesianModel, keras.Model)
    )
    assert ours == theirs
    model = bayesian_mlp(num_samples=2)
    signature = [tf.TensorSpec([None, 5], tf.float64, "features")]
    model.export(tmp_path / "served", "tf_saved_model", False, signature)
    served = tf.saved_model.load(tmp_path / "served")
    x = vectors().astype("float64")
    mean = served.signatures["serving_default"](features=tf.constant(x))["output_0"]
    np.testing.assert_allclose(mean, model.predict(x, verbose=0), atol=1e-6)
    for arguments in ({"format": "openvino"}, {"opset_version": 18}):
        with pytest.raises(ValueError, match="format='tf_saved_model' with no other argument"):
            model.export(tmp_path / "other", **arguments)
