"""Linearization of a model in its weights: f(x; center) + J (theta - center), before the link."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

# The operation that turns logits into probabilities.
_LINKS = {"categorical": "Softmax", "bernoulli": "Sigmoid"}
_HINTS = {
    "categorical": "end the model in a softmax over the last axis, or pass "
    "likelihood='bernoulli' for a sigmoid",
    "bernoulli": "end the model in a sigmoid, or pass likelihood='categorical' for a softmax",
}


def before_link(p: tf.Tensor, likelihood: str) -> tf.Tensor:
    """Return the logits (..., K) of a model's output, the input of its softmax or sigmoid.

    Args:
        p: Output in a graph.
        likelihood: Likelihood of the output. For "normal" there is no link, and p is returned.

    Raises:
        ValueError: If the output comes from another operation.
    """
    link = _LINKS.get(likelihood)
    if link is None:
        return p
    while p.op.type == "Identity":
        p = p.op.inputs[0]
    if p.op.type != link:
        raise ValueError(
            f"Expected an output from a {link.lower()} for likelihood={likelihood!r}, because its "
            f"logits are linearized. Received: an output from operation {p.op.type}. "
            f"Hint: {_HINTS[likelihood]}; Predictor(..., linearize=False) works without logits."
        )
    return p.op.inputs[0]


def linearized(
    run: Callable[[list[tf.Tensor]], object],
    center: Sequence[tf.Tensor],
    weights: Sequence[tf.Tensor],
    likelihoods: Callable[[int], list[str]],
):
    """Build the graph of a model's outputs, linearized in its weights.

    For "categorical" and "bernoulli", the logits are linearized. For "normal", the locations are
    linearized, and the scales stay at their values for the center: they describe the noise of the
    data, and linearized scales could be negative.

    Args:
        run: Function from weights to outputs (N, ..., K) in any structure.
        center: Weights at which to linearize.
        weights: Weights at which to evaluate.
        likelihoods: Function from the number of outputs to the name of each output's likelihood.

    Returns:
        Outputs in the same structure.

    Raises:
        ValueError: If an output lacks the link of its likelihood, or an operation has no second
            derivative.
    """
    center = [tf.identity(each) for each in center]
    outputs = run(center)
    flat = keras.tree.flatten(outputs)
    names = likelihoods(len(flat))
    etas = [before_link(p, name) for p, name in zip(flat, names)]
    changes = _jvp(etas, center, [w - c for w, c in zip(weights, center)])
    result = [_link(*each) for each in zip(etas, changes, names)]
    return keras.tree.pack_sequence_as(outputs, result)


def _link(eta: tf.Tensor, change: tf.Tensor, likelihood: str) -> tf.Tensor:
    if eta.dtype != tf.float64:
        eta, change = tf.cast(eta, tf.float32), tf.cast(change, tf.float32)
    if likelihood == "categorical":
        return tf.nn.softmax(eta + change)
    if likelihood == "bernoulli":
        return tf.sigmoid(eta + change)
    half = eta.shape[-1] // 2
    return tf.concat([(eta + change)[..., :half], eta[..., half:]], axis=-1)


def _jvp(
    outputs: list[tf.Tensor], weights: list[tf.Tensor], changes: list[tf.Tensor]
) -> list[tf.Tensor]:
    """Return J delta for each output, from two backward passes.

    J^T u is linear in u, so the derivative of delta^T J^T u with respect to u is J delta, for any
    u. `tf.autodiff.ForwardAccumulator` computes the same, operation by operation, but does not
    support the loops of recurrent layers.
    """
    directions = [tf.zeros_like(each) for each in outputs]
    try:
        backward = tf.gradients(outputs, weights, grad_ys=directions)
        pairs = [
            (tf.convert_to_tensor(gradient), change)  # an embedding's gradient is IndexedSlices
            for gradient, change in zip(backward, changes)
            if gradient is not None
        ]
        if not pairs:
            return directions
        return tf.gradients(
            [gradient for gradient, _ in pairs],
            directions,
            grad_ys=[change for _, change in pairs],
            unconnected_gradients="zero",
        )
    except LookupError as error:
        raise ValueError(
            "Expected layers that can be differentiated twice for linearize=True. Received: "
            f"{error}. Hint: use linearize=False, which samples the model itself."
        ) from error
