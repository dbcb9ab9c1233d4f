"""Tests that the graphs of sets, intervals and labels equal the objects, bit for bit.

`test_served.py` has those of a process that knows TensorFlow alone.
"""

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
