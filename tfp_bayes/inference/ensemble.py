"""A posterior that consists of a few trained networks."""

from collections.abc import Sequence

import keras
import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes.inference.architecture import describe_architecture, find_difference
from tfp_bayes.inference.stored_posterior import StoredPosterior


class Ensemble(StoredPosterior):
    """A deep ensemble, made from networks that are already trained.

    Each sample is exactly one member: it uses a copy of all the member's weights, including the
    statistics of `BatchNormalization` and any other state of its layers. Stochastic layers still
    add their own noise. To train the members too, use `DeepEnsemble`.

    Args:
        members: M >= 1 built models of the same architecture, or their `get_weights()`.
        model: The model that a `Predictor` will run. None uses the first member.
        combine: "mean" or "vote", see `StoredPosterior`.

    Raises:
        ValueError: If the members differ in architecture or shapes, or if they are lists of
            weights and there is no `model`.

    Reference:
        Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using
        Deep Ensembles", section 2.4, arXiv:1612.01474.

    Example:

    >>> def network():
    ...     return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
    >>> members = [network(), network()]
    >>> predictor = Predictor(members[0], posterior=Ensemble(members))
    >>> predictor.predict_uncertainty(np.ones((1, 2))).mean.shape
    (1, 3)
    """

    def __init__(
        self,
        members: Sequence[keras.Model] | Sequence[Sequence[ArrayLike]],
        model: keras.Model | None = None,
        combine: str = "mean",
    ):
        members = list(members)
        models = [member for member in members if isinstance(member, keras.Model)]
        if model is None and models:
            model = models[0]
        if model is None or not members:
            raise ValueError(
                "Expected at least one model in `members`, or lists of weights and a `model`. "
                f"Received: {len(members)} members, model=None. "
                "Hint: Ensemble([m.get_weights() for m in models], model=models[0])."
            )
        _check_architectures([model, *models])
        weights = [m.get_weights() if isinstance(m, keras.Model) else list(m) for m in members]
        shapes = [tuple(w.shape) for w in model.weights]
        for i, member in enumerate(weights):
            found = [np.shape(w) for w in member]
            if found != shapes:
                raise ValueError(
                    f"Expected members with weights of shapes {shapes}. Received: member {i} "
                    f"with {found}. Hint: use get_weights() of models built by the same function; "
                    "it includes non-trainable weights."
                )
        super().__init__(model, [np.stack(same) for same in zip(*weights)], combine=combine)


def _check_architectures(models: Sequence[keras.Model]) -> None:
    first = describe_architecture(models[0])
    for model in models[1:]:
        difference = find_difference(first, describe_architecture(model))
        if difference is not None:
            raise ValueError(
                "Expected models of the same architecture for `members`. "
                f"Received: {models[0].name!r} and {model.name!r}, which differ in {difference}. "
                "Hint: build every member with the same function and the same arguments."
            )
