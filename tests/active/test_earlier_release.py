"""What 0.1 wrote and how it was called: its checkpoints load, or are refused by name.

`data/release_0_1.npz` and its journal are of the learner in `make`, after `run(2)`, `propose()`,
two labels told by "page" and one example skipped.
"""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from tfp_bayes import BayesianModel
from tfp_bayes.active import ActiveLearner, NoisyOracle
from tfp_bayes.layers import MCDropout

DATA = Path(__file__).with_name("data")
X = ((np.arange(160) * 7919 % 101) / 101).astype("float32").reshape(40, 4)
Y = X[:, :3].argmax(1)


def network():
    inputs = keras.Input((4,))
    hidden = MCDropout(0.3)(keras.layers.Dense(4, activation="relu")(inputs))
    outputs = keras.layers.Dense(3, activation="softmax")(hidden)
    model = BayesianModel(inputs, outputs, num_samples=4)
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    return model


def make(checkpoint, **kwargs):
    arguments = {
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
    return ActiveLearner(network(), X, Y, checkpoint=checkpoint, **{**arguments, **kwargs})


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The files, and what is in them."""
    path = tmp_path / "release_0_1.npz"
    for file in DATA.iterdir():
        shutil.copy(file, tmp_path)
    arrays = dict(np.load(path))
    record = json.loads(arrays.pop("record").tobytes())
    # Another version of Keras describes a network in other words; the rest is this package's.
    same = record["identity"]["network"]
    monkeypatch.setattr("tfp_bayes.active.learner.digest_network", lambda model: same)
    return path, arrays, record


def test_a_checkpoint_is_continued(written):
    path, arrays, record = written
    learner = make(path)
    for i, variable in enumerate(learner.model.variables):
        np.testing.assert_array_equal(variable.numpy(), arrays[f"weight_{i}"])
    np.testing.assert_array_equal(learner.pool.acquired_at[[0, 1, 2]], 0)
    for row, saved in zip(learner.history, record["history"], strict=True):
        assert vars(row) == pytest.approx(saved, nan_ok=True)
    # The journal goes on where the checkpoint ends: two labels and a skip.
    told, labels, skipped = [3, 7], [0, 1], 20
    np.testing.assert_array_equal(learner.labels[told], labels)
    assert learner.pool.acquired_at[skipped] == -2
    assert learner.pending.tolist() == [13]
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
