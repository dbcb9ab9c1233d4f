"""A posterior made of a few trained networks."""

from collections.abc import Sequence

import keras
import tensorflow as tf


class Ensemble(tf.Module):
    """Deep ensemble: each sample takes the trained weights of the next member.

    A posterior over weights is any object with this class' one method, `draw`. Sample s uses
    member s modulo M, so `num_samples` equal to the number of members uses each once; stochastic
    layers keep their own noise on top.

    Args:
        members: M >= 1 built models of one architecture, or their lists of trainable weights.

    Raises:
        ValueError: If the members' weights differ in number or shape.

    Reference:
        Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using
        Deep Ensembles", section 2.4, arXiv:1612.01474.

    Example:

    >>> def network():
    ...     return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
    >>> members = [network(), network()]
    >>> predictor = Predictor(members[0], posterior=Ensemble(members))
    >>> predictor.predict_uncertainty(np.ones((1, 2)), num_samples=2).mean.shape
    (1, 3)
    """

    def __init__(self, members: Sequence[keras.Model] | Sequence[Sequence[tf.Tensor]]):
        super().__init__()
        weights = [getattr(member, "trainable_variables", member) for member in members]
        shapes = {tuple(tuple(w.shape) for w in member) for member in weights}
        if len(shapes) != 1:
            raise ValueError(
                "Expected at least one member, all with weights of the same shapes, for "
                f"`members`. Received: {len(members)} members with {len(shapes)} different lists "
                "of shapes. Hint: build every member with the same function."
            )
        self.num_members = len(weights)
        # Variables, not constants: an exported graph must not carry the weights inline.
        self._stacked = [
            tf.Variable(tf.stack([tf.convert_to_tensor(w) for w in same]), trainable=False)
            for same in zip(*weights)
        ]  # each (M, ...)

    def draw(self, index: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Returns the trainable weights of sample `index`, in the model's order.

        Args:
            index: int32 scalar, the number of the sample.
            seed: int32 (2,), for posteriors that draw at random; an ensemble does not.
        """
        del seed
        return [stack[index % self.num_members] for stack in self._stacked]
