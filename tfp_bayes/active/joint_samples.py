"""Whether a model's samples are functions, as scores of several examples together need."""

import numpy as np


def check_joint_samples(model, x: np.ndarray) -> None:
    """Raises ValueError unless a sample is one function, so that equal inputs have equal outputs.

    Args:
        model: Anything with `predict_uncertainty`.
        x: (1, ...) one input.
    """
    twice = np.concatenate([x, x])
    prediction = model.predict_uncertainty(twice, num_samples=None, seed=0, return_samples=True)
    samples = prediction.samples
    if not np.array_equal(samples[:, 0], samples[:, 1]):
        raise ValueError(
            "Expected a `model` whose samples are functions, equal for equal inputs, to score "
            f"examples together. Received: model={model!r}, which draws noise for each row. "
            "Hint: BayesianModel and Predictor draw one function for all rows."
        )
