"""Tests that a SavedModel equals the model and is served without this package."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import bayesian_mlp, images, mlp, small_cnn, vectors

from tfp_bayes import Predictor, datasets, export_saved_model

TRAINED = Path(__file__).parents[2] / "saved_models" / "mnist_mc_dropout"
MEASURES = [
    "mean",
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
    "epistemic_variance",
    "aleatoric_variance",
]


def test_served_equals_the_model_bit_for_bit(tmp_path):
    model, x = small_cnn(num_samples=6), images(20)
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    floats = x.astype("float32")
    np.testing.assert_array_equal(served.serve(floats), model.predict(x, verbose=0))
    default = served.signatures["serving_default"](images=tf.constant(floats))
    np.testing.assert_array_equal(default["output_0"], model.predict(x, verbose=0))
    for num_samples, seed in [(1, 0), (9, 7)]:
        expected = model.predict_uncertainty(x, num_samples, seed=seed)
        result = served.predict_uncertainty(floats, num_samples, [seed, 0])
        assert sorted(result) == sorted(MEASURES)
        for name in MEASURES:
            np.testing.assert_array_equal(result[name], getattr(expected, name), err_msg=name)
    one_row = served.predict_uncertainty(floats[3:4], 9, [7, 0])
    np.testing.assert_array_equal(one_row["mean"], expected.mean[3:4])
    with pytest.raises(tf.errors.InvalidArgumentError, match="num_samples"):
        served.predict_uncertainty(floats, 0, [7, 0])


def test_replaces_an_older_export_and_leaves_no_rubbish(tmp_path):
    model = bayesian_mlp()
    model.export(tmp_path / "served")
    model.layers[1].bias.assign(np.arange(16) / 8)
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_array_equal(served.serve(vectors()), model.predict(vectors(), verbose=0))
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


def test_refuses_what_it_cannot_describe(tmp_path):
    inputs = keras.Input((5,))
    two = keras.Model(inputs, [mlp()(inputs), mlp()(inputs)])
    with pytest.raises(ValueError, match="with one output"):
        export_saved_model(Predictor(two), tmp_path / "served")
    assert list(tmp_path.iterdir()) == []


# The trained model that comes with the repository.

SERVE_WITHOUT_THE_PACKAGE = """
import json, sys
sys.modules["tfp_bayes"] = sys.modules["keras"] = None  # importing either raises an error
import numpy as np
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
result = served.predict_uncertainty(tf.constant(images), tf.constant(20), tf.constant([0, 0]))
mean = served.signatures["serving_default"](images=tf.constant(images))["output_0"]
print(json.dumps({"mean": mean.numpy().tolist(),
                  "mutual_information": result["mutual_information"].numpy().tolist()}))
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    data = datasets.load("mnist")
    path = tmp_path_factory.mktemp("digits") / "images.npy"
    np.save(path, data.x_test[:500].astype("float32"))
    return path, data.y_test[:500]


def test_trained_model_serves_in_plain_tensorflow(digits):
    path, labels = digits
    done = subprocess.run(
        [sys.executable, "-c", SERVE_WITHOUT_THE_PACKAGE, str(TRAINED), str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=path.parent,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    wrong = np.argmax(result["mean"], axis=1) != labels
    assert wrong.mean() < 0.02
    uncertainty = np.array(result["mutual_information"])
    assert uncertainty.min() >= 0
    assert uncertainty[wrong].mean() > 5 * uncertainty[~wrong].mean()


def test_trained_model_runs_in_saved_model_cli(digits, tmp_path):
    path, labels = digits
    tool = Path(sys.executable).with_name("saved_model_cli")
    subprocess.run(
        [
            *[tool, "run", "--dir", TRAINED, "--tag_set", "serve"],
            *["--signature_def", "serving_default", "--inputs", f"images={path}"],
            *["--outdir", tmp_path],
        ],
        check=True,
        capture_output=True,
    )
    mean = np.load(tmp_path / "output_0.npy")
    assert (mean.argmax(1) == labels).mean() > 0.98


def test_trained_model_is_small():
    assert sum(f.stat().st_size for f in TRAINED.rglob("*") if f.is_file()) < 5e6
