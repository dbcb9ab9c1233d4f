"""Tests that served sets, intervals and labels equal those of the objects, bit for bit."""

import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import bayesian_mlp, vectors

import tfp_bayes
from tfp_bayes import Predictor, export_saved_model
from tfp_bayes.export import decisions
from tfp_bayes.layers import MCDropout, NormalParameters
from tfp_bayes.uncertainty import Conformal, SelectiveClassifier
from tfp_bayes.uncertainty import conformal as arrays

X = vectors(80)
Y = np.arange(80) % 3

SERVE = """
import pickle, sys
sys.modules["tfp_bayes"] = sys.modules["keras"] = None  # importing either raises an error
import tensorflow as tf
folder = sys.argv[1]
x = tf.constant(pickle.load(open(folder + "/inputs", "rb")))
classes, real = (tf.saved_model.load(f"{folder}/{name}") for name in ("classes", "real"))
answers = [classes.sets(x), classes.signatures["decide"](inputs=x), real.intervals(x)]
answers = [{k: v.numpy() for k, v in each.items()} for each in answers]
pickle.dump(answers, open(folder + "/answers", "wb"))
"""


def network(activation="softmax", units=3, likelihood="categorical"):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), name="inputs")
    hidden = MCDropout(0.4)(keras.layers.Dense(16, "relu")(inputs))
    outputs = keras.layers.Dense(units, activation)(hidden)
    if likelihood == "normal":
        outputs = NormalParameters()(outputs)
    return tfp_bayes.BayesianModel(inputs, outputs, likelihood=likelihood, num_samples=4)


def answered(decision, x):
    """Return the outputs of the graph of an endpoint, without a file."""
    predictor = getattr(decision.predictor, "predictor", decision.predictor)
    name, endpoint = decisions.decision_endpoint(predictor, decision)
    answer = tf.function(endpoint, autograph=False)(tf.constant(x))
    return name, {key: value.numpy() for key, value in answer.items()}


def test_a_process_that_knows_only_tensorflow(tmp_path):
    classes, real = network(), network(None, 2, "normal")
    classes.output_temperature.assign(0.5)
    conformal = Conformal(classes, "raps", penalty=0.1, seed=3).fit(X, Y, coverage=0.8)
    selective = SelectiveClassifier(classes, "mutual_information").fit(X, Y, coverage=0.7)
    intervals = Conformal(real, "normalized", num_samples=3).fit(X, X[:, 0], coverage=0.8)
    classes.export(tmp_path / "classes", decisions=[conformal, selective])
    real.export(tmp_path / "real", decisions=[intervals])
    (tmp_path / "inputs").write_bytes(pickle.dumps(X))
    command = [sys.executable, "-c", SERVE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sets, decided, bounds = pickle.loads((tmp_path / "answers").read_bytes())
    np.testing.assert_array_equal(sets["sets"], conformal.sets(X))
    assert 0 < sets["sets"].mean() < 1
    labels, trusted, uncertainty = selective.predict(X)
    np.testing.assert_array_equal(decided["labels"], labels)
    np.testing.assert_array_equal(decided["trusted"], trusted)
    np.testing.assert_array_equal(decided["uncertainty"], uncertainty)
    np.testing.assert_array_equal(bounds["lower"], intervals.intervals(X)[0])
    np.testing.assert_array_equal(bounds["upper"], intervals.intervals(X)[1])


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "lac", "class_conditional": True},
        {"method": "lac", "allow_empty": False},
        {"method": "aps", "seed": 5, "num_samples": 2},
    ],
)
@pytest.mark.filterwarnings("ignore:.*sets were empty")
def test_sets_equal_those_of_the_object(settings):
    conformal = Conformal(network(), **settings).fit(X, Y, coverage=0.3)
    name, answer = answered(conformal, X)
    assert name == "sets"
    np.testing.assert_array_equal(answer["sets"], conformal.sets(X))


def test_one_sigmoid_and_a_predictor():
    predictor = Predictor(network("sigmoid", 1), "bernoulli")
    conformal = Conformal(predictor, "aps", num_samples=4).fit(X, Y % 2, coverage=0.7)
    np.testing.assert_array_equal(answered(conformal, X)[1]["sets"], conformal.sets(X))
    selective = SelectiveClassifier(predictor, num_samples=4).fit(X, Y % 2, coverage=0.5)
    name, answer = answered(selective, X)
    assert name == "decide"
    np.testing.assert_array_equal(answer["trusted"], selective.predict(X).trusted)


def test_nothing_is_known_of_inputs_that_are_not_finite():
    model = network()
    x = X.copy()
    x[1, 0] = np.nan
    for method in ("lac", "aps"):
        sets = answered(Conformal(model, method).fit(X, Y, coverage=0.3), x)[1]["sets"]
        assert sets[1].all()
        assert not sets.all()
    selective = SelectiveClassifier(model).fit(X, Y, coverage=1.0)
    decided = answered(selective, x)[1]
    assert not decided["trusted"][1]
    assert decided["uncertainty"][1] == np.inf
    np.testing.assert_array_equal(decided["trusted"], selective.predict(x).trusted)


@pytest.mark.parametrize("num_classes", [2, 3, 100])
def test_graphs_equal_arrays_bit_for_bit(num_classes):
    """The rows include ties, certain predictions and negative zeros."""
    probs = np.random.default_rng(0).dirichlet(np.full(num_classes, 0.3), 60)
    probs[:3] = np.eye(num_classes)[0]
    probs[1, 1:] = -0.0
    probs[3] = 1 / num_classes
    for seed in (0, 2**40 + 7):
        u = arrays.row_uniforms(probs, seed)
        graph = tf.function(decisions.row_uniforms, autograph=False)
        np.testing.assert_array_equal(graph(tf.constant(probs), seed), u)
        for penalty in (0.0, 0.01):
            scores = tf.function(decisions.aps_scores, autograph=False)(
                tf.constant(probs), tf.constant(u), penalty, 2
            )
            np.testing.assert_array_equal(scores, arrays.aps_scores(probs, u, penalty, 2))


def test_refuses(tmp_path):
    model = bayesian_mlp(num_samples=2)
    conformal = Conformal(model).fit(X, Y)

    def export(*each, of=model.predictor):
        export_saved_model(of, tmp_path / "served", 2, decisions=each)

    with pytest.raises(ValueError, match="of the predictor that is exported"):
        export(conformal, of=Predictor(model))
    with pytest.raises(ValueError, match="one decision of each kind"):
        export(conformal, Conformal(model, "aps").fit(X, Y))
    with pytest.raises(ValueError, match="Expected a fitted method"):
        export(Conformal(model))
    with pytest.raises(ValueError, match="Expected a threshold"):
        export(SelectiveClassifier(model))
    with pytest.raises(ValueError, match="no other argument than `decisions`"):
        model.export(tmp_path / "model.onnx", "onnx", decisions=[conformal])
    model.output_temperature.assign(2.0)
    with pytest.raises(ValueError, match="as it was in `fit`"):
        export(conformal)
    real = network(None, 2, "normal")
    cqr = Conformal(real, "cqr").fit(X, X[:, 0])
    with pytest.raises(ValueError, match="needs no quantiles"):
        real.export(tmp_path / "real", decisions=[cqr])
    assert not list(tmp_path.iterdir())
