"""Labels for each likelihood, compatible settings, and errors that are raised before training."""

import keras
import numpy as np
import pytest
from learners import arranged
from networks import bayesian_mlp
from scipy import stats

import tfp_bayes
from tfp_bayes.active import ActiveLearner, Evaluation, Query, Refit, rows
from tfp_bayes.active.round import Progress, Round
from tfp_bayes.layers import MCDropout, NormalParameters
from tfp_bayes.prediction.likelihoods import get_likelihood
from tfp_bayes.prediction.targets import RealNumbers, RegressedClasses

RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 4)).astype("float32")
YES = (X[:, :3] > 0).astype("int64")
REAL = X[:, :2] @ np.array([[1.0, 0.5], [-1.0, 2.0]])
CLASSES = X[:, :3].argmax(1)


def compiled(likelihood, num_outputs):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = MCDropout(0.1)(keras.layers.Dense(32, activation="relu")(inputs))
    if likelihood == "bernoulli":
        outputs, loss = keras.layers.Dense(num_outputs, "sigmoid")(hidden), "binary_crossentropy"
    else:
        parameters = keras.layers.Dense(2 * num_outputs)(hidden)
        outputs, loss = NormalParameters()(parameters), tfp_bayes.losses.NormalNLL()
    model = tfp_bayes.BayesianModel(inputs, outputs, likelihood=likelihood, num_samples=10)
    model.compile(keras.optimizers.Adam(0.02), loss)
    return model


def learn(model, y, **kwargs):
    arguments = {
        "initial": np.arange(12),
        "ignore": np.arange(120, 160),
        "test_data": (X[120:], y[120:]),
        "validation_data": (X[100:120], y[100:120]),
        "query_size": 6,
        "steps": 150,
    }
    return ActiveLearner(model, X, y, **arranged(**{**arguments, **kwargs}))


def test_one_sigmoid():
    model = compiled("bernoulli", 1)
    histories = []
    for y in (YES[:, 0], YES[:, :1].astype("float32"), YES[:, 0].astype(bool)):
        learner = learn(model, y, acquisition="variation_ratios")
        row = learner.run(1)[-1]
        assert row.test_accuracy > 0.8
        assert 0 < row.test_nll < 0.6
        assert row.num_wrong == 0
        assert row.purity == 1
        assert (
            learner.labels.tolist()
            == np.where(learner.pool.acquired_at >= 0, YES[:, 0], -1).tolist()
        )
        histories.append((row.test_nll, learner.pool.acquired_at.tolist()))
    assert histories[0] == histories[1] == histories[2]
    with pytest.raises(ValueError, match="labels of 0 and 1"):
        learn(model, YES[:, 0] * 2)
    for arguments in ({"acquisition": "margin"}, {"selector": "badge"}):
        with pytest.raises(ValueError, match="Received: likelihood='bernoulli'"):
            learn(model, YES[:, 0], **arguments)
    with pytest.raises(ValueError, match="predicts class probabilities"):
        learn(model, YES[:, 0], label_filter="dynamic_threshold")


def test_several_sigmoids():
    learner = learn(compiled("bernoulli", 3), YES)
    row = learner.run(1)[-1]
    assert row.test_accuracy > 0.7
    prediction = learner.model.predict_uncertainty(X[120:], seed=1)
    scores = prediction.score(YES[120:])
    p, y = prediction.mean, YES[120:]
    assert scores.nll == pytest.approx(-stats.bernoulli.logpmf(y, p).sum(1).mean(), rel=1e-5)
    assert scores.accuracy == ((p > 0.5) == y).mean()
    assert scores.rmse == pytest.approx(np.sqrt(((p - y) ** 2).mean()))
    proposed = learner.propose()
    learner.tell(proposed[:2], YES[proposed[:2]])
    np.testing.assert_array_equal(learner.labels[proposed[:2]], YES[proposed[:2]])
    with pytest.raises(ValueError, match=r"of shape \(1, 3\)"):
        learner.tell(proposed[2:3], np.array([1]))


@pytest.mark.parametrize("num_targets", [1, 2])
def test_real_targets(num_targets):
    y = REAL[:, 0] if num_targets == 1 else REAL
    learner = learn(compiled("normal", num_targets), y, acquisition="predictive_variance")
    row = learner.run(1)[-1]
    assert row.test_rmse < 0.7 * y[120:].std()
    assert np.isnan([row.test_accuracy, row.num_wrong, row.purity]).all()
    assert np.isfinite(row.test_nll)
    assert "test RMSE" in row.describe(1)
    known = learner.pool.acquired_at >= 0
    np.testing.assert_array_equal(learner.labels[known], y[known])
    assert np.isnan(learner.labels[~known]).all()
    prediction = learner.model.predict_uncertainty(X[120:], seed=1)
    scores = prediction.score(y[120:])
    target = y[120:].reshape(40, num_targets)
    normal = stats.norm(prediction.mean, prediction.std)
    assert scores.nll == pytest.approx(-normal.logpdf(target).sum(1).mean(), rel=1e-4)
    refused = [{"acquisition": a} for a in ("variation_ratios", "margin", "epig")]
    for arguments in [*refused, {"selector": "batch_bald"}]:
        with pytest.raises(ValueError, match="Received: likelihood='normal'"):
            learn(learner.model, y, **arguments)
    with pytest.raises(ValueError, match="finite real labels"):
        learn(learner.model, np.where(np.arange(160) == 3, np.nan, REAL[:, 0]))


def test_a_label_for_each_pixel():
    images = RNG.normal(size=(30, 6, 6, 1)).astype("float32")
    masks = (images[..., 0] > 0).astype("int64")
    inputs = keras.Input((6, 6, 1))
    hidden = MCDropout(0.2)(keras.layers.Conv2D(8, 1, activation="relu")(inputs))
    outputs = keras.layers.Conv2D(2, 1, activation="softmax")(hidden)
    model = tfp_bayes.BayesianModel(inputs, outputs, num_samples=3)
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    given = {
        "initial": [0, 1],
        "refit": {"steps": 40},
        "evaluation": {"test_data": (images, masks)},
    }
    with pytest.raises(ValueError, match=r"one score for each of 28 candidates"):
        ActiveLearner(model, images, masks, query=Query(size=2), **given).run(1)
    query = Query(lambda p: p.mutual_information.mean((1, 2)), size=2)
    learner = ActiveLearner(model, images, masks, query=query, **given)
    row = learner.run(1)[-1]
    assert row.test_accuracy > 0.8
    np.testing.assert_array_equal(
        learner.labels[learner.pool.labelled], masks[learner.pool.labelled]
    )


# Arguments that are refused before training.


@pytest.fixture(scope="module")
def classifier():
    model = bayesian_mlp(size=4, num_samples=3)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit = None  # nothing may be trained
    return model


REFUSED = {
    "initial=20": ({"initial": 20}, r"initial of shape \(\)"),
    "initial=[]": ({"initial": []}, r"initial of shape \(0,\)"),
    "labels are strings": ({"y": np.array(["a"] * 160)}, "<U1 array"),
    "labels are floats": ({"y": CLASSES + 0.5}, "float64 array"),
    "labels are missing": ({"y": None}, "no labels"),
    "test_data=x": ({"test_data": X}, "with as many inputs as labels"),
    "test_data of three": ({"test_data": (X, [0] * len(X), X)}, "tuple of length 3"),
    "test_data of another length": (
        {"test_data": (X, CLASSES[1:])},
        "with as many inputs as labels",
    ),
    "test labels out of range": ({"test_data": (X, CLASSES + 1)}, "from 1 to 3"),
    "oracle=3": ({"oracle": 3}, "oracle=3"),
    "query_size": ({"query_size": "10"}, "size='10'"),
    "candidates": ({"candidates": 2}, "candidates=2"),
    "seed": ({"seed": -1}, "seed=-1"),
    "steps": ({"steps": 1.5}, "steps=1.5"),
    "max_steps": ({"max_steps": 200}, "max_steps=200"),
    "filter without truth": (
        {"label_filter": "oracle", "y": None, "initial": ([0, 1, 2], [0, 1, 2])},
        "y=None",
    ),
    "x": ({"x": (row for row in X)}, "generator"),
    "selector": ({"selector": {"coefficient": 1}}, "selector={'coefficient': 1}"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_training(case, classifier):
    given, message = REFUSED[case]
    arguments = {"x": X, "y": CLASSES, "initial": [0, 1, 2], **given}
    with pytest.raises(ValueError, match=f"(?s)Expected .*{message}.*Hint: "):
        ActiveLearner(classifier, **arranged(**arguments))


def test_run_refuses(classifier):
    learner = ActiveLearner(classifier, X, CLASSES, initial=[0, 1, 2])
    for arguments in ({"total_rounds": -1}, {"total_rounds": 1, "stop": "labels"}):
        with pytest.raises(ValueError, match="Expected"):
            learner.run(**arguments)


# Numbers that are not finite.


def test_inputs_that_are_not_finite_are_named(classifier):
    x = X.copy()
    x[7, 1], x[30] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"NaN or infinity in the examples \[7, 30\], 2 of"):
        ActiveLearner(classifier, x, CLASSES, initial=[0, 1, 2])
    with pytest.raises(ValueError, match=r"for `test_data`.*\[7, 30\]"):
        ActiveLearner(
            classifier, X, CLASSES, initial=[0, 1, 2], evaluation=Evaluation((x, CLASSES))
        )
    assert ActiveLearner(classifier, x, CLASSES, initial=[0, 1, 2], query=Query(ignore=[7, 30]))
    learner = ActiveLearner(
        classifier, rows.LoadedRows(lambda i: x[i], 160), CLASSES, initial=[0, 1, 2]
    )
    with pytest.raises(ValueError, match=r"\[7, 30\]"):
        learner.rows(np.arange(160))


def test_scores_that_are_not_finite_are_named():
    model = bayesian_mlp(size=4, num_samples=3)
    model.compile("adam", "sparse_categorical_crossentropy")

    def score(prediction):
        return np.where(np.arange(len(prediction.mean)) == 5, np.nan, 0.0)

    query = Query(score, "k_center")  # a selector that ignores scores
    learner = ActiveLearner(model, X, CLASSES, initial=[0, 1, 2], query=query, refit=Refit(steps=2))
    with pytest.raises(ValueError, match=r"NaN or infinity for the examples \[8\], 1 of 157"):
        learner.run(1)


# Oracles, and printed progress.


def test_an_oracle_without_the_argument_again(capsys):
    model = bayesian_mlp(size=4, num_samples=3)
    model.compile("adam", "sparse_categorical_crossentropy")
    learner = ActiveLearner(
        model,
        X,
        CLASSES,
        oracle=lambda indices: (CLASSES[indices] + 1) % 3,
        initial=[0, 1, 2],
        label_filter={"name": "oracle", "rejected": "relabel"},
        query=Query(size=4),
        refit=Refit(steps=2),
    )
    history = learner.run(1, stop="labels=100", verbose=True)
    assert history[1].num_asked == 8
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  acq")[0] for line in lines] == ["round   0/1", "round   1/1"]
    assert "rejected 4 of 8  wrong 8" in lines[1]
    # `total_rounds` includes earlier rounds, so a second call does nothing and says so.
    assert learner.run(1, verbose=True) is history
    assert len(history) == 2
    assert capsys.readouterr().out == "Nothing to do: rounds complete 1, requested 1.\n"


def test_a_terminal_shows_the_current_stage(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    progress = Progress(2, 1, verbose=True)
    for stage in ("propose", "checkpoint", "tell", "fit", "evaluate"):
        progress.on_stage(stage)
    progress.on_round(Round(1, 3, 1))
    shown = [part.split(" ... ")[0] for part in capsys.readouterr().out.split("\r\x1b[K")]
    assert shown == [
        "",
        "round 1/2",
        *(f"round 1/2: {what}" for what in ("labeling", "training", "evaluating")),
        "round 2/2: scoring the pool",
        f"{Round(1, 3, 1).describe(2)}\n",
    ]


def test_targets_of_a_regression_on_classes():
    model = tfp_bayes.BayesianBasisRegression(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "tanh")]), 3
    )
    prediction = model.predict_uncertainty(X[:5])
    likelihood = get_likelihood(prediction.likelihood)
    assert isinstance(likelihood.targets(prediction.mean, CLASSES), RegressedClasses)
    assert isinstance(likelihood.targets(prediction.mean, np.zeros([160, 3])), RealNumbers)
    labels = CLASSES[:5]
    assert prediction.score(labels).accuracy == (prediction.mean.argmax(1) == labels).mean()
    assert prediction.score(labels)[1:] == prediction.score(np.eye(3)[labels])[1:]
