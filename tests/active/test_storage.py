"""A learner's files: restored from the journal, bound to one run, written by one process."""

import errno
import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from learners import arranged

from tfp_bayes import BayesianModel
from tfp_bayes._plumbing import checkpoint, journal, lock
from tfp_bayes.active import ActiveLearner, Annotators, NoisyOracle
from tfp_bayes.active.filters import StaticThreshold
from tfp_bayes.layers import MCDropout, NormalParameters
from tfp_bayes.losses import NormalNLL

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype("float32")
Y = X[:, :3].argmax(1)


def network(rate=0.3, learning_rate=0.01):
    inputs = keras.Input((4,))
    hidden = MCDropout(rate)(keras.layers.Dense(8, activation="relu")(inputs))
    outputs = keras.layers.Dense(3, activation="softmax")(hidden)
    model = BayesianModel(inputs, outputs, num_samples=4)
    model.compile(keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy")
    return model


MODEL = []  # shared, because each training starts from new weights and nothing is traced again


def learner(path, **kwargs):
    if not MODEL:
        MODEL.append(network())
    arguments = {
        "model": MODEL[0],
        "x": X,
        "y": Y,
        "initial": [0, 1, 2],
        "ignore": np.arange(50, 60),
        "query_size": 4,
        "steps": 4,
        "checkpoint": path,
    }
    return ActiveLearner(**arranged(**{**arguments, **kwargs}))


def state(of):
    arrays, record = of.get_state()
    nlls = [(row["num_acquired"], row["num_rejected"]) for row in record["history"]]
    return {name: np.array(value) for name, value in arrays.items()}, nlls


def assert_same(a, b):
    (arrays, rows), (others, other_rows) = a, b
    assert arrays.keys() == others.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(value, others[name], err_msg=name)
    assert rows == other_rows


def flip(content):
    changed = bytearray(content)
    changed[len(content) // 2] ^= 4
    return bytes(changed)


DAMAGES = [lambda c: c[: len(c) // 2], lambda c: b"", flip]


def hand_label(path, **kwargs):
    """Label as a person does: tell, skip, take back, import and correct."""
    asking = learner(path, oracle=None, **kwargs)
    for _ in range(2):
        a, b, c, d = asking.propose().tolist()
        asking.tell([a, b], [2, 1], who="page")
        asking.skip([c])
        asking.take_back([a])
        asking.tell([a, d], [0, 0])
    other = asking.pool.unlabelled[-1]
    asking.merge([other, b, 0], [1, 2, 2])
    asking.propose()
    first = asking.pool.pending[0]
    asking.tell(first, 1)
    return asking


def test_hand_labels_survive_a_damaged_checkpoint(tmp_path):
    path = tmp_path / "c.npz"
    expected = state(hand_label(path, y=None, initial=([0, 1, 2], Y[:3])))
    assert expected[1] == [(0, 0), (3, 0), (7, 0)]
    content = path.read_bytes()
    for damage in DAMAGES:
        path.write_bytes(damage(content))
        with pytest.warns(UserWarning, match="is restored from c.npz.answers.jsonl"):
            again = learner(path, oracle=None, y=None, initial=([0, 1, 2], Y[:3]))
        assert_same(state(again), expected)
        assert path.with_name("c.npz.damaged").read_bytes() == damage(content)
    path.unlink()
    assert_same(state(learner(path, oracle=None, y=None, initial=([0, 1, 2], Y[:3]))), expected)
    # An intact checkpoint is loaded as it is, without training again.
    path.write_bytes(content)
    assert_same(state(learner(path, oracle=None, y=None, initial=([0, 1, 2], Y[:3]))), expected)
    assert path.read_bytes() == content


@pytest.mark.parametrize("rejected", ["relabel", "quarantine"])
def test_a_filtered_run_is_restored(rejected, tmp_path):
    def make(path):
        oracle = NoisyOracle(Y, 0.5, resample=True)
        return learner(path, oracle=oracle, label_filter=StaticThreshold(0.4, rejected))

    path = tmp_path / "c.npz"
    part = make(path)
    part.run(2)
    assert sum(row.num_rejected for row in part.history)
    whole = make(None)
    whole.run(3)
    path.write_bytes(b"")
    with pytest.warns(UserWarning, match="restored"):
        again = make(path)
    again.run(3)
    assert_same(state(again), state(whole))


@pytest.mark.parametrize(
    ("stage", "count"), [("ask", 2), ("checkpoint", 7), ("tell", 2), ("fit", 3)]
)
def test_annotators_resume_with_their_earlier_answers(stage, count, tmp_path):
    """A run stops at a stage of its second round and resumes with new objects."""

    class KilledError(Exception):
        pass

    seen = []

    def stop(name):
        seen.append(name)
        if name == stage and seen.count(stage) == count:
            raise KilledError

    def make(path, **kwargs):
        members = [NoisyOracle(Y, rate, seed=s) for s, rate in enumerate((0.1, 0.6, 0.6))]
        team = Annotators(members, 3, "dawid_skene")
        return learner(path, oracle=team, **kwargs)

    with pytest.raises(KilledError):
        make(tmp_path / "c.npz", on_stage=stop).run(4)
    again, whole = make(tmp_path / "c.npz"), make(None)
    again.run(4)
    whole.run(4)
    assert whole.oracle.answers.shape == (3, 16)
    assert_same(state(again), state(whole))


def test_labels_of_several_real_numbers_are_restored(tmp_path):
    real = (X[:, :2] * np.pi).astype("float64")
    inputs = keras.Input((4,))
    outputs = NormalParameters()(keras.layers.Dense(4)(MCDropout(0.1)(inputs)))
    model = BayesianModel(inputs, outputs, likelihood="normal", num_samples=4)
    model.compile("adam", NormalNLL())
    path = tmp_path / "c.npz"

    def make():
        return learner(path, model=model, y=real, acquisition="predictive_variance", oracle=None)

    asking = make()
    a, b, c, d = asking.propose()
    asking.tell([a, b], real[[a, b]])
    assert asking.merge([c, b], real[[c, b]]) == (1, 1, 0)
    assert asking.merge([b], real[[b]] + 1e-12) == (0, 0, 1)
    for damage in (lambda c: c, flip):
        path.write_bytes(damage(path.read_bytes()))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is restored")
            again = make()
        assert_same(state(again), state(asking))
        np.testing.assert_array_equal(again.labels[[a, c]], real[[a, c]])
        assert np.isnan(again.labels[d]).all()


def test_a_line_that_is_damaged_too(tmp_path):
    path = tmp_path / "c.npz"
    asking = hand_label(path)
    file = path.with_name("c.npz.answers.jsonl")
    lines = file.read_bytes().split(b"\n")
    lost = asking.labels.copy()
    lines[1] = lines[1].replace(b'"label": 2', b'"label": 0')
    file.write_bytes(b"\n".join(lines))
    # The checkpoint holds that answer.
    with pytest.warns(UserWarning, match=r"damaged lines \[2\], 0 answers lost"):
        again = learner(path, oracle=None)
    np.testing.assert_array_equal(again.labels, lost)


def test_a_lost_journal_is_started_again(tmp_path):
    path = tmp_path / "c.npz"
    hand_label(path)
    whole = learner(path, oracle=None)
    whole.train()
    path.with_name("c.npz.answers.jsonl").unlink()
    again = learner(path, oracle=None)
    assert_same(state(again), state(whole))
    asked = again.propose()
    again.tell(asked[:1], [2])
    assert learner(path, oracle=None).labels[asked[0]] == 2


# Identity.


def noisy(**changes):
    return NoisyOracle(**{"labels": Y, "rate": 0.1, **changes})


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("x", lambda: {"x": X[np.random.default_rng(1).permutation(60)]}),
        ("x", lambda: {"x": X + 1e-6}),
        ("y", lambda: {"y": (Y + 1) % 3}),
        ("ignored", lambda: {"ignore": np.arange(49, 59)}),
        ("test_data", lambda: {"test_data": (X[50:], Y[50:])}),
        ("validation_data", lambda: {"validation_data": (X[50:], Y[50:])}),
        ("network", lambda: {"model": network(rate=0.5)}),
        ("network", lambda: {"model": network(learning_rate=0.1)}),
        ("oracle", lambda: {"oracle": noisy(seed=1)}),
        ("oracle", lambda: {"oracle": noisy(rate=0.2)}),
        ("oracle", lambda: {"oracle": None}),
    ],
)
def test_another_run_is_not_continued(name, other, tmp_path):
    path = tmp_path / "c.npz"
    learner(path, oracle=noisy())
    learner(path, oracle=noisy(), model=network())  # names of layers may differ
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"Received: {name}='?.* \(was '[^,]*\. Hint"):
        learner(path, **{"oracle": noisy(), **other()})
    path.unlink()  # the journal refuses it too
    with pytest.raises(ValueError, match=rf"Received: {name}="):
        learner(path, **{"oracle": noisy(), **other()})
    path.write_bytes(before)


def test_a_checkpoint_of_an_earlier_release_is_refused(tmp_path):
    path = tmp_path / "c.npz"
    np.savez(path, record=np.frombuffer(b'{"config": {}}', "uint8"), labels=np.arange(3))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"format 2 at .*Received: format 1 \(before the journal"):
        learner(path)
    assert path.read_bytes() == before


# Locks.

HOLDS = """
import runpy, sys
from pathlib import Path
lock = runpy.run_path(sys.argv[1])["lock_of"](Path(sys.argv[2]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_writes(tmp_path):
    path = tmp_path / "c.npz"
    proposed = learner(path).propose()
    command = [sys.executable, "-c", HOLDS, lock.__file__, path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        process.stdout.readline()
        before = {file: file.read_bytes() for file in tmp_path.iterdir()}
        reading = learner(path)
        np.testing.assert_array_equal(reading.propose(), proposed)
        for action in (
            reading.lock,
            lambda: reading.tell(proposed, Y[proposed]),
            lambda: reading.merge(proposed, Y[proposed]),
            reading.train,
        ):
            with pytest.raises(OSError, match=f"in use by process {process.pid} on "):
                action()
        assert (reading.labels[3:] == -1).all()
        assert before == {file: file.read_bytes() for file in tmp_path.iterdir()}
        process.stdin.close()
    reading.tell(proposed, Y[proposed])


def test_an_older_learner_does_not_write_over_a_newer_one(tmp_path):
    path = tmp_path / "c.npz"
    older = learner(path)
    a, b, *_ = older.propose()
    newer = learner(path)
    newer.tell([a], [2])
    with pytest.raises(OSError, match="another learner has written there since"):
        older.tell([a], [1])
    assert older.labels[a] == -1
    newer.tell([b], [0])
    again = learner(path)
    assert again.labels[[a, b]].tolist() == [2, 0]


def test_a_full_disk_refuses_the_answer_and_keeps_the_others(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    asking = learner(path)
    a, b, c, d = asking.propose()
    asking.tell([a], [1])

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "fsync", full)
        for action in (lambda: asking.tell([b, c], [2, 2]), lambda: asking.skip([d])):
            with pytest.raises(OSError, match="No space left"):
                action()
    assert asking.pool.pending.tolist() == [b, c, d]
    asking.tell([c], [0])
    again = learner(path)
    assert again.labels[[a, b, c, d]].tolist() == [1, -1, 0, -1]
    assert again.pool.pending.tolist() == [b, d]


def test_an_answer_needs_no_room_for_a_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    asking = learner(path)
    a, *_ = asking.propose()

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save", full)
    asking.tell([a], [1])
    monkeypatch.undo()
    assert learner(path).labels[a] == 1


# Merged answers.


def test_indices_are_whole_numbers():
    """Other numbers must not be truncated, or labels would be stored for the wrong examples."""
    with pytest.raises(ValueError, match=r"integers for `ignore`.*dtype bool.*flatnonzero"):
        learner(None, ignore=np.zeros(60, bool))
    asking = learner(None)
    proposed = asking.propose()
    for indices in (proposed[:1] + 0.5, proposed == proposed[0]):
        labels = Y[: len(indices)]
        for action in (asking.merge, asking.tell):
            with pytest.raises(ValueError, match="integers for `indices`"):
                action(indices, labels)
        for action in (asking.skip, asking.take_back):
            with pytest.raises(ValueError, match="integers for `indices`"):
                action(indices)
    assert asking.pool.pending.tolist() == proposed.tolist()
    assert asking.merge([], []) == (0, 0, 0)


def test_merged_twice_is_merged_once(tmp_path):
    path = tmp_path / "c.npz"
    asking = learner(path, oracle=None)
    proposed = asking.propose()
    labels = (Y[proposed] + 1) % 3
    assert asking.merge(proposed[:3], labels[:3]) == (3, 0, 0)
    size = path.with_name("c.npz.answers.jsonl").stat().st_size
    assert learner(path, oracle=None).merge(proposed[:3], labels[:3]) == (0, 3, 0)
    assert path.with_name("c.npz.answers.jsonl").stat().st_size == size
    again = learner(path, oracle=None)
    assert again.merge(proposed, (labels + 1) % 3) == (1, 0, 3)
    np.testing.assert_array_equal(again.labels[proposed], (labels + 1) % 3)
    again.train()
    assert again.merge(proposed[:1], labels[:1]) == (0, 0, 1)  # trained on, then corrected
    assert again.labels[proposed[0]] == labels[0]
    assert again.pool.num_acquired == 4


def test_an_earlier_file_does_not_undo_a_later_answer():
    asking = learner(None, oracle=None)
    (a, *_) = asking.propose()
    assert asking.merge([a], [0], sources=["export 1"]) == (1, 0, 0)
    assert asking.merge([a], [1], sources=["export 2"]) == (0, 0, 1)
    assert asking.merge([a], [0], sources=["export 1"]) == (0, 1, 0)
    assert asking.labels[a] == 1
    assert asking.merge([a], [0], sources=["export 3"]) == (0, 0, 1)  # changed back


def test_skipped_examples_can_be_labeled_and_held_out_ones_cannot():
    asking = learner(None, oracle=None)
    a, b, c, d = asking.propose()
    asking.skip([a, b, c, d])
    asking.train()
    assert asking.merge([a], [1]) == (1, 0, 0)
    asking.train()
    assert asking.pool.acquired_at[a] == 2
    for indices in ([b, 55], [60], [-1], [b, b]):
        with pytest.raises(ValueError, match="Expected each index once, of examples in"):
            asking.merge(indices, [0] * len(indices))
    assert asking.pool.acquired_at[b] == -2
