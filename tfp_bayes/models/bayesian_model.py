"""A Keras model that trains on the evidence bound and predicts with the posterior mean."""

import contextlib
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.batches import check_finite_arrays
from tfp_bayes._plumbing.keras_internals import build_losses_and_metrics, functional_constructor
from tfp_bayes._plumbing.seeds import fold_in
from tfp_bayes.export import PREDICT_SEED, export_baked, export_saved_model
from tfp_bayes.layers import stochastic_layers
from tfp_bayes.layers.prior_term import add_kl_weight
from tfp_bayes.models.bound_trainer import BoundTrainer
from tfp_bayes.models.calibrated import Calibrated
from tfp_bayes.models.embedding import Embedding
from tfp_bayes.models.graph_config import GraphConfig, cloned_arguments
from tfp_bayes.models.kl_weight import stated_num_train, with_kl_weight
from tfp_bayes.models.num_train import resolve_num_train
from tfp_bayes.models.objective import num_replicas
from tfp_bayes.models.seen_outputs import copy_output_masks
from tfp_bayes.prediction import Prediction, Predictor
from tfp_bayes.prediction.adapted import AdaptedStates
from tfp_bayes.prediction.predictor import DEFAULT_BATCH_SIZE, DEFAULT_NUM_SAMPLES


@keras.saving.register_keras_serializable("tfp_bayes")
class BayesianModel(GraphConfig, BoundTrainer, Calibrated, keras.Model):
    """A functional Keras model with random layers, trained on the evidence bound.

    Use it in place of `keras.Model(inputs, outputs)`. `compile` and `fit` work as in Keras, with
    three differences:

    - The loss is the negative evidence bound per observation: the mean NLL of the observations
      plus KL / (number of observations in the training data). An observation is one value of the
      compiled loss: an example, a pixel, an unmasked time step, or one Bernoulli output. The
      number of observations in the data is num_train times that of an example, and `fit` counts
      num_train. The training log shows `nll`, `kl` (in nats, undivided) and, separately,
      `penalty` (regularizers and other losses of layers) and `function_prior` (in nats, see
      `FunctionSpacePrior`).
    - `predict` returns the posterior predictive mean over `num_samples` functions, which are the
      same at each call. `evaluate` and validation score that mean (in regression with the total
      standard deviation). Their loss is the mean NLL alone.
    - The model adds `predict_uncertainty`, `sample`, `calibrate`, and an `export` that preserves
      the uncertainty.

    Args:
        inputs: Input tensors, as for `keras.Model`.
        outputs: Output tensors: probabilities (softmax or sigmoid), or `NormalParameters` under
            likelihood="normal". A list of one output is treated as that output.
        name: Name of the model, or None.
        likelihood: Meaning of the outputs, see `Predictor`.
        prior_scale: Standard deviation of a Gaussian prior on every kernel that has no prior of
            its own, or None for a flat prior. The prior is an L2 penalty with the factor
            1 / (2 prior_scale^2 (1 - p)) nats, where p is the rate of the `MCDropout` that the
            kernel's input passes, see `kernels` in `tfp_bayes.models.dropout_prior`.
        num_samples: Number of posterior samples S used by `predict`, `evaluate` and validation.
        **kwargs: Arguments of `keras.Model`.

    Losses:
        Prior terms in nats, float32, summed over weights. The model weights the sum once, and
        includes the terms of models nested in it.

    Raises:
        ValueError: If `prior_scale` or `num_samples` is not positive.

    Reference:
        Gal and Ghahramani 2016, equation 7, arXiv:1506.02142.

    Example:

    >>> inputs = keras.Input((2,))
    >>> hidden = MCDropout(0.5)(keras.layers.Dense(16, activation="relu")(inputs))
    >>> outputs = keras.layers.Dense(3, activation="softmax")(hidden)
    >>> model = BayesianModel(inputs, outputs, prior_scale=1.0)
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
        num_samples: int = DEFAULT_NUM_SAMPLES,
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
        if isinstance(outputs, list | tuple) and len(outputs) == 1:
            (outputs,) = outputs  # as in BayesianModel(model.inputs, model.outputs)
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self.likelihood = likelihood
        self.prior_scale = prior_scale
        self.num_samples = num_samples
        self.num_train = None  # set by fit
        self.kl_weight = add_kl_weight(self)
        self.nll_tracker = keras.metrics.Mean(name="nll")
        self.kl_tracker = keras.metrics.Mean(name="kl")
        self.penalty_tracker = keras.metrics.Mean(name="penalty")
        self.function_prior_tracker = keras.metrics.Mean(name="function_prior")
        self._data_term = None  # set by compile
        self.predictor = Predictor(self, likelihood)
        self._make_calibration()
        self._embedding = None  # created by the first call of `embed`
        self._states = AdaptedStates(self)  # of preprocessing layers, which graphs contain
        self.predictor.resolve_num_samples(num_samples)
        for i, layer in enumerate(stochastic_layers(self)):
            # Layers that were given the same seed must not share their noise.
            state = layer.seed_generator.state
            state.assign(tf.cast(fold_in(tf.cast(state.value, tf.int32), i), state.dtype))

    @property
    def num_samples(self) -> int:
        """Number of posterior samples S used by `predict`, `evaluate` and validation."""
        return self._num_samples

    @num_samples.setter
    def num_samples(self, num_samples: int) -> None:
        self._num_samples = num_samples
        self.predict_function = self.test_function = None  # graphs contain the number

    @property
    def prior_scale(self) -> float | None:
        """Standard deviation of the prior on kernels that have no prior of their own, or None."""
        return self._prior_scale

    @prior_scale.setter
    def prior_scale(self, prior_scale: float | None) -> None:
        self._prior_scale = prior_scale
        self.train_function = None  # its graph contains the scale

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
        """Train as `keras.Model.fit` does, with the prior weighted by 1 / num_train.

        Args:
            x: Training data, as in Keras.
            y: Targets, as in Keras.
            batch_size: As in Keras.
            epochs: As in Keras.
            verbose: As in Keras.
            callbacks: As in Keras.
            validation_split: As in Keras. Held-out examples do not count as training data.
            *args: As in Keras.
            num_train: Number of training examples. Required if it cannot be counted from `x` (a
                generator or an endless dataset) and no `KLWeight` among the callbacks states it.
            **kwargs: As in Keras.

        Returns:
            Keras' History, with `nll` beside `loss`, and with `kl`, `penalty` and
            `function_prior` if the model has such terms.

        Raises:
            ValueError: If the number of training examples is neither given nor known, or is not a
                positive integer, or differs from that of a `KLWeight`, a `class_weight` is given
                for real targets or several labels per example, or an array of inputs contains
                NaN or infinity, which layers such as ReLU would hide.
        """
        check_finite_arrays(x)
        _check_class_weight(self, args[2] if len(args) > 2 else kwargs.get("class_weight"))
        stated = stated_num_train(callbacks)
        num_train = resolve_num_train(num_train, stated, x, validation_split)
        if num_train is None and self._has_prior:
            raise ValueError(
                "Expected data of known length, or `num_train`, to weight the prior. "
                f"Received: x of type {type(x).__name__}, num_train=None. "
                "Hint: fit(x, num_train=60_000)."
            )
        self.num_train = num_train
        self._forget_calibration()
        if self._has_prior:
            callbacks = with_kl_weight(callbacks, self)
        self._build_losses_and_metrics(x, y)
        return super().fit(
            x, y, batch_size, epochs, verbose, callbacks, validation_split, *args, **kwargs
        )

    def _build_losses_and_metrics(self, x, y) -> None:
        """Create losses and metrics before the first step, so that it is traced only once."""
        if isinstance(x, tf.data.Dataset) and isinstance(x.element_spec, tuple):
            _, y, _ = keras.utils.unpack_x_y_sample_weight(x.element_spec)
        if self.compiled:
            with self.distribute_strategy.scope():
                build_losses_and_metrics(self, y)

    def train_on_batch(
        self, x, y=None, sample_weight=None, class_weight: dict | None = None, return_dict=False
    ):
        """Take a step as `keras.Model.train_on_batch` does. Like `fit`, it undoes `calibrate`."""
        _check_class_weight(self, class_weight)
        self._forget_calibration()
        return super().train_on_batch(x, y, sample_weight, class_weight, return_dict)

    # Prediction and evaluation always use the posterior predictive mean.

    def predict_step(self, data):
        """Return the predictive mean of a batch."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self.predictor.stream_mean(x, self.num_samples, tf.constant(PREDICT_SEED))

    def test_step(self, data) -> dict:
        """Score the predictive distribution of a batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if tf.executing_eagerly():  # `test_on_batch` passes NumPy arrays through unchanged
            x = keras.tree.map_structure(_as_tensor, x)
        y_pred = self.predictor.stream_outputs(x, self.num_samples, tf.constant(PREDICT_SEED))
        copy_output_masks(self, x, y_pred)
        loss = self.compute_loss(x, y, y_pred, sample_weight, training=False)
        # The loss is a mean over observations, whose number per row may differ between batches.
        count = getattr(loss, "num_observations", tf.shape(keras.tree.flatten(y_pred)[0])[0])
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss * num_replicas(), sample_weight=count)
        results = self.compute_metrics(x, y, y_pred, sample_weight)
        return self.shown_results(results, training=False)

    # On a GPU, Keras compiles with XLA. XLA draws other random numbers than the predictor does,
    # and needs to know how many units a mask keeps before the mask is drawn. Therefore only
    # training uses XLA.

    def make_train_function(self, force: bool = False) -> None:
        """See `BoundTrainer.make_train_function`."""
        self._forget_graphs()
        super().make_train_function(force)

    def make_test_function(self, force: bool = False):
        """Build the graph of `evaluate` as Keras does, without XLA."""
        self._forget_graphs()
        with self._without_xla():
            return super().make_test_function(force)

    def make_predict_function(self, force: bool = False):
        """Build the graph of `predict` as Keras does, without XLA."""
        self._forget_graphs()
        with self._without_xla():
            return super().make_predict_function(force)

    def _forget_graphs(self) -> None:
        """Make all graphs again if preprocessing layers were adapted since."""
        if self._states.have_changed():
            self.train_function = self.test_function = self.predict_function = None
            self._embedding = None

    @contextlib.contextmanager
    def _without_xla(self):
        jit_compile, self.jit_compile = self.jit_compile, False
        try:
            yield
        finally:
            self.jit_compile = jit_compile

    def predict(
        self,
        x,
        batch_size: int | None = None,
        verbose="auto",
        *args,
        num_samples: int | None = None,
        **kwargs,
    ):
        """Return the posterior predictive mean, which is the same at each call.

        Args:
            x: Inputs, as in `keras.Model.predict`.
            batch_size: Number of rows of an array per batch. None chooses a size that suits
                sampling.
            verbose: As in Keras.
            *args: As in Keras.
            num_samples: Number of posterior samples S. None uses the model's default.
            **kwargs: As in Keras.

        Returns:
            Array (N, K), or several arrays in the structure of the model's outputs.
        """
        if num_samples is not None:
            size = batch_size or DEFAULT_BATCH_SIZE
            p = self.predictor.predict_uncertainty(x, num_samples, PREDICT_SEED, size)
            return keras.tree.map_structure(lambda each: each.mean, p)
        return super().predict(x, _batch_size(x, batch_size), verbose, *args, **kwargs)

    def evaluate(self, x=None, y=None, batch_size: int | None = None, verbose="auto", **kwargs):
        """Score the posterior predictive mean. Arguments and result are as in Keras."""
        return super().evaluate(x, y, _batch_size(x, batch_size), verbose, **kwargs)

    def predict_uncertainty(
        self,
        x,
        num_samples: int | None = None,
        seed: int | tuple[int, int] | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        return_samples: bool = False,
    ) -> Prediction:
        """Estimate predictions and their uncertainty, see `Predictor.predict_uncertainty`.

        Args:
            x: Inputs: arrays, a `tf.data.Dataset` or a `keras.utils.PyDataset`.
            num_samples: Number of posterior samples S. None uses the model's default.
            seed: Integer, pair of int32, or None for fresh draws at each call.
            batch_size: Number of rows of an array per batch. It changes memory and speed, not
                the result.
            return_samples: Whether to return the samples (S, N, K) too.

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
        """Return samples (S, N, K). Arguments are those of `predict_uncertainty`."""
        num_samples = self.num_samples if num_samples is None else num_samples
        return self.predictor.sample(x, num_samples, seed, batch_size)

    def embed(self, x, batch_size: int = DEFAULT_BATCH_SIZE) -> np.ndarray:
        """Return the inputs of the last layer at the posterior means, as features of examples.

        Use them to compare examples, for instance by distance.

        Args:
            x: Inputs (N, ...).
            batch_size: Number of rows of an array per batch.

        Returns:
            Features (N, F) float32.
        """
        self._forget_graphs()
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
        """Write the model with its uncertainty, for TensorFlow or for other runtimes.

        Args:
            filepath: Folder of the SavedModel, or path of the file.
            format: "tf_saved_model", see `export_saved_model`; "litert" or "onnx", see
                `export_baked`.
            verbose: Whether to print what was written. None is False.
            input_signature: As in Keras.
            **kwargs: `decisions` of `export_saved_model`: a fitted `uncertainty.Conformal` or
                `SelectiveClassifier`, which become the signatures `sets`, `intervals` and
                `decide`. Or `num_samples`, `seed` and `int8` of `export_baked`.

        Raises:
            ImportError: If a package that the format needs is not installed.
            ValueError: If the format or an argument is unknown, or the format cannot represent
                the model.
        """
        decisions = kwargs.pop("decisions", ())
        if format in ("litert", "onnx") and not decisions:
            shown = {"verbose": bool(verbose), "input_signature": input_signature}
            export_baked(self.predictor, filepath, format, **shown, **kwargs)
            return
        if format != "tf_saved_model" or kwargs:
            raise ValueError(
                "Expected format='tf_saved_model' with no other argument than `decisions`, or "
                f"'litert' or 'onnx' without `decisions`. Received: format={format!r}, "
                f"{kwargs or decisions}. Hint: other formats hold a single function; "
                "to_deterministic(model).export(...) writes the function at the posterior means."
            )
        export_saved_model(
            self.predictor,
            filepath,
            num_samples=self.num_samples,
            verbose=bool(verbose),
            input_signature=input_signature,
            decisions=decisions,
        )


def _batch_size(x, batch_size: int | None) -> int | None:
    """Choose the batch size for arrays. Datasets have their own, and Keras refuses another."""
    if batch_size is None and all(hasattr(a, "shape") for a in keras.tree.flatten(x)):
        return DEFAULT_BATCH_SIZE
    return batch_size


def _check_class_weight(model: keras.Model, class_weight: dict | None) -> None:
    """Refuse `class_weight` where Keras would look up the weight of something else than a class.

    It takes the position of the largest of several zeros and ones, and rounds real targets.
    """
    shapes = [tuple(x.shape) for x in getattr(model, "outputs", None) or ()]
    names = keras.tree.flatten(model.likelihood)
    several = any(len(shape) > 2 for shape in shapes) or (
        "bernoulli" in names and any(shape[-1] != 1 for shape in shapes)
    )
    if class_weight is not None and (several or "normal" in names):
        raise ValueError(
            "Expected one label per example with `class_weight`. Received: outputs of shapes "
            f"{shapes}, likelihood={model.likelihood!r}, which have several labels per example or "
            "real targets. Hint: sample_weight, one weight for each example or label."
        )


def _as_tensor(a):
    return tf.convert_to_tensor(a) if isinstance(a, np.ndarray) else a
