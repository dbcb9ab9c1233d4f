"""Pools that are not arrays in memory."""

import functools
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from networks import bayesian_mlp
from processes import run_python

from tfp_bayes.active import ActiveLearner, Query, Refit, rows

X = np.random.default_rng(0).normal(size=(90, 5)).astype("float32")
Y = X[:, :3].argmax(1)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 7

    def __getitem__(self, i):
        return X[13 * i : 13 * (i + 1)], Y[13 * i : 13 * (i + 1)]


def memmap(folder):
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r")


def data_frame(folder):
    """A shuffled table, whose row labels and column numbers are not positions of rows."""
    order = np.random.default_rng(0).permutation(len(X))
    return pd.DataFrame(X, index=order)


SOURCES = {
    "memmap": memmap,
    "pandas": data_frame,
    "function": lambda folder: rows.LoadedRows(lambda i: X[i], len(X)),
    "tf.data": lambda folder: tf.data.Dataset.from_tensor_slices((X, Y)),
    "tf.data, inputs": lambda folder: tf.data.Dataset.from_tensor_slices(X),
    "PyDataset": lambda folder: Batches(),
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_rows(make, tmp_path):
    source = rows.as_rows(make(tmp_path))
    assert len(source) == len(X)
    for indices in ([5], [3, 77, 12, 89, 0], [4, 4]):
        np.testing.assert_array_equal(source[np.array(indices)], X[indices])


def test_rows_of_a_series():
    words = np.array(["a", "b", "c"])
    source = rows.as_rows(pd.Series(words, index=[2, 0, 1]))
    assert source[np.array([0, 2])].tolist() == ["a", "c"]


@functools.cache
def network():
    """Return one model to all learners, which start from new weights, so that it is traced once."""
    keras.utils.set_random_seed(0)
    model = bayesian_mlp(num_samples=5)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_a_learner_acquires_the_same_examples_as_from_an_array(make, tmp_path, monkeypatch):
    monkeypatch.setattr("tfp_bayes.active.query.AT_ONCE", 32)  # so the pool is read in parts

    def run(x):
        query, refit = Query(selector="k_center", size=3), Refit(steps=3)
        learner = ActiveLearner(network(), x, Y, initial=np.arange(4), query=query, refit=refit)
        learner.run(2)
        return learner.pool.acquired_at

    np.testing.assert_array_equal(run(make(tmp_path)), run(X))


def test_passes_that_differ_are_refused():
    """An index would mean another example in each pass, so labels would be mixed up."""
    data = tf.data.Dataset.from_tensor_slices((X, Y))

    class Augmented(Batches):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return x + np.random.default_rng().normal(size=x.shape), y

    for source in (data.shuffle(90), data.shuffle(10, seed=1), Augmented()):
        with pytest.raises(ValueError, match="same order in each pass"):
            rows.as_rows(source)
    fixed = rows.as_rows(data.shuffle(90, seed=1, reshuffle_each_iteration=False))
    assert len(fixed) == 90


def test_batches_that_change_or_have_another_size_are_refused():
    class LateNoise(Batches):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return x + (i > 3) * np.random.default_rng().normal(size=x.shape), y

    class Uneven(Batches):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return (x[:5], y[:5]) if i == 3 else (x, y)

    class Endless(Batches):
        num_batches = None

    with pytest.raises(ValueError, match="same order in each pass"):
        rows.as_rows(LateNoise())
    uneven = rows.as_rows(Uneven())
    np.testing.assert_array_equal(uneven[np.array([30, 89])], X[[30, 89]])
    with pytest.raises(ValueError, match="Received: 5 rows in batch 3 instead of 13"):
        uneven[np.array([40])]
    with pytest.raises(ValueError, match="num_batches=None"):
        rows.as_rows(Endless())


def test_endless_datasets_are_refused():
    endless = tf.data.Dataset.from_tensor_slices(X).repeat()
    with pytest.raises(ValueError, match="Received: cardinality -1"):
        rows.as_rows(endless)


def test_memory_is_bounded(tmp_path):
    # 400 MB of float32. The file is sparse, so its zeros take no disk space.
    pool = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "float32", (100_000, 1000))
    pool.flush()
    size = pool.nbytes
    del pool
    script = Path(__file__).with_name("measure_pool_memory.py")
    done = run_python(script, tmp_path / "x.npy")
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.splitlines()[-1]) < size / 4
