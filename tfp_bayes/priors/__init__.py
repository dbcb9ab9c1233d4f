"""Priors on weights."""

from typing import overload

from tfp_bayes._plumbing.configured import get_configured
from tfp_bayes.priors.elementwise_normal import ElementwiseNormal
from tfp_bayes.priors.hierarchical_normal import HierarchicalNormal
from tfp_bayes.priors.laplace import Laplace
from tfp_bayes.priors.normal import Normal
from tfp_bayes.priors.prior import Prior
from tfp_bayes.priors.scale_mixture import ScaleMixture
from tfp_bayes.priors.student_t import StudentT

__all__ = [
    "ElementwiseNormal",
    "HierarchicalNormal",
    "Laplace",
    "Normal",
    "Prior",
    "ScaleMixture",
    "StudentT",
    "get",
]

_CLASSES = {
    "elementwise_normal": ElementwiseNormal,
    "hierarchical_normal": HierarchicalNormal,
    "laplace": Laplace,
    "normal": Normal,
    "scale_mixture": ScaleMixture,
    "student_t": StudentT,
}


@overload
def get(identifier: str | dict | Prior, argument: str = "prior") -> Prior: ...
@overload
def get(identifier: None, argument: str = "prior") -> None: ...
def get(identifier: str | dict | Prior | None, argument: str = "prior") -> Prior | None:
    """Return the prior that an identifier describes.

    Args:
        identifier: A name ("normal", "laplace", "scale_mixture", "student_t",
            "hierarchical_normal" or "elementwise_normal"), which selects the prior with its
            default arguments; a dictionary; a `Prior`, which is returned unchanged; or None for
            a flat prior.
        argument: Name of the caller's argument, used in the error message.

    Returns:
        The prior, or None for a flat prior.

    Raises:
        ValueError: If `identifier` does not describe a prior.

    Example:

    >>> tfp_bayes.priors.get("laplace")
    Laplace(loc=0.0, scale=1.0)
    """
    return None if identifier is None else get_configured(identifier, Prior, argument, _CLASSES)
