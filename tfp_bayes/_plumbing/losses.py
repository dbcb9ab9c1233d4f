"""Names of losses, and a check that they are means."""

import keras


def loss_name(loss) -> str:
    """Return the name of a loss by which its user knows it."""
    if isinstance(loss, keras.losses.Loss) and type(loss).__name__ != "LossFunctionWrapper":
        return type(loss).__name__
    function = getattr(loss, "fn", loss)
    return getattr(function, "__name__", repr(function))


def check_likelihood(loss, reason: str) -> None:
    """Raise ValueError if a loss has an option that makes it another one than a mean NLL.

    Args:
        loss: A loss in any form that `compile` takes.
        reason: Why another loss would be wrong, for the error.
    """
    name = "beta" if loss_name(loss) == "NormalNLL" else "label_smoothing"
    value = getattr(loss, name, 0.0)
    if value:
        raise ValueError(
            f"Expected a negative log likelihood as the loss, because {reason}. Received: "
            f"{loss_name(loss)} with {name}={value!r}. Hint: compile the model without {name}."
        )


def check_mean(loss, reason: str) -> None:
    """Raise ValueError if a loss is a sum over a batch.

    Args:
        loss: A loss in any form that `compile` takes.
        reason: Why a sum would be wrong, for the error.
    """
    reduction = getattr(loss, "reduction", "sum_over_batch_size")
    if reduction not in ("sum_over_batch_size", "mean"):
        raise ValueError(
            f"Expected reduction='sum_over_batch_size' for the loss, because {reason}. Received: "
            f"{loss_name(loss)} with reduction={reduction!r}. Hint: leave `reduction` out."
        )
