"""Compatibility with release 0.1: its checkpoints load, and its keyword arguments still work.

`data/release_0_1.npz` and its journal are those of the learner in `make`, after `run(2)`,
`propose()`, two labels told by "page" and one example skipped.
"""

import functools
import inspect
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from tfp_bayes import BayesianModel
from tfp_bayes.active import ActiveLearner, Evaluation, NoisyOracle, Query, Refit, filters
from tfp_bayes.active.built_in import MOVED
from tfp_bayes.layers import MCDropout

DATA = Path(__file__).with_name("data")
X = ((np.arange(160) * 7919 % 101) / 101).astype("float32").reshape(40, 4)
Y = X[:, :3].argmax(1)


@functools.cache
def network():
    """Return one model to all learners, which start from new weights, so that it is traced once."""
    inputs = keras.Input((4,))
    hidden = MCDropout(0.3)(keras.layers.Dense(4, activation="relu")(inputs))
    outputs = keras.layers.Dense(3, activation="softmax")(hidden)
    model = BayesianModel(inputs, outputs, num_samples=4)
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    return model


ARGUMENTS = {
    "initial": [0, 1, 2],
    "ignore": np.arange(30, 40),
    "test_data": (X[30:], Y[30:]),
    "validation_data": (X[30:], Y[30:]),
    "oracle": NoisyOracle(Y, 0.5, resample=True),
    "label_filter": {"name": "random", "rate": 0.4},
    "rejected": "quarantine",
    "acquisition": "variation_ratios",
    "selector": {"name": "power", "beta": 2.0},
    "query_size": 4,
    "candidates": 20,
    "num_samples": 3,
    "evaluation_samples": 2,
    "reinit": "warm",
    "steps": 3,
    "max_steps": 50,
    "batch_size": 8,
    "seed": 5,
}
NEW = {
    "initial": [0, 1, 2],
    "query": Query(
        "variation_ratios",
        {"name": "power", "beta": 2.0},
        size=4,
        candidates=20,
        num_samples=3,
        ignore=np.arange(30, 40),
    ),
    "refit": Refit("warm", steps=3, max_steps=50, batch_size=8),
    "evaluation": Evaluation((X[30:], Y[30:]), (X[30:], Y[30:]), num_samples=2),
    "oracle": NoisyOracle(Y, 0.5, resample=True),
    "label_filter": filters.RandomFilter(0.4, rejected="quarantine"),
    "seed": 5,
}


def make(checkpoint, **kwargs):
    arguments = {**ARGUMENTS, **kwargs}
    with pytest.warns(FutureWarning, match="Write .*query=Query"):
        return ActiveLearner(network(), X, Y, checkpoint=checkpoint, **arguments)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Copy the files; return the checkpoint's path, arrays and record."""
    path = tmp_path / "release_0_1.npz"
    for file in DATA.iterdir():
        shutil.copy(file, tmp_path)
    arrays = dict(np.load(path))
    record = json.loads(arrays.pop("record").tobytes())
    # Other versions of Keras describe a network differently; the rest is up to this package.
    same = record["identity"]["network"]
    monkeypatch.setattr("tfp_bayes.active.learner.digest_network", lambda model: same)
    return path, arrays, record


@pytest.mark.parametrize("spelling", ["old", "new"])
def test_a_checkpoint_is_continued(spelling, written):
    path, arrays, record = written
    if spelling == "old":
        learner = make(path)
    else:
        learner = ActiveLearner(network(), X, Y, checkpoint=path, **NEW)
    for i, variable in enumerate(learner.model.variables):
        np.testing.assert_array_equal(variable.numpy(), arrays[f"weight_{i}"])
    np.testing.assert_array_equal(learner.pool.acquired_at[[0, 1, 2]], 0)
    for row, saved in zip(learner.history, record["history"], strict=True):
        assert vars(row) == pytest.approx(saved, nan_ok=True)
    # The journal continues where the checkpoint ends, with two labels and a skip.
    told, labels, skipped = [3, 7], [0, 1], 20
    np.testing.assert_array_equal(learner.labels[told], labels)
    assert learner.pool.acquired_at[skipped] == -2
    assert learner.pool.pending.tolist() == [13]
    before = arrays["acquired_at"]
    changed = np.flatnonzero(learner.pool.acquired_at != before)
    assert changed.tolist() == [skipped]
    history = learner.run(3)
    assert [row.round for row in history] == [0, 1, 2, 3]
    assert history[-1].num_asked == 3


def test_another_run_is_refused_by_name(written):
    path, _, _ = written
    content = path.read_bytes()
    for arguments, message in (
        ({"seed": 6}, r"seed=6 \(was 5\)"),
        ({"rejected": "relabel"}, r"rejected='relabel' \(was 'quarantine'\)"),
        ({"label_filter": None}, r"label_filter='None' \(was 'RandomFilter\(rate=0.4\)'\)"),
        ({"ignore": [39]}, "ignored="),
        ({"evaluation_samples": 3}, r"evaluation_samples=3 \(was 2\)"),
        ({"max_steps": 75}, r"max_steps=75 \(was 50\)"),
    ):
        with pytest.raises(ValueError, match=message):
            make(path, **arguments)
    assert path.read_bytes() == content


# Keyword arguments.


def test_old_keywords_mean_what_they_meant(recwarn):
    old = ActiveLearner(network(), X, Y, **ARGUMENTS)
    (warning,) = [each for each in recwarn if each.category is FutureWarning]
    assert warning.filename == __file__
    text = str(warning.message)
    named = text.split(" for the last time")[0]
    for name in ARGUMENTS:
        assert (f" {name}=" in named) == (name in MOVED)
    for spelled in (
        "query=Query(ignore=..., acquisition=..., selector=..., size=...",
        "refit=Refit(reinit=..., steps=..., max_steps=..., batch_size=...)",
        "evaluation=Evaluation(test_data=..., validation_data=..., num_samples=...)",
        'label_filter={"name": ..., "rejected": ...}',
    ):
        assert spelled in text
    new = ActiveLearner(network(), X, Y, **NEW)
    assert old._identify() == new._identify()
    assert old.filter.rejected == "quarantine"
    assert len([each for each in recwarn if each.category is FutureWarning]) == 1


def test_old_labels_of_the_initial_set():
    with pytest.warns(FutureWarning, match=r"initial_labels= .*initial=\(indices, labels\)"):
        learner = ActiveLearner(network(), X, initial=[4, 2, 7], initial_labels=[0, 1, 2])
    assert learner.labels[[4, 2, 7]].tolist() == [0, 1, 2]
    new = ActiveLearner(network(), X, initial=([4, 2, 7], [0, 1, 2]))
    assert learner._identify() == new._identify()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": Query(size=3), "query_size": 3}, "either `query` or .*query=Query"),
        ({"refit": {"steps": 3}, "steps": 3}, "either `refit` or"),
        ({"evaluation": {}, "test_data": None}, "either `evaluation` or"),
        ({"initial": ([0], [1]), "initial_labels": [1]}, "Expected indices .* for `initial`"),
        (
            {"label_filter": filters.OracleFilter("relabel"), "rejected": "skip"},
            "the same `rejected` as that of `label_filter`",
        ),
        ({"rejected": "drop"}, "rejected='drop'"),
    ],
)
def test_old_and_new_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ActiveLearner(network(), X, Y, **{"initial": [0, 1, 2], **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": {"query_size": 3}}, "dictionary of its arguments, for `query`.*'query_size'"),
        ({"refit": "warm"}, "Expected an object of type Refit.*refit='warm'"),
        ({"evaluation": (X, Y)}, "Expected an object of type Evaluation"),
    ],
)
def test_settings_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ActiveLearner(network(), X, Y, initial=[0, 1, 2], **arguments)


def test_an_unknown_keyword_is_no_old_one():
    with pytest.raises(TypeError, match="'queries'"):
        ActiveLearner(network(), X, Y, initial=[0, 1, 2], queries=3)
    assert len(inspect.signature(ActiveLearner).parameters) == 12
