"""Variational families for the weights of a layer."""

from tfp_bayes._plumbing.configured import get_configured
from tfp_bayes.posteriors.deterministic import Deterministic
from tfp_bayes.posteriors.low_rank_normal import LowRankNormal
from tfp_bayes.posteriors.mean_field_normal import MeanFieldNormal
from tfp_bayes.posteriors.normalizing_flow import NormalizingFlow
from tfp_bayes.posteriors.posterior import Posterior

__all__ = [
    "Deterministic",
    "LowRankNormal",
    "MeanFieldNormal",
    "NormalizingFlow",
    "Posterior",
    "get",
]

_CLASSES = {
    "deterministic": Deterministic,
    "low_rank_normal": LowRankNormal,
    "mean_field_normal": MeanFieldNormal,
    "normalizing_flow": NormalizingFlow,
}


def get(identifier: str | dict | Posterior, argument: str = "posterior") -> Posterior:
    """Return the variational family that an identifier describes.

    Args:
        identifier: A name ("mean_field_normal", "deterministic", "low_rank_normal" or
            "normalizing_flow"), which selects the family with its default arguments; a
            dictionary; or a `Posterior`, which is returned unchanged.
        argument: Name of the caller's argument, used in the error message.

    Raises:
        ValueError: If `identifier` does not describe a variational family.

    Example:

    >>> tfp_bayes.posteriors.get("low_rank_normal")
    LowRankNormal(rank=1, initial_scale=0.0067)
    """
    return get_configured(identifier, Posterior, argument, _CLASSES)
