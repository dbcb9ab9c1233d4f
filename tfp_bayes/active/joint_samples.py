"""Whether a model's samples are functions, as scores of several examples together need."""

import numpy as np

from tfp_bayes.prediction import Prediction


def check_joint_samples(twice: Prediction, model) -> None:
    """Raises ValueError unless a sample is one function, so that equal inputs have equal outputs.

    Args:
        twice: Of one input, given twice, with samples.
        model: What predicted.
    """
    samples = twice.samples
    if samples is None or not np.array_equal(samples[:, 0], samples[:, 1]):
        raise ValueError(
            "Expected a `model` whose samples are functions, equal for equal inputs, to score "
            f"examples together. Received: model={model!r}, which draws noise for each row. "
            "Hint: BayesianModel and Predictor draw one function for all rows."
        )
