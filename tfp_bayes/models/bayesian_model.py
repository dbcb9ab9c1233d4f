"""A Keras model that trains on the evidence bound and predicts the posterior mean."""

import contextlib
import math
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import functional_constructor
from tfp_bayes._plumbing.seeds import fold_in
from tfp_bayes.export import PREDICT_SEED, export_saved_model
from tfp_bayes.layers import stochastic_layers, variational_layers
from tfp_bayes.models.embedding import Embedding
from tfp_bayes.models.graph_config import GraphConfig, cloned_arguments
from tfp_bayes.models.kl_weight import KLWeight, kl_divergence
from tfp_bayes.models.num_train import count_examples
from tfp_bayes.prediction import Prediction, Predictor
from tfp_bayes.prediction.predictor import DEFAULT_BATCH_SIZE


@keras.saving.register_keras_serializable("tfp_bayes")
class BayesianModel(GraphConfig, keras.Model):
    """A functional Keras model with random layers, trained and scored as a Bayesian would.

    Use it in place of `keras.Model(inputs, outputs)`. `compile` and `fit` are Keras' own, with
    three differences:

    - The loss is the negative evidence bound per example: the compiled loss plus KL / num_train.
      `fit` learns num_train from the data and shows `nll` and `kl` (nats, not yet divided).
    - `predict` returns the posterior predictive mean over `num_samples` functions, the same ones
      at each call; `evaluate` and validation score that mean (in regression with the total
      standard deviation), with the negative log likelihood (without KL) as their loss.
    - `predict_uncertainty`, `sample` and an `export` that carries the uncertainty.

    Args:
        inputs: Input tensors, as for `keras.Model`.
        outputs: Output tensors that are probabilities (softmax or sigmoid), or `NormalParameters`
            under likelihood="normal".
        name: String or None.
        likelihood: What the outputs mean, see `Predictor`.
        prior_scale: Standard deviation of a Gaussian prior on every kernel that has no prior of
            its own, or None for a flat one. With dropout this is the prior of MC dropout: an L2
            penalty with factor 1 / (2 prior_scale^2 num_train).
        num_samples: S, posterior samples used by `predict`, `evaluate` and validation.
        **kwargs: Arguments of `keras.Model`.

    Losses:
        KL in nats, summed over weights, in float32, weighted by 1 / num_train.

    Raises:
        ValueError: If `prior_scale` or `num_samples` is not positive.

    Reference:
        Gal and Ghahramani 2016, equation 7, arXiv:1506.02142.

    Example:

    >>> inputs = keras.Input((2,))
    >>> hidden = MCDropout(0.5)(keras.layers.Dense(16, activation="relu")(inputs))
    >>> model = BayesianModel(inputs, keras.layers.Dense(3, activation="softmax")(hidden))
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> x, y = np.ones((8, 2)), np.zeros(8)
    >>> sorted(model.fit(x, y, verbose=0).history)
    ['kl', 'loss', 'nll']
    >>> model.predict_uncertainty(x, seed=0).mutual_information.shape
    (8,)
    """

    num_train: int | None
    _embedding: Embedding | None

    @functional_constructor
    def __init__(
        self,
        inputs,
        outputs,
        name: str | None = None,
        *,
        likelihood: str = "categorical",
        prior_scale: float | None = None,
        num_samples: int = 100,
        **kwargs,
    ):
        cloned = cloned_arguments(outputs)
        likelihood = cloned.get("likelihood", likelihood)
        prior_scale = cloned.get("prior_scale", prior_scale)
        num_samples = cloned.get("num_samples", num_samples)
        if prior_scale is not None and not prior_scale > 0:
            raise ValueError(
                "Expected a positive standard deviation or None for `prior_scale`. "
                f"Received: prior_scale={prior_scale!r}. Hint: None is a flat prior."
            )
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self.likelihood = likelihood
        self.prior_scale = prior_scale
        self.num_samples = num_samples
        self.num_train = None  # of the data in fit
        self.kl_weight = self.add_weight(
            name="kl_weight",
            shape=(),
            initializer=keras.initializers.Constant(float("nan")),
            dtype="float32",
            trainable=False,
            autocast=False,
        )
        self.nll_tracker = keras.metrics.Mean(name="nll")
        self.kl_tracker = keras.metrics.Mean(name="kl")
        self.predictor = Predictor(self, likelihood)
        self._embedding = None  # made when it is asked for
        self.predictor.resolve_num_samples(num_samples)
        for i, layer in enumerate(stochastic_layers(self)):
            # Layers that were given one seed must not share their noise.
            state = layer.seed_generator.state
            state.assign(tf.cast(fold_in(tf.cast(state.value, tf.int32), i), state.dtype))

    # Training.

    def fit(
        self,
        x=None,
        y=None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose="auto",
        callbacks=None,
        validation_split: float = 0.0,
        *args,
        num_train: int | None = None,
        **kwargs,
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit`, with the prior weighted by the size of the data.

        Args:
            x: Training data, as in Keras.
            y: Targets, as in Keras.
            batch_size: As in Keras.
            epochs: As in Keras.
            verbose: As in Keras.
            callbacks: As in Keras.
            validation_split: As in Keras; what it holds out does not count as training data.
            *args: As in Keras.
            num_train: Number of training examples; needed where `x` does not tell (a generator,
                an endless dataset).
            **kwargs: As in Keras.

        Returns:
            Keras' History, with `nll` and `kl` beside `loss`.

        Raises:
            ValueError: If the number of training examples is neither given nor known.
        """
        if num_train is None:
            num_train = count_examples(x, validation_split)
        if num_train is None and self._has_kl:
            raise ValueError(
                "Expected data of known length, or `num_train`, to weight the prior. "
                f"Received: x of type {type(x).__name__}, num_train=None. "
                "Hint: fit(x, num_train=60_000)."
            )
        self.num_train = num_train
        if self._has_kl:
            callbacks = _with_kl_weight(callbacks)
        return super().fit(
            x, y, batch_size, epochs, verbose, callbacks, validation_split, *args, **kwargs
        )

    def train_on_batch(self, *args, **kwargs):
        """Trains on one batch as Keras does, once the weight of the prior is known.

        Raises:
            ValueError: If neither `fit` nor `set_kl_weight` has told it.
        """
        weight = float(self.kl_weight)
        if self._has_kl and math.isnan(weight):
            raise ValueError(
                "Expected a known weight of the prior. Received: kl_weight, which was never set. "
                "Hint: tfp_bayes.set_kl_weight(model, 1 / num_train) before train_on_batch."
            )
        return super().train_on_batch(*args, **kwargs)

    @property
    def _has_kl(self) -> bool:
        return self.prior_scale is not None or bool(variational_layers(self))

    def kl_divergence(self) -> tf.Tensor:
        """Returns KL(q || prior), float32 scalar in nats, summed over all weights.

        See `kl_divergence`; `prior_scale` counts, up to a constant, as `prior_penalty` says.
        """
        return kl_divergence(self)

    def prior_penalty(self) -> tf.Tensor:
        """Returns |W|^2 / (2 prior_scale^2), summed over kernels: nats, float32, 0 if flat.

        The KL divergence, up to a constant, of dropout or a point estimate under the Gaussian
        prior. Kernels of variational layers have priors of their own.
        """
        if self.prior_scale is None:
            return tf.constant(0.0)
        kernels = [v for v in self.trainable_variables if v.name.endswith("kernel")]
        squares = [tf.reduce_sum(tf.square(tf.cast(v.value, tf.float32))) for v in kernels]
        return tf.add_n(squares or [tf.constant(0.0)]) / (2 * self.prior_scale**2)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training: bool = True
    ) -> tf.Tensor:
        """Returns the loss of a batch: NLL in validation, NLL + KL / num_train in training."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        # Under a distribution strategy Keras divides losses by the number of replicas, whose
        # gradients it adds up; the KL must be counted once all the same.
        num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
        rows = tf.shape(keras.tree.flatten(y_pred)[0])[0]
        weighted_kl = tf.constant(0.0)
        if training:  # the layers' own share is in the loss by now
            losses = [loss for layer in variational_layers(self) for loss in layer.losses]
            weighted_kl = tf.add_n(losses or [weighted_kl])
        nll = loss * num_replicas - tf.cast(weighted_kl, loss.dtype)
        self.nll_tracker.update_state(nll, sample_weight=rows)
        if training and self._has_kl:
            penalty = self.prior_penalty()
            self.kl_tracker.update_state(weighted_kl / self.kl_weight + penalty)
            if self.prior_scale is not None:
                loss += tf.cast(self.kl_weight * penalty / num_replicas, loss.dtype)
        return loss

    # Prediction and evaluation: always the posterior predictive mean.

    def predict_step(self, data):
        """Returns the predictive mean of a batch."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self.predictor.stream_mean(x, self.num_samples, tf.constant(PREDICT_SEED))

    def test_step(self, data) -> dict:
        """Scores the predictive distribution of a batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self.predictor.stream_outputs(x, self.num_samples, tf.constant(PREDICT_SEED))
        loss = self.compute_loss(x, y, y_pred, sample_weight, training=False)
        rows = tf.shape(keras.tree.flatten(y_pred)[0])[0]
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss, sample_weight=rows)
        results = self.compute_metrics(x, y, y_pred, sample_weight)
        return {name: value for name, value in results.items() if name != "kl"}

    # On a GPU Keras compiles with XLA, whose random numbers differ from those of the predictor and
    # which wants to know how many units a mask keeps before it is drawn. So only training does.

    def make_test_function(self, force: bool = False):
        """Builds `evaluate`'s graph, as Keras does."""
        with self._without_xla():
            return super().make_test_function(force)

    def make_predict_function(self, force: bool = False):
        """Builds `predict`'s graph, as Keras does."""
        with self._without_xla():
            return super().make_predict_function(force)

    @contextlib.contextmanager
    def _without_xla(self):
        jit_compile, self.jit_compile = self.jit_compile, False
        try:
            yield
        finally:
            self.jit_compile = jit_compile

    def predict(self, x, batch_size: int | None = None, verbose="auto", **kwargs):
        """Returns the posterior predictive mean (N, K), the same at each call.

        Args:
            x: Inputs, as in `keras.Model.predict`.
            batch_size: Rows of arrays at a time; None takes a size that suits sampling.
            verbose: As in Keras.
            **kwargs: As in Keras.

        Returns:
            Array (N, K), or the structure of the model's outputs.
        """
        return super().predict(x, _batch_size(x, batch_size), verbose, **kwargs)

    def evaluate(self, x=None, y=None, batch_size: int | None = None, verbose="auto", **kwargs):
        """Scores the posterior predictive mean; arguments and result as in Keras."""
        return super().evaluate(x, y, _batch_size(x, batch_size), verbose, **kwargs)

    def predict_uncertainty(
        self,
        x,
        num_samples: int | None = None,
        seed: int | tuple[int, int] | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        return_samples: bool = False,
    ) -> Prediction:
        """Estimates predictions and their uncertainty, see `Predictor.predict_uncertainty`.

        Args:
            x: Inputs: arrays, `tf.data.Dataset` or `keras.utils.PyDataset`.
            num_samples: S; None takes the model's own.
            seed: Integer, pair of int32, or None for fresh draws.
            batch_size: Rows of arrays at a time; changes memory and speed, not the answer.
            return_samples: Whether to keep the (S, N, K) samples too.

        Returns:
            A `Prediction`.
        """
        num_samples = self.num_samples if num_samples is None else num_samples
        return self.predictor.predict_uncertainty(x, num_samples, seed, batch_size, return_samples)

    def sample(
        self,
        x,
        num_samples: int | None = None,
        seed: int | tuple[int, int] | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ):
        """Returns samples (S, N, K) of the prediction; arguments as `predict_uncertainty`."""
        num_samples = self.num_samples if num_samples is None else num_samples
        return self.predictor.sample(x, num_samples, seed, batch_size)

    def embed(self, x, batch_size: int = DEFAULT_BATCH_SIZE) -> np.ndarray:
        """Returns what the last layer sees at the posterior means, to compare examples by.

        Args:
            x: Inputs (N, ...).
            batch_size: Rows of arrays at a time.

        Returns:
            Features (N, F) float32.
        """
        if self._embedding is None:
            self._embedding = Embedding(self)
        return self._embedding(x, batch_size)

    # Saving.

    def export(
        self,
        filepath: str | Path,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature=None,
        **kwargs,
    ) -> None:
        """Writes a SavedModel that carries the uncertainty, see `export_saved_model`.

        Args:
            filepath: The folder to write.
            format: "tf_saved_model".
            verbose: Whether Keras prints the signatures; None does not.
            input_signature: As in Keras.
            **kwargs: None that a SavedModel takes.

        Raises:
            ValueError: If another format or another argument is asked for.
        """
        if format != "tf_saved_model" or kwargs:
            raise ValueError(
                "Expected format='tf_saved_model' and no further arguments. "
                f"Received: format={format!r}, {kwargs}. Hint: other formats hold one function; "
                "to_deterministic(model).export(...) writes that of the posterior means."
            )
        export_saved_model(
            self.predictor,
            filepath,
            num_samples=self.num_samples,
            verbose=bool(verbose),
            input_signature=input_signature,
        )


def _with_kl_weight(callbacks) -> keras.callbacks.CallbackList | list:
    """Adds the weight of the prior to what `fit` is given, unless the user has."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.append(KLWeight())
        return callbacks
    callbacks = list(keras.tree.flatten(callbacks)) if callbacks else []
    known = any(isinstance(callback, KLWeight) for callback in callbacks)
    return callbacks if known else [KLWeight(), *callbacks]


def _batch_size(x, batch_size: int | None) -> int | None:
    """Chooses the batch for arrays; datasets bring their own and Keras refuses another."""
    if batch_size is None and all(hasattr(a, "shape") for a in keras.tree.flatten(x)):
        return DEFAULT_BATCH_SIZE
    return batch_size
