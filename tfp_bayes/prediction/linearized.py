"""A model that is linear in its weights: f(x; center) + J (theta - center), before the link."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

# The operation that makes probabilities of what is linear in the weights of a last layer.
_LINKS = {"categorical": "Softmax", "bernoulli": "Sigmoid"}
_HINTS = {
    "categorical": "end the model in a softmax over the last axis, or say what else its outputs "
    "are, likelihood='bernoulli' for a sigmoid",
    "bernoulli": "end the model in a sigmoid, or say what else its outputs are, "
    "likelihood='categorical' for a softmax",
}


def before_link(p: tf.Tensor, likelihood: str) -> tf.Tensor:
    """Returns what a model's output (..., K) is made from by its softmax or sigmoid.

    Args:
        p: The output in a graph.
        likelihood: Of the output; under "normal" there is no link, and p is returned.

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
            f"Expected an output from a {link.lower()} for likelihood={likelihood!r}, to take the "
            f"derivatives of what goes into it. Received: an output from operation {p.op.type}. "
            f"Hint: {_HINTS[likelihood]}; samples of Predictor(..., linearize=False) need neither."
        )
    return p.op.inputs[0]


def linearized(
    run: Callable[[list[tf.Tensor]], object],
    center: Sequence[tf.Tensor],
    weights: Sequence[tf.Tensor],
    likelihoods: Callable[[int], list[str]],
):
    """Builds the graph of a model's outputs, linearized in its weights.

    Logits are linearized under "categorical" and "bernoulli". Under "normal" locations are, and
    scales stay those of the center: the noise is that of the data, and a line through scales would
    go below zero.

    Args:
        run: From weights to outputs (N, ..., K) in any structure.
        center: Weights to linearize at.
        weights: Weights to evaluate at.
        likelihoods: From the number of outputs to the likelihood of each.

    Returns:
        Outputs in that structure.

    Raises:
        ValueError: If an output has not the link of its likelihood, or an operation no second
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
    """Returns J delta for each output, from two backward passes.

    J^T u is linear in u, so its derivative with respect to u in the direction of delta is J delta;
    u itself is never needed. `tf.autodiff.ForwardAccumulator` does the same operation by
    operation, but not through the loops of recurrent layers.
    """
    directions = [tf.zeros_like(each) for each in outputs]
    try:
        backward = tf.gradients(outputs, weights, grad_ys=directions)
        pairs = [
            (tf.convert_to_tensor(gradient), change)  # of an embedding, which has slices
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
            f"{error}. Hint: say linearize=False, which samples the model itself."
        ) from error
