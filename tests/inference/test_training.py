"""Tests of resumable training: order of examples, bit-identical results after interruptions."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_bayes
from tfp_bayes.inference.training import _shuffled, train

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(50, 4)).astype("float32"), RNG.integers(0, 3, 50)


def network():
    """Build a network with all kinds of state: statistics, noise, moments of Adam."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(8, "relu")(inputs))
    x = tfp_bayes.layers.MCDropout(0.3)(keras.layers.Dropout(0.2)(x))
    model = tfp_bayes.BayesianModel(inputs, keras.layers.Dense(3, "softmax")(x), prior_scale=1.0)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


class Counter(keras.callbacks.Callback):
    """A recorder of the sum of a weight over epochs, which can interrupt the run."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.total = np.zeros(())
        self.stop_at = stop_at

    def on_epoch_end(self, epoch, logs=None):
        self.total = self.total + self.model.weights[0].numpy().sum(dtype="float64")

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.stop_at:
            raise KeyboardInterrupt

    def get_state(self):
        return {"total": self.total}

    def set_state(self, state):
        self.total = state["total"]


def run(path=None, stop_at=None, **changed):
    model, counter = network(), Counter(stop_at)
    arguments = {"epochs": 5, "seed": 3, "batch_size": 16, "verbose": 0, **changed}
    train(model, X, Y, recorder=counter, path=path, **arguments)
    return [counter.total, *(v.numpy() for v in [*model.variables, *model.optimizer.variables])]


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    expected = run()
    path = tmp_path / "run.npz"
    for stop_at in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(path, stop_at)
    for found in (run(path), run(path)):  # the second has nothing left to do
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_each_epoch_has_all_rows_in_an_order_of_its_own():
    data = _shuffled((tf.range(10),), 5, range(0, 3), batch_size=4)
    batches = [batch[0].numpy() for batch in data]
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    epochs = np.concatenate(batches).reshape(3, 10)
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert len(np.unique(epochs, axis=0)) == 3
    later = [batch[0].numpy() for batch in _shuffled((tf.range(10),), 5, range(2, 3), 4)]
    np.testing.assert_array_equal(np.concatenate(later), epochs[2])


def test_another_run_is_not_continued(tmp_path):
    path = tmp_path / "run.npz"
    with pytest.raises(KeyboardInterrupt):
        run(path, stop_at=1)
    for changed in ({"seed": 4}, {"batch_size": 8}, {"settings": {"members": 2}}):
        with pytest.raises(ValueError, match="Expected the configuration of the run"):
            run(path, **changed)
    with pytest.raises(ValueError, match=r"Expected the configuration of the run.*data"):
        train(network(), X[::-1], Y, epochs=5, seed=3, batch_size=16, path=path, settings=None)


def test_bad_arguments():
    with pytest.raises(ValueError, match="Expected a compiled `model`"):
        train(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), X, Y, epochs=1)
    with pytest.raises(ValueError, match="Expected `validation_data`"):
        train(network(), X, Y, epochs=1, validation_split=0.1)
    for argument in ({"steps_per_epoch": 2}, {"shuffle": False}):
        with pytest.raises(ValueError, match=f"arrays,.* {next(iter(argument))}="):
            train(network(), X, Y, epochs=1, **argument)
    for argument in ("initial_epoch", "learning_rate"):
        with pytest.raises(ValueError, match=rf"among batch_size, .*Received: {argument}=1"):
            train(network(), X, Y, epochs=1, **{argument: 1})
    with pytest.raises(ValueError, match="batch_size=True"):
        train(network(), X, Y, epochs=1, batch_size=True)
    with pytest.raises(ValueError, match=r"numbers for `y`.* such as \['"):
        train(network(), X, Y.astype(str), epochs=1)
    for weight in (-1.0, np.nan):
        with pytest.raises(ValueError, match="at least 0 for `sample_weight`"):
            train(network(), X, Y, epochs=1, sample_weight=np.full(50, weight))
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    with pytest.raises(ValueError, match="yields its own targets"):
        train(network(), data, Y, epochs=1)
    with pytest.raises(ValueError, match="an infinite"):
        train(network(), data.repeat(), epochs=1)
    model = network()
    model.compile("sgd", "sparse_categorical_crossentropy", steps_per_execution=3)
    with pytest.raises(ValueError, match="divides the 4 batches"):
        train(model, X, Y, epochs=1, batch_size=16)


def test_inputs_that_are_not_finite_are_named():
    x = X.copy()
    x[7, 2] = np.nan  # ReLU would hide it, and the loss may stay finite
    with pytest.raises(ValueError, match=r"in the examples \[7\], 1 of the 50"):
        train(network(), x, Y, epochs=1, seed=0, batch_size=16)


def test_batches_of_a_py_dataset_keep_their_order():
    class Batches(keras.utils.PyDataset):
        num_batches = 8
        seen = []

        def __getitem__(self, i):
            self.seen.append(i)
            return X[6 * i : 6 * i + 6], Y[6 * i : 6 * i + 6]

    data = Batches()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    train(model, data, epochs=1, verbose=0)
    assert data.seen[-8:] == list(range(8))  # before these, Keras reads some batches for their spec


def test_fresh_weights_keep_what_is_frozen_or_adapted():
    from tfp_bayes._plumbing.fresh import initialize

    keras.utils.set_random_seed(0)
    normalization = keras.layers.Normalization()
    normalization.adapt(3 + 2 * X)
    frozen = keras.layers.Dense(8, "relu", trainable=False)
    model = keras.Sequential(
        [keras.Input((4,)), normalization, frozen, keras.layers.Dense(3, "softmax")]
    )
    before = model.get_weights()
    initialize(model, 7)
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights())]
    names = [v.path for v, is_new in zip(model.weights, changed) if is_new]
    assert names == [model.layers[-1].kernel.path]


def test_lists_of_inputs_and_targets_are_as_tuples():
    """A list would become one array in the pipeline, if its arrays have the same shape."""

    def trained(kind):
        keras.utils.set_random_seed(0)
        inputs = [keras.Input((4,)), keras.Input((4,))]
        hidden = keras.layers.Dense(3, "relu")(keras.layers.Concatenate()(inputs))
        outputs = [keras.layers.Dense(3, "softmax")(hidden) for _ in range(2)]
        model = keras.Model(inputs, outputs)
        model.compile("sgd", ["sparse_categorical_crossentropy"] * 2)
        train(model, kind([X, X[::-1]]), kind([Y, Y[::-1]]), epochs=2, batch_size=16, verbose=0)
        return model.get_weights()

    for a, b in zip(trained(list), trained(tuple), strict=True):
        np.testing.assert_array_equal(a, b)
