"""A prior on the outputs of a network, stated at inputs that are not training data."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfp_bayes._plumbing import noise
from tfp_bayes._plumbing.batches import count_rows
from tfp_bayes._plumbing.checks import check_finite_rows, check_integers
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
    """A Gaussian process prior on the logits at context inputs, for `BayesianModel.compile`.

    Use it when a network should be uncertain on inputs of a kind that you can provide without
    labels: the prior pulls the logits there toward 0. Context data are additional information that
    other methods do not have, so state their use in every comparison. All methods that
    train a `BayesianModel` support it: variational layers, `SWAG`, `CyclicalSGHMC`,
    `DeepEnsemble` and so on. The curvature of `Laplace` ignores it, and `HMC` refuses it.

    Each step draws some of the context inputs and adds

        strength / 2 * sum_k f_k^T K^-1 f_k,    K = weight_scale^2 h h^T + bias_scale^2
                                                    + jitter * mean(diag) * I

    nats to the negative log prior, which the model divides by the number of training examples.
    For "categorical" outputs, f_k are the logits of class k at these inputs minus their mean over
    classes, which a softmax does not depend on. For "bernoulli" outputs they are the logits, for
    "normal" outputs the locations. All come from one function with `training=False`, so context
    inputs do not change the statistics of `BatchNormalization`. h are features of the inputs,
    computed with frozen weights.

    Args:
        context: Inputs like those of the model: an array (N, ...) or a structure of arrays.
        features: Frozen features: an array (N, F) with one row per context input, or a Keras model
            that computes it. None uses the inputs of the model's last layer, at the weights that
            the model has when it is compiled (random or pretrained).
        strength: Factor of the term. 1 is the log density of the Gaussian process.
        weight_scale: Prior standard deviation of the weights that multiply the features.
        bias_scale: Prior standard deviation of the bias, which all inputs share.
        jitter: Independent variance of each input, as a fraction of the mean variance. The larger
            it is, the further a function may depart from one that is linear in the features.
            Float32 needs about 1e-6.
        num_context: Number M of context inputs drawn at each step.
        seed: Integer. The draws of a step follow from it and from `optimizer.iterations`.

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
        for each in keras.tree.flatten(self.context):
            check_finite_rows(each, np.arange(len(each)), "context")
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
        """Return the features (N, F) of all context inputs, in float32.

        Args:
            model: The model that is compiled. It computes the features if `features` is None.

        Raises:
            ValueError: If there are not N rows of features, or one is not finite.
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
                "Hint: None uses the features of the model itself."
            )
        check_finite_rows(found, np.arange(num_rows), "features")
        return found.reshape(num_rows, -1).astype("float32")

    def get_config(self) -> dict[str, Any]:
        """Return the settings as plain JSON, with digests in place of data and weights."""
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
        prior: The prior, with its settings and context.
        model: A built model with a `predictor`.

    Attributes:
        config: Plain JSON that identifies the term.
    """

    def __init__(self, prior: FunctionSpacePrior, model: keras.Model):
        self._prior = prior
        self._model = model
        self.config = prior.get_config()
        if prior.features is None:
            self.config["features"] = digest(model.get_weights())
        # Tensors, which graphs capture as inputs, so they are not weights of the model.
        self._context = keras.tree.map_structure(tf.convert_to_tensor, prior.context)
        self._features = tf.convert_to_tensor(prior.compute_features(model))
        self._in_graph = tf.function(self._nats, autograph=False)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Return the term of a step in nats, float32.

        Args:
            step: Number of the step, an integer scalar.
        """
        # Logits are read from a graph, which `run_eagerly=True` does not have.
        return self._in_graph(step) if tf.executing_eagerly() else self._nats(step)

    def _nats(self, step: tf.Tensor) -> tf.Tensor:
        prior = self._prior
        seed = fold_in(as_seed(prior.seed), step)
        num_rows = self._features.shape[0]
        # top_k draws rows without replacement, because XLA does not support shuffling.
        order = noise.uniform([num_rows], fold_in(seed, 0))
        rows = tf.math.top_k(order, prior.num_context).indices
        context = keras.tree.map_structure(lambda each: tf.gather(each, rows), self._context)
        values = self._function(context, fold_in(seed, 1))
        factor = tf.linalg.cholesky(self._covariance(tf.gather(self._features, rows)))
        whitened = tf.linalg.triangular_solve(factor, values)
        return prior.strength / 2 * tf.reduce_sum(tf.square(whitened))

    def _covariance(self, features: tf.Tensor) -> tf.Tensor:
        """Return the covariance K (M, M) for features (M, F)."""
        prior = self._prior
        k = prior.weight_scale**2 * tf.matmul(features, features, transpose_b=True)
        k += prior.bias_scale**2
        diagonal = tf.linalg.diag_part(k)
        return tf.linalg.set_diag(k, diagonal + prior.jitter * tf.reduce_mean(diagonal))

    def _function(self, context, seed: tf.Tensor) -> tf.Tensor:
        """Return the outputs (M, outputs) of one sampled function at the context, in float32."""
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
    """Return the logits or locations (M, ..., K) of outputs in a graph, in float32."""
    eta = tf.cast(before_link(p, likelihood), tf.float32)
    if likelihood == "categorical":
        return eta - tf.reduce_mean(eta, axis=-1, keepdims=True)
    return get_likelihood(likelihood).location(eta) if likelihood == "normal" else eta
