"""A normal distribution around trained weights, with one covariance block for each layer."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing import noise
from tfp_bayes._plumbing.seeds import fold_in
from tfp_bayes.inference import noise_scales as noises
from tfp_bayes.inference.network_curvature import Block
from tfp_bayes.inference.network_layers import describe_layers
from tfp_bayes.inference.saved import SavedPosterior, saved_as
from tfp_bayes.inference.weight_matrices import WeightMatrices


@saved_as
class LaplacePosterior(SavedPosterior):
    """The normal posterior over a network's weights that `Laplace.fit` returns.

    By default, a `Predictor` linearizes the model in its weights for this posterior. The
    covariance is that of the linearized model. The original model predicts much worse with these
    draws, because they are far from the trained weights.

    Attributes:
        variables: The kernels and biases that are drawn.
        left_at_map: Paths of the trainable variables that keep their trained values, such as those
            of `BatchNormalization` and recurrent cells, and those that two layers share.
        prior_scale: Prior standard deviation of each weight.
        temperature: Factor T that multiplies the covariance. The evidence is computed for T = 1.
        log_likelihood: Log likelihood of the training data, the sum over examples in nats.
        noise_scales: Standard deviations (D,) of the targets of each output, which a `Predictor`
            appends to the output. An entry is None if the output contains its own scales. None as
            a whole if all outputs do.
        num_draws: None, because the number of different draws is unlimited.
        linearize: True, see `Predictor`.

    Reference:
        Ritter et al. 2018, "A Scalable Laplace Approximation for Neural Networks", section 3,
        https://openreview.net/forum?id=Skdvd2xAZ; Immer et al. 2021, arXiv:2008.08400.
    """

    num_draws = None
    linearize = True

    def __init__(
        self,
        model: keras.Model,
        matrices: Sequence[WeightMatrices],
        means: Sequence[np.ndarray],
        blocks: Sequence[Block],
        left: Sequence[keras.Variable],
        log_likelihood: float,
        prior_scale: float,
        temperature: float = 1.0,
        noise_scales: Sequence[np.ndarray | None] = (),
    ):
        self.model = model
        self.variables = [v for matrix in matrices for v in matrix.variables]
        self.log_likelihood = log_likelihood
        self.temperature = float(temperature)
        self._left = list(left)
        self._matrices, self._means, self._blocks = list(matrices), list(means), list(blocks)
        self._constants: list[list[Any]] = [
            [_constant(array, matrix) for array in (mean, *block)]
            for matrix, mean, block in zip(matrices, means, blocks)
        ]
        self.noise_scales = noises.as_noise_scales(noise_scales)
        self._prior_precision = tf.Variable(1.0, trainable=False, dtype="float64")
        self.set_prior_scale(prior_scale)
        self.note_others()

    @property
    def left_at_map(self) -> list[str]:
        """Paths of the trainable variables that keep their trained values."""
        return [v.path for v in self._left]

    @property
    def prior_share(self) -> float:
        """The average share of the prior in the posterior's precision; 1 without any data."""
        precision = self.prior_scale**-2
        shares = [(precision / (precision + b.eigenvalues)).ravel() for b in self._blocks]
        return float(np.concatenate(shares).mean())

    def set_prior_scale(self, prior_scale: float) -> None:
        """Change the standard deviation of the prior, also for existing predictors."""
        self.prior_scale = float(prior_scale)
        self._prior_precision.assign(self.prior_scale**-2)

    def draw(self, index: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Return one draw of the weights, see `Posterior.draw`."""
        del index  # the seed already depends on it
        weights = []
        for i, (matrix, constants) in enumerate(zip(self._matrices, self._constants)):
            mean, eigenvalues, *vectors = constants
            dtype = mean.dtype
            deviation = noise.normal(matrix.shape, fold_in(seed, i), dtype)
            deviation *= tf.math.rsqrt(eigenvalues + tf.cast(self._prior_precision, dtype))
            deviation *= self.temperature**0.5
            weights += matrix.split(mean + _along(deviation, *vectors))
        return weights

    def center(self) -> list[tf.Tensor]:
        """Return the trained weights."""
        means = (constants[0] for constants in self._constants)
        return [w for matrix, mean in zip(self._matrices, means) for w in matrix.split(mean)]

    def quadratic_form(self, number: int) -> tf.Tensor:
        """Return (w - center)^T P (w - center) for the current weights w of one layer.

        P is the posterior's precision at temperature 1.

        Args:
            number: Position of the layer in the posterior.
        """
        matrix = self._matrices[number]
        mean, eigenvalues, *vectors = self._constants[number]
        now = matrix.join([tf.cast(v.value, mean.dtype) for v in matrix.variables])
        coordinates = _along(now - mean, *map(_transpose, vectors))
        precision = eigenvalues + tf.cast(self._prior_precision, mean.dtype)
        return tf.reduce_sum(precision * tf.square(coordinates))

    def log_marginal_likelihood(self, prior_scale: float | None = None) -> float:
        """Return the approximate log evidence log p(y | x) in nats, for comparing architectures.

        Weights in `left_at_map` are treated as known.

        Args:
            prior_scale: Prior scale for which to compute it. None uses the posterior's own.
        """
        scale = self.prior_scale if prior_scale is None else prior_scale
        complexity = sum(
            np.log1p(block.eigenvalues * scale**2).sum() + np.square(mean).sum() / scale**2
            for block, mean in zip(self._blocks, self._means)
        )
        return float(self.log_likelihood - complexity / 2)

    def assign(self, other: Any) -> bool:
        """See `SavedPosterior.assign`."""
        alike = (
            isinstance(other, LaplacePosterior)
            and list(map(id, other.variables)) == list(map(id, self.variables))
            and other._form() == self._form()
            and other.temperature == self.temperature
        )
        if alike:
            for own, new in zip(self._arrays(), other._arrays(), strict=True):
                for a, b in zip(own, new, strict=True):
                    if a is not None:
                        a.assign(b)
            self._means, self._blocks, self._left = other._means, other._blocks, other._left
            self.log_likelihood = other.log_likelihood
            self.set_prior_scale(other.prior_scale)
            self.note_others_of(other)
        return alike

    def _form(self) -> list:
        """Return which arrays each layer lacks."""
        return [[a is None for a in arrays] for arrays in self._arrays()]

    def _arrays(self) -> list[list[Any]]:
        """Return the variables that draws and predictions are computed from."""
        return [*self._constants, self.noise_scales or []]

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """See `SavedPosterior.get_state`."""
        arrays = {}
        for i, (mean, block) in enumerate(zip(self._means, self._blocks)):
            named = {"mean": mean, **block._asdict()}
            arrays.update({f"{name}_{i}": a for name, a in named.items() if a is not None})
        arrays |= noises.to_arrays(self.noise_scales)
        position = {id(v): i for i, v in enumerate(self.model.weights)}
        settings = {
            "num_variables": [len(matrix.variables) for matrix in self._matrices],
            "left": [position[id(v)] for v in self._left],
            "log_likelihood": self.log_likelihood,
            "prior_scale": self.prior_scale,
            "temperature": self.temperature,
            "num_outputs": len(self.noise_scales or ()),
        }
        return arrays, settings

    @classmethod
    def from_state(cls, model, variables, arrays, settings) -> "LaplacePosterior":
        """See `SavedPosterior.from_state`."""
        described = {tuple(map(id, each.variables)): each for each in describe_layers(model)}
        rest = iter(variables)
        matrices: list[WeightMatrices] = [
            described[tuple(id(next(rest)) for _ in range(n))] for n in settings["num_variables"]
        ]

        def read(name: str, i: int) -> Any:
            array = arrays.get(f"{name}_{i}")
            # Files of the first release have one matrix per layer, without the axis of groups.
            return array[None] if array is not None and array.ndim == 2 else array

        numbers = range(len(matrices))
        return cls(
            model,
            matrices,
            [read("mean", i) for i in numbers],
            [Block(*(read(name, i) for name in Block._fields)) for i in numbers],
            [model.weights[i] for i in settings["left"]],
            settings["log_likelihood"],
            settings["prior_scale"],
            settings.get("temperature", 1.0),  # missing in files of earlier releases
            noises.from_arrays(arrays, settings.get("num_outputs", 0)),
        )


def _along(coordinates: tf.Tensor, input_vectors, output_vectors, vectors) -> tf.Tensor:
    """Convert coordinates along the eigenvectors to weights (G, F, U), see `Block`."""
    if vectors is not None:
        flat = tf.reshape(coordinates, [coordinates.shape[0], -1])
        return tf.reshape(tf.linalg.matvec(vectors, flat), coordinates.shape)
    if output_vectors is not None:
        coordinates = tf.matmul(coordinates, output_vectors, transpose_b=True)
    return coordinates if input_vectors is None else input_vectors @ coordinates


def _transpose(matrices: tf.Tensor | None) -> tf.Tensor | None:
    return None if matrices is None else tf.linalg.matrix_transpose(matrices)


def _constant(array: np.ndarray | None, matrix: WeightMatrices) -> tf.Variable | None:
    """Store an array for draws, in a precision whose rounding errors are below their spread."""
    if array is None:
        return None
    dtype = "float64" if matrix.variables[0].dtype == "float64" else "float32"
    # A variable instead of a constant, so that exported graphs do not contain the numbers inline.
    return tf.Variable(array.astype(dtype), trainable=False)
