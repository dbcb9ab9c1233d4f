"""Checks of single arguments."""

import numpy as np
import pandas
import pytest
import tensorflow as tf

from tfp_bayes._plumbing.batches import check_finite_arrays
from tfp_bayes._plumbing.checks import check_integers, check_labels


@pytest.mark.parametrize("labels", [[2], [[2]], np.array([[2]], "uint8")])
def test_labels_become_class_indices(labels):
    np.testing.assert_array_equal(check_labels(labels, 1, 3), [2])


@pytest.mark.parametrize("labels", [2, [[1, 2]], [3], [-1], [1.0], [], None])
def test_other_labels_are_refused(labels):
    with pytest.raises(ValueError, match=r"integer labels in \[0, 3\), one for each example"):
        check_labels(labels, 1, 3)


def test_integers_are_not_booleans():
    check_integers(1, size=np.int64(1), number=3)
    for value in (True, np.True_, 1.0, "1", None, 0):
        with pytest.raises(ValueError, match=f"size={value!r}"):
            check_integers(1, size=value)


@pytest.mark.parametrize(
    "make",
    [
        pandas.DataFrame,
        tf.constant,
        lambda x: tf.constant(x, tf.bfloat16),
        lambda x: {"a": np.arange(4), "b": x},
    ],
)
def test_data_of_any_type_are_finite(make):
    x = np.ones((4, 2))
    check_finite_arrays(make(x))
    x[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"in the examples \[2\], 1 of the 4"):
        check_finite_arrays(make(x))
