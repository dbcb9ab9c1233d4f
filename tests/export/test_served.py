"""Tests of all kinds of inputs and outputs, served by a process with TensorFlow alone."""

import inspect
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import bayesian_mlp, vectors

import tfp_bayes
from tfp_bayes import Ensemble, Predictor, export_saved_model
from tfp_bayes.layers import MCDropout, MCSpatialDropout2D, NormalParameters

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
    return Predictor(model), {"scan": x}


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
    return Predictor(model, "normal"), data


def ensemble():
    def network():
        inputs = keras.Input((5,), name="x")
        x = keras.layers.BatchNormalization()(keras.layers.Dense(6, "relu")(inputs))
        model = keras.Model(inputs, keras.layers.Dense(2, "sigmoid")(x))
        model.set_weights([0.5 + RNG.random(w.shape) for w in model.get_weights()])
        return model

    members = [network() for _ in range(3)]
    return Predictor(members[0], "bernoulli", Ensemble(members)), {"x": vectors()}


CASES = {"segmentation": segmentation, "table": table, "ensemble": ensemble}

SERVE = """
import pickle, sys
sys.modules["tfp_bayes"] = sys.modules["keras"] = None  # importing either is an error
import tensorflow as tf
folder, answers = sys.argv[1], {}
for name, inputs in pickle.load(open(folder + "/inputs", "rb")).items():
    served = tf.saved_model.load(f"{folder}/{name}")
    tensors = {key: tf.constant(value) for key, value in inputs.items()}
    mean = served.signatures["serving_default"](**tensors)["output_0"].numpy()
    x = tensors if len(tensors) > 1 else next(iter(tensors.values()))
    result = served.predict_uncertainty(x, 3, [7, 0])
    answers[name] = mean, {key: value.numpy() for key, value in result.items()}
pickle.dump(answers, open(folder + "/answers", "wb"))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Return the predictor, inputs, and outputs of the other process for each case."""
    folder = tmp_path_factory.mktemp("served")
    cases = {name: make() for name, make in CASES.items()}
    for name, (predictor, _) in cases.items():
        export_saved_model(predictor, folder / name, num_samples=3)
    with (folder / "inputs").open("wb") as file:
        pickle.dump({name: inputs for name, (_, inputs) in cases.items()}, file)
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(folder)], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    with (folder / "answers").open("rb") as file:
        answers = pickle.load(file)
    return {name: (*cases[name], *answers[name]) for name in cases}


@pytest.mark.parametrize("name", CASES)
def test_served_equals_the_predictor(name, served):
    predictor, inputs, mean, result = served[name]
    x = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    expected = predictor.predict_uncertainty(x, 3, seed=7)
    for measure, value in result.items():
        np.testing.assert_array_equal(value, getattr(expected, measure), err_msg=measure)
    np.testing.assert_array_equal(mean, predictor.predict(x, 3, seed=0))


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
