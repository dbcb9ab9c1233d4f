"""The gradient of a function of the predictive mean with respect to the inputs."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes.prediction.inputs import signature
from tfp_bayes.prediction.predictor import Predictor
from tfp_bayes.prediction.split import tensors_of


class MeanGradient:
    """The loss of a predictive mean, and its gradient with respect to an image or other input.

    For a loss L of the mean p = 1/S sum_s f(x; theta_s), the gradient is

        dL/dx = sum_s (df(x; theta_s)/dx)^T (1/S dL/dp).

    This sum over samples is streamed like a prediction: memory does not grow with S, and the
    deterministic layers before the first random one run only once, forward and backward.

    Args:
        predictor: Predictor of a model with one input array and one output of probabilities.
        loss: TensorFlow function that takes the mean (N, ..., K) and targets, and returns the
            losses (N,).
    """

    def __init__(self, predictor: Predictor, loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]):
        self._predictor = predictor
        self._loss = loss
        self._compiled: Callable | None = None

    def __call__(
        self, x: np.ndarray, targets: np.ndarray, num_samples: int, seed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return losses (N,) and their gradients in the shape of x.

        Args:
            x: Inputs (N, ...), float.
            targets: Targets (N, ..., K) of the loss, float, in the shape of the mean.
            num_samples: Number of samples S >= 1.
            seed: int32 pair. The same seed gives the same theta_s as in `predict_uncertainty`.

        Raises:
            ValueError: If the model's outputs cannot be differentiated.
        """
        if self._compiled is None:
            self._compiled = tf.function(
                self._stream,
                input_signature=[
                    signature(self._predictor.model, x),
                    tf.TensorSpec([None, *targets.shape[1:]], targets.dtype),
                    tf.TensorSpec([], tf.int32),
                    tf.TensorSpec([2], tf.int32),
                ],
                autograph=False,
            )
        return tuple(each.numpy() for each in self._compiled(x, targets, num_samples, seed))

    def _stream(self, x, targets, num_samples, seed):
        with tf.GradientTape() as prefix:
            prefix.watch(x)
            shared = self._predictor.share(x)
        flat = [each for each in tensors_of(shared) if each.dtype.is_floating]

        def add_outputs(s, total):
            outputs = self._predictor.draw(shared, s, seed)
            return total + tf.cast(_only(outputs), total.dtype)

        def add_gradients(s, totals):
            with tf.GradientTape() as tape:
                tape.watch(flat)
                outputs = _only(self._predictor.draw(shared, s, seed))
            gradients = tape.gradient(outputs, flat, tf.cast(pull, outputs.dtype))
            if all(each is None for each in gradients):
                raise ValueError(_NO_GRADIENT.format(self._predictor.model.name))
            return [a if g is None else a + g for a, g in zip(totals, gradients)]

        total = _sum(num_samples, add_outputs, tf.zeros(tf.shape(targets), tf.float64))
        mean = tf.cast(total / tf.cast(num_samples, tf.float64), targets.dtype)
        with tf.GradientTape() as tape:
            tape.watch(mean)
            losses = self._loss(mean, targets)
        pull = tape.gradient(losses, mean) / tf.cast(num_samples, mean.dtype)
        zeros = [tf.zeros_like(each) for each in flat]
        gradient = prefix.gradient(flat, x, _sum(num_samples, add_gradients, zeros))
        if gradient is None:
            raise ValueError(_NO_GRADIENT.format(self._predictor.model.name))
        return losses, gradient


def _sum(num_samples: tf.Tensor, add: Callable, start):
    """Return the sum over samples. `add(s, total)` returns the total including sample s."""
    return tf.while_loop(
        lambda s, _: s < num_samples, lambda s, total: (s + 1, add(s, total)), (0, start)
    )[1]


def _only(outputs) -> tf.Tensor:
    (output,) = keras.tree.flatten(outputs)
    return output


_NO_GRADIENT = (
    "Expected a model whose outputs can be differentiated with respect to its inputs. "
    "Received: model={!r}, which rounds them. Hint: use keras.Input without an integer dtype, and "
    "keras.layers.Rescaling instead of a cast."
)
