"""Checks of single arguments."""

import numpy as np
import pytest

from tfp_bayes._plumbing.checks import check_labels


@pytest.mark.parametrize("labels", [[2], [[2]], np.array([[2]], "uint8")])
def test_labels_become_class_indices(labels):
    np.testing.assert_array_equal(check_labels(labels, 1, 3), [2])


@pytest.mark.parametrize("labels", [2, [[1, 2]], [3], [-1], [1.0], [], None])
def test_other_labels_are_refused(labels):
    with pytest.raises(ValueError, match=r"integer labels in \[0, 3\), one for each example"):
        check_labels(labels, 1, 3)
