"""The pool: one integer array and its rules."""

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
        ([1], r"Received: \[1\], which are labelled or ignored"),
        ([5], "labelled or ignored"),
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
    with pytest.raises(ValueError, match="-2 or more"):
        Pool(np.array([-3]))
