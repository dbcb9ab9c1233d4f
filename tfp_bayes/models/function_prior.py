"""A prior over what a network computes, stated at inputs that are not training data."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfp_bayes._plumbing import noise
from tfp_bayes._plumbing.batches import count_rows
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.digest import digest
from tfp_bayes._plumbing.seeds import as_seed, fold_in
from tfp_bayes.layers import stochastic_layers
from tfp_bayes.models.embedding import Embedding
from tfp_bayes.prediction.inference_mode import run_isolated
from tfp_bayes.prediction.likelihoods import get_likelihood
from tfp_bayes.prediction.linearized import before_link
from tfp_bayes.prediction.predictor import DEFAULT_BATCH_SIZE


class FunctionSpacePrior:
    """A Gaussian process prior of the logits at context inputs, for `BayesianModel.compile`.

    Use it where a network shall be unsure on inputs of a kind that you can show it without
    labels: it pulls the logits there towards 0. Context data are extra information, which a method
    that is compared with this one does not have; say so beside figures. Any method
    that trains a `BayesianModel` trains with it: variational layers, `SWAG`, `CyclicalSGHMC`,
    `DeepEnsemble` ... The curvature of `Laplace` does not count it, and `HMC` refuses it.

    Each step draws some of the context inputs and adds

        strength / 2 * sum_k f_k^T K^-1 f_k,    K = weight_scale^2 h h^T + bias_scale^2
                                                    + jitter * mean(diag) * I

    nats to the negative log prior, which the model divides by the size of the training data.
    f_k are the logits of class k at these inputs, less the mean over classes, of which a softmax
    tells nothing; of "bernoulli" outputs the logits, of "normal" ones the locations. They are those
    of one function, with `training=False`, so that context inputs move no statistics of
    `BatchNormalization`. h are features of the inputs under weights that stay as they are.

    Args:
        context: Inputs, like those of the model: array (N, ...) or a structure of arrays.
        features: The frozen features: array (N, F) for `context`, or a Keras model that gives
            them. None takes what the model's last layer sees at the weights that the model has
            when it is compiled: random ones, or those of pretraining.
        strength: Factor of the term; 1 is the log density of the Gaussian process.
        weight_scale: Standard deviation of the weights of the features.
        bias_scale: Standard deviation of what all inputs have in common.
        jitter: Share of the variance that each input has for itself. The larger, the less a
            function has to be linear in the features; 1e-6 is about what float32 needs.
        num_context: M, inputs drawn for each step.
        seed: Integer. What a step draws follows from it and from `optimizer.iterations`.

    Raises:
        ValueError: If an argument is out of range, there are fewer than `num_context` inputs, or
            an input or a feature is not finite.

    Reference:
        Rudner et al. 2023, "Function-Space Regularization in Neural Networks: A Probabilistic
        Perspective", section 3, arXiv:2312.17162.

    Example:

    >>> inputs = keras.Input((2,))
    >>> hidden = keras.layers.Dense(8, "relu")(inputs)
    >>> model = BayesianModel(inputs, keras.layers.Dense(3, "softmax")(hidden), num_samples=1)
    >>> context = np.random.uniform(-9, 9, size=(500, 2))
    >>> prior = tfp_bayes.models.FunctionSpacePrior(context)
    >>> model.compile("adam", "sparse_categorical_crossentropy", function_prior=prior)
    >>> sorted(model.fit(np.ones((8, 2)), np.zeros(8), verbose=0).history)
    ['function_prior', 'loss', 'nll']
    """

    def __init__(
        self,
        context: Any,
        features: keras.Model | ArrayLike | None = None,
        *,
        strength: float = 1.0,
        weight_scale: float = 1.0,
        bias_scale: float = 1.0,
        jitter: float = 0.01,
        num_context: int = 32,
        seed: int = 0,
    ):
        check_positive(
            strength=strength, weight_scale=weight_scale, bias_scale=bias_scale, jitter=jitter
        )
        check_integers(1, num_context=num_context)
        check_integers(0, seed=seed)
        self.context = keras.tree.map_structure(np.asarray, context)
        _check_finite("context", self.context)
        if count_rows(self.context) < num_context:
            raise ValueError(
                f"Expected at least num_context={num_context} inputs for `context`. Received: "
                f"{count_rows(self.context)}. Hint: more inputs, or a smaller num_context."
            )
        self.features = features
        self.strength = float(strength)
        self.weight_scale = float(weight_scale)
        self.bias_scale = float(bias_scale)
        self.jitter = float(jitter)
        self.num_context = num_context
        self.seed = seed

    def compute_features(self, model: keras.Model) -> np.ndarray:
        """Returns the features of all context inputs, (N, F) float32.

        Args:
            model: The model that is compiled, a copy of which gives them if there is no other.

        Raises:
            ValueError: If there are not N of them, or one is not finite.
        """
        if self.features is None:
            found = Embedding(model)(self.context, DEFAULT_BATCH_SIZE)
        elif isinstance(self.features, keras.Model):
            found = self.features.predict(self.context, DEFAULT_BATCH_SIZE, verbose=0)
        else:
            found = np.asarray(self.features)
        num_rows = count_rows(self.context)
        if not isinstance(found, np.ndarray) or found.ndim < 2 or len(found) != num_rows:
            raise ValueError(
                f"Expected an array ({num_rows}, F), one row for each context input, for "
                f"`features`. Received: {getattr(found, 'shape', type(found).__name__)}. "
                "Hint: None takes those of the model itself."
            )
        _check_finite("features", found)
        return found.reshape(num_rows, -1).astype("float32")

    def get_config(self) -> dict[str, Any]:
        """Returns the settings as plain JSON, with digests in the place of data and weights."""
        features = self.features
        if isinstance(features, keras.Model):
            features = features.get_weights()
        return {
            "context": digest(self.context),
            "features": None if features is None else digest(features),
            "strength": self.strength,
            "weight_scale": self.weight_scale,
            "bias_scale": self.bias_scale,
            "jitter": self.jitter,
            "num_context": self.num_context,
            "seed": self.seed,
        }


class FunctionTerm:
    """The term that a `FunctionSpacePrior` adds to the negative log prior of one model.

    Args:
        prior: Its settings and context.
        model: A built model with a `predictor`.

    Attributes:
        config: Plain JSON that tells it from others.
    """

    def __init__(self, prior: FunctionSpacePrior, model: keras.Model):
        self._prior = prior
        self._model = model
        self.config = prior.get_config()
        if prior.features is None:
            self.config["features"] = digest(model.get_weights())
        # Tensors that a graph reads as inputs, wherever it runs; not weights of the model.
        self._context = keras.tree.map_structure(tf.convert_to_tensor, prior.context)
        self._features = tf.convert_to_tensor(prior.compute_features(model))
        self._in_graph = tf.function(self._nats, autograph=False)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the term of a step, float32 in nats.

        Args:
            step: Number of the step, an integer scalar.
        """
        # Logits are found in a graph; `run_eagerly=True` has none.
        return self._in_graph(step) if tf.executing_eagerly() else self._nats(step)

    def _nats(self, step: tf.Tensor) -> tf.Tensor:
        prior = self._prior
        seed = fold_in(as_seed(prior.seed), step)
        num_rows = self._features.shape[0]
        # Not a shuffle, which XLA does not have.
        order = noise.uniform([num_rows], fold_in(seed, 0))
        rows = tf.math.top_k(order, prior.num_context).indices
        context = keras.tree.map_structure(lambda each: tf.gather(each, rows), self._context)
        values = self._function(context, fold_in(seed, 1))
        factor = tf.linalg.cholesky(self._covariance(tf.gather(self._features, rows)))
        whitened = tf.linalg.triangular_solve(factor, values)
        return prior.strength / 2 * tf.reduce_sum(tf.square(whitened))

    def _covariance(self, features: tf.Tensor) -> tf.Tensor:
        """Returns K (M, M) of features (M, F)."""
        prior = self._prior
        k = prior.weight_scale**2 * tf.matmul(features, features, transpose_b=True)
        k += prior.bias_scale**2
        diagonal = tf.linalg.diag_part(k)
        return tf.linalg.set_diag(k, diagonal + prior.jitter * tf.reduce_mean(diagonal))

    def _function(self, context, seed: tf.Tensor) -> tf.Tensor:
        """Returns what one function of the model gives for the context, (M, outputs) float32."""
        model = self._model
        states = [
            (layer.seed_generator.state, tf.cast(fold_in(seed, i), "int64"))
            for i, layer in enumerate(stochastic_layers(model))
        ]
        outputs = run_isolated(model, lambda x: model(x, training=False), context, states)
        outputs = keras.tree.flatten(outputs)
        names = model.predictor.likelihood_names(len(outputs))
        columns = [_before_link(p, name) for p, name in zip(outputs, names)]
        return tf.concat(
            [tf.reshape(each, [self._prior.num_context, -1]) for each in columns], axis=-1
        )


def _before_link(p: tf.Tensor, likelihood: str) -> tf.Tensor:
    """Returns logits or locations (M, ..., K) float32 of outputs in a graph."""
    eta = tf.cast(before_link(p, likelihood), tf.float32)
    if likelihood == "categorical":
        return eta - tf.reduce_mean(eta, axis=-1, keepdims=True)
    return get_likelihood(likelihood).location(eta) if likelihood == "normal" else eta


def _check_finite(name: str, arrays: Any) -> None:
    for array in keras.tree.flatten(arrays):
        bad = array.dtype.kind == "f" and ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if np.any(bad):
            raise ValueError(
                f"Expected finite numbers for `{name}`. Received: NaN or infinity in rows "
                f"{np.flatnonzero(bad)[:5].tolist()}. Hint: leave them out."
            )
