"""Tests that a SavedModel equals the model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import bayesian_mlp, images, mlp, small_cnn, vectors

from tfp_bayes import Predictor, export_saved_model

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
