"""Names of losses, and checks that they are means and likelihoods."""

import keras


def loss_name(loss) -> str:
    """Return the name of a loss by which its user knows it."""
    if isinstance(loss, keras.losses.Loss) and type(loss).__name__ != "LossFunctionWrapper":
        return type(loss).__name__
    function = getattr(loss, "fn", loss)
    return getattr(function, "__name__", repr(function))


def check_likelihood(loss, reason: str) -> None:
    """Raise ValueError if a loss has an option with which it is not the NLL of the outputs.

    With `from_logits`, the outputs are not probabilities, or the loss applies a second softmax.

    Args:
        loss: A loss in any form that `compile` takes.
        reason: Why another loss would be wrong, for the error.
    """
    shaping = "beta" if loss_name(loss) == "NormalNLL" else "label_smoothing"
    for name in (shaping, "from_logits"):
        value = getattr(loss, name, None)
        if value:
            raise ValueError(
                "Expected the negative log likelihood of the outputs as the loss, because "
                f"{reason}. Received: {loss_name(loss)} with {name}={value!r}. Hint: compile "
                f"the model without {name}, and end it in probabilities."
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
