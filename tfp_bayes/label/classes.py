"""The classes among which a person chooses, and the class that a model predicts."""

from collections.abc import Sequence

import numpy as np

from tfp_bayes._plumbing.probabilities import two_classes
from tfp_bayes.prediction.targets import ClassNumbers, Targets, ZerosAndOnes


def check_class_names(targets: Targets, class_names: Sequence[str]) -> list[str]:
    """Return the names as a list, after checking that there is one for each class.

    Args:
        targets: Kind of labels that the model predicts.
        class_names: Names of the classes: K for a softmax, those of 0 and 1 for one sigmoid.

    Raises:
        ValueError: If a label is not the class of an example, or the names are not different names,
            one for each class.
    """
    one_sigmoid = isinstance(targets, ZerosAndOnes) and targets.num_outputs == 1
    if targets.shape or not (one_sigmoid or isinstance(targets, ClassNumbers)):
        raise ValueError(
            "Expected a model that predicts one class for each image. Received: a model that "
            f"predicts {targets.described}, of shape {targets.shape}. "
            "Hint: use propose() and tell() of the learner for other labels."
        )
    names = list(class_names)
    size = 2 if one_sigmoid else targets.num_outputs
    if len(names) != size or len(set(names)) != size or "" in names:
        raise ValueError(
            f"Expected {size} different names for `class_names`. Received: {names}. "
            "Hint: list one name for each class, in the order of the model's outputs."
        )
    return names


def predicted_class(targets: Targets, mean: np.ndarray) -> tuple[int, float | None]:
    """Return the most likely class and its probability, from a predictive mean (K,).

    The probability is None for a regression on one-hot labels, whose mean is no probability.
    """
    if isinstance(targets, ZerosAndOnes):
        mean = two_classes(mean[None])[0]
    elif not targets.names_a_class:
        return int(mean.argmax()), None
    return int(mean.argmax()), float(mean.max())
