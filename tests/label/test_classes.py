"""Classes and predicted classes of each kind of model, on the page and in files."""

import json

import keras
import numpy as np
import pytest

from tfp_bayes import BayesianModel
from tfp_bayes.active import ActiveLearner
from tfp_bayes.label import Session, export_tasks, import_labels
from tfp_bayes.label.classes import check_class_names, predicted_class
from tfp_bayes.layers import MCDropout
from tfp_bayes.prediction.targets import (
    ClassNumbers,
    RealNumbers,
    RegressedClasses,
    ZerosAndOnes,
)

CLASSIFIER, SIGMOID = ClassNumbers(3, ()), ZerosAndOnes(1, ())


@pytest.mark.parametrize(
    ("targets", "mean", "expected"),
    [
        (CLASSIFIER, [0.2, 0.7, 0.1], (1, 0.7)),
        (SIGMOID, [0.9], (1, 0.9)),
        (SIGMOID, [0.2], (0, 0.8)),
        (RegressedClasses(3, ()), [0.1, -0.2, 1.3], (2, None)),
    ],
)
def test_predicted_class(targets, mean, expected):
    guess, probability = predicted_class(targets, np.array(mean))
    assert guess == expected[0]
    assert probability == (None if expected[1] is None else pytest.approx(expected[1]))


@pytest.mark.parametrize(
    ("targets", "names", "message"),
    [
        (CLASSIFIER, ["a", "b"], "Expected 3 different names"),
        (CLASSIFIER, ["a", "b", "b"], "Expected 3 different names"),
        (CLASSIFIER, ["a", "b", ""], "Expected 3 different names"),
        (SIGMOID, ["a"], "Expected 2 different names"),
        (ZerosAndOnes(2, (2,)), ["a", "b"], "one class for each image.*labels of 0 and 1"),
        (ClassNumbers(3, (6, 6)), ["a", "b", "c"], r"one class for each image.*\(6, 6\)"),
        (RealNumbers(2, (2,)), ["a", "b"], "one class for each image.*finite real labels"),
    ],
)
def test_refused(targets, names, message):
    with pytest.raises(ValueError, match=message):
        check_class_names(targets, names)


def test_one_sigmoid_shows_the_likelier_class(tmp_path):
    """Its only output is the probability of 1, so the position of the largest is always 0."""
    x = np.repeat(np.uint8([0, 255]), 6).reshape(12, 1, 1, 1) * np.ones((1, 8, 8, 1), "uint8")
    y = np.repeat([0, 1], 6)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    hidden = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255, -0.5)(inputs))
    outputs = keras.layers.Dense(1, "sigmoid")(MCDropout(0.1)(hidden))
    model = BayesianModel(inputs, outputs, likelihood="bernoulli", num_samples=3)
    model.compile(keras.optimizers.Adam(0.1), "binary_crossentropy")
    initial = [0, 6]
    learner = ActiveLearner(model, x, initial=(initial, y[initial]), refit={"steps": 20})
    names, path = ["dark", "bright"], tmp_path / "tasks.json"
    session = Session(learner, names)
    session.start()
    session.wait()
    images = session.state()["images"]
    assert len(images) == 10
    for image in images:
        assert image["guess"] == names[y[image["index"]]]
        assert image["probability"] > 0.5
    export_tasks(learner, path, names)
    for task in json.loads(path.read_text()):
        (guess,) = task["predictions"][0]["result"][0]["value"]["choices"]
        assert guess == names[y[task["data"]["index"]]]
    for use in (export_tasks, import_labels):
        with pytest.raises(ValueError, match="Expected 2 different names"):
            use(learner, path, ["dark"])
