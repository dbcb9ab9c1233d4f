"""The pool: status and labels of examples, and the allowed changes."""

import numpy as np
import pytest

from tfp_bayes.active import Pool


def test_states():
    pool = Pool(6)
    pool.ignore([5])
    pool.acquire([0, 3], round=0)
    pool.acquire([1], round=2)
    np.testing.assert_array_equal(pool.acquired_at, [0, 2, -1, 0, -1, -2])
    np.testing.assert_array_equal(pool.labelled, [0, 1, 3])
    np.testing.assert_array_equal(pool.unlabelled, [2, 4])
    assert (len(pool), pool.num_acquired) == (6, 1)
    np.testing.assert_array_equal(Pool(pool.acquired_at).acquired_at, pool.acquired_at)


@pytest.mark.parametrize("move", [lambda p, i: p.acquire(i, 1), lambda p, i: p.ignore(i)])
@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([6], r"\[0, 6\).*Received: \[6\]"),
        ([-1], r"Received: \[-1\]"),
        ([2, 2], "indices, [12] different"),
        ([1], r"Received: \[1\], which are labeled or ignored"),
        ([5], "labeled or ignored"),
        ([0.5], "dtype float64"),
        ([True], "dtype bool"),
    ],
)
def test_refuses_and_changes_nothing(move, indices, message):
    pool = Pool(6)
    pool.acquire([1], round=0)
    pool.ignore([5])
    before = pool.acquired_at.copy()
    with pytest.raises(ValueError, match=message):
        move(pool, indices if indices[0] is True else [3, *indices])
    np.testing.assert_array_equal(pool.acquired_at, before)


def test_bad_arguments():
    with pytest.raises(ValueError, match="round=-1"):
        Pool(3).acquire([0], round=-1)
    with pytest.raises(ValueError, match="acquired_at=0"):
        Pool(0)
    for wrong in (2.5, "3", np.zeros(3), np.zeros([2, 2], "int64")):
        with pytest.raises(ValueError, match=r"Expected .* for `acquired_at`"):
            Pool(wrong)
    with pytest.raises(ValueError, match=r"Expected indices in \[0, 3\)"):
        Pool(3).readmit([5])
    with pytest.raises(ValueError, match="at least -2"):
        Pool(np.array([-3]))


# Answers.


def asked():
    """Return a pool of six: 0 is labeled, 5 held out, 3 and 1 proposed."""
    pool = Pool(6, truth=np.arange(6))
    pool.ignore([5])
    pool.acquire([0], round=0)
    pool.store([0], np.array([0]))
    pool.propose(np.array([3, 1]), np.array([0.7, 0.2]), np.array([[0.9, 0.1], [0.4, 0.6]]))
    return pool


def test_an_answer_waits_for_the_decision():
    pool = asked()
    assert pool.pending.tolist() == [3, 1]
    np.testing.assert_array_equal(pool.probabilities_of([1, 3]), [[0.4, 0.6], [0.9, 0.1]])
    pool.take(3, 3)
    pool.skip(1)
    assert (pool.pending.tolist(), pool.unsettled.tolist()) == ([], [3])
    assert pool.labels.tolist() == [0, -1, -1, 3, -1, -1]
    assert pool.acquired_at.tolist() == [0, -2, -1, -1, -1, -2]
    pool.take_back(1)
    pool.take_back(3)
    assert pool.pending.tolist() == [3, 1]  # in the order of the proposal
    assert pool.num_asks.tolist() == [0] * 6
    assert not pool.is_known[1:].any()


def test_rejected_answers_leave_or_are_asked_again():
    believed = np.array([True, False])
    for again in (False, True):
        pool = asked()
        pool.take(3, 3)
        pool.take(1, 4)
        assert pool.last_round == 0
        pool.settle(np.array([3, 1]), believed, round=2, again=again)
        assert pool.acquired_at.tolist() == [0, -1 if again else -2, -1, 2, -1, -2]
        assert (pool.last_round, pool.rejected_at[1]) == (2, 2)
        assert pool.pending.tolist() == ([1] if again else [])
        assert pool.labels[1] == (-1 if again else 4)
        if again:  # the second answer is final
            pool.take(1, 1)
            pool.settle(np.array([1]), np.array([False]), round=2, again=True)
            assert pool.acquired_at[1] == 2
        else:
            assert pool.rejected.tolist() == [1]
            pool.restore([1], round=3)
            assert pool.acquired_at[1] == 3
        assert pool.close_round() == {
            "num_asked": 3 if again else 2,
            "num_rejected": 1,
            "num_wrong": 1.0,
            "num_wrong_rejected": 1.0,
            "purity": 1.0 if again else 1 - 1 / 3,
        }
        assert pool.close_round()["num_asked"] == 0


def test_an_answer_replaces_one_that_the_model_was_trained_on():
    pool = asked()
    pool.take(0, 2)
    assert (pool.labels[0], pool.num_asks[0], pool.acquired_at[0]) == (2, 0, 0)


def test_a_state_is_complete_and_a_copy():
    pool, other = asked(), Pool(6)
    pool.take(3, 3)
    pool.settle(np.array([3]), np.array([True]), round=1, again=False)
    state = pool.get_state()
    other.set_state(state)
    pool.take(1, 1)
    again = other.get_state()
    assert again.record == state.record == {"tally": other.tally._asdict()}
    assert again.arrays.keys() == state.arrays.keys()
    assert set(vars(pool)) - set(state.arrays) == {"truth", "tally", "_none"}
    for name, array in state.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
    assert other.pending.tolist() == [1]
    other.skip(1)
    assert state.arrays["pending"].tolist() == [1]
