"""The validation set of a run."""

import numpy as np
import pytest

from tfp_bayes.datasets import Dataset
from tfp_bayes.studies import runs
from tfp_bayes.studies.configuration import RunConfig


@pytest.mark.parametrize(("rarest", "held_out"), [(5, 4), (49, 48), (50, 100), (60, 100)])
def test_a_rare_class_is_not_all_held_out(rarest, held_out):
    """The set has 100 images, or half of the rarest class and as many of the other."""
    labels = np.repeat([0, 2], [rarest, 200])  # no example of one class
    x = np.zeros((len(labels), 12, 12, 1), "uint8")
    data = Dataset(x, labels, x[:2], labels[-2:], ("ill", "dead", "well"))
    config = RunConfig(initial="random", initial_size=2)
    _, validation = runs.make_learner(config, data).evaluation.validation_data
    assert np.bincount(validation).tolist() == [held_out / 2, 0, held_out / 2]
