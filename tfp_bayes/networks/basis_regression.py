"""A closed-form Bayesian linear head on the features of a deep network."""

import inspect

import keras
import numpy as np

from tfp_bayes._plumbing.batches import (
    batches,
    check_finite_arrays,
    check_reads_once,
    has_end,
    labelled_batches,
)
from tfp_bayes.layers import BayesianLinear, ClassProbabilities, regression_data
from tfp_bayes.models.bayesian_model import BayesianModel
from tfp_bayes.models.dropout_prior import has_prior_scale
from tfp_bayes.models.kl_weight import set_kl_weight
from tfp_bayes.models.num_train import resolve_num_train
from tfp_bayes.networks.basis_data import (
    are_inputs,
    as_features,
    check_features,
    empty_history,
    example_weights,
    input_like,
    joined,
    nan_unless_finite,
    one_hot,
    without_split,
)
from tfp_bayes.prediction import Prediction
from tfp_bayes.prediction.predictor import DEFAULT_BATCH_SIZE, DEFAULT_NUM_SAMPLES


@keras.saving.register_keras_serializable("tfp_bayes")
class BayesianBasisRegression(BayesianModel):
    """Bayesian linear regression on the features of a network, exact for given features.

    `fit` trains the features together with an ordinary readout (a softmax for classes), which is
    then discarded. `condition` computes the posterior of a `BayesianLinear` head on the trained
    features, with classes as one-hot targets. The predictive distribution is normal and needs one
    forward pass without sampling: `predict` returns its mean, and `predict_uncertainty` splits its
    variance. `sample`, `Predictor` and `export` draw weight matrices, as in every other model.

    Args:
        features: A built Keras model from inputs to features (N, F), for example a
            `keras.applications` backbone with pooling. `features.trainable = False` freezes it.
            An integer F means that the inputs already are features, for example from `embed` of
            another model. None uses Gal's network up to its 128 units, for 28 x 28 images.
        num_outputs: Number D of classes or of real-valued targets.
        task: "classification" for integer labels (N,), or "regression" for targets (N, D).
        optimize_evidence: Whether `condition` chooses prior and noise scale by marginal
            likelihood. Use it only if the features were trained on other examples. Features that
            were trained on the same examples fit them too well, so the noise would be too small.
        posterior: "matrix_normal" or "mean_field", see `BayesianLinear` as for the next arguments.
        prior_scale: Prior standard deviation of the head's weights. The larger the features, the
            smaller it should be.
        noise_scale: Standard deviation of the noise in the targets.
        output_covariance: Covariance between outputs.
        per_output: Whether each output has its own scales.
        num_samples: Number of posterior samples S of the exported mean, and the default of
            `sample`.
        seed: Seed of the head's draws, an integer or None.
        name: Name of the model, or None.

    Raises:
        ValueError: If `task` is unknown, the features are not (N, F), or the head refuses its
            arguments.

    Reference:
        Bishop 2006, "Pattern Recognition and Machine Learning", section 3.3; Snoek et al. 2015,
        "Scalable Bayesian Optimization Using Deep Neural Networks", section 3, arXiv:1502.05700.

    Example:

    >>> features = keras.Sequential([keras.Input((2,)), keras.layers.Dense(16, "tanh")])
    >>> model = tfp_bayes.BayesianBasisRegression(features, 3)
    >>> model.compile("adam")
    >>> x, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 3
    >>> _ = model.fit(x, y, verbose=0)  # trains the features, then conditions the head
    >>> p = model.predict_uncertainty(x)
    >>> p.mean.shape, p.epistemic_variance.shape, p.aleatoric_variance.shape
    ((60, 3), (60, 3), (60, 3))
    """

    def __init__(
        self,
        features: keras.Model | int | None = None,
        num_outputs: int = 10,
        *,
        task: str = "classification",
        optimize_evidence: bool = False,
        posterior: str = "matrix_normal",
        prior_scale: float = 1.0,
        noise_scale: float = 1.0,
        output_covariance: np.ndarray | list | str | None = None,
        per_output: bool = False,
        num_samples: int = DEFAULT_NUM_SAMPLES,
        seed: int | None = None,
        name: str | None = None,
    ):
        if task not in ("classification", "regression"):
            raise ValueError(
                "Expected 'classification' or 'regression' for `task`. "
                f"Received: task={task!r}. Hint: the task determines the loss of the features."
            )
        network = as_features(features, seed)
        check_features(network)
        sequential = isinstance(network, keras.Sequential)
        inputs = network.inputs[0] if sequential else network.input
        inputs = keras.tree.map_structure(input_like, inputs)
        phi = network(inputs)
        head = BayesianLinear(
            num_outputs,
            posterior=posterior,
            prior_scale=prior_scale,
            noise_scale=noise_scale,
            output_covariance=output_covariance,
            per_output=per_output,
            include_noise=True,
            seed=seed,
            name="head",
        )
        super().__init__(inputs, head(phi), name=name, likelihood="normal", num_samples=num_samples)
        activation = "softmax" if task == "classification" else None
        readout = keras.layers.Dense(num_outputs, activation, dtype="float32", name="readout")
        self.features = network
        self._embedded = are_inputs(network)
        self.head = head
        self.training_model = keras.Model(inputs, readout(phi), name="training_model")
        self.task = task
        self.optimize_evidence = optimize_evidence
        self.num_classes = num_outputs
        self._config = {
            "num_outputs": num_outputs,
            "task": task,
            "optimize_evidence": optimize_evidence,
            "posterior": posterior,
            "prior_scale": prior_scale,
            "noise_scale": noise_scale,
            "output_covariance": head.output_covariance,
            "per_output": per_output,
            "num_samples": num_samples,
            "seed": seed,
            "name": self.name,
        }

    # Learning.

    def compile(self, optimizer="adam", loss=None, *args, **kwargs) -> None:
        """Configure the training of the features, as `keras.Model.compile` does.

        Args:
            optimizer: As in Keras.
            loss: Loss of the readout. None is the cross-entropy of integer labels, or the squared
                error.
            *args: As in Keras. `metrics` are those of the readout during training.
            **kwargs: As in Keras.
        """
        if loss is None:
            classes = self.task == "classification"
            loss = "sparse_categorical_crossentropy" if classes else "mean_squared_error"
        self.training_model.compile(optimizer, loss, *args, **kwargs)
        self.optimizer = self.training_model.optimizer
        self.compiled = True

    def fit(self, x=None, y=None, *args, condition_on=None, **kwargs):
        """Train the features as `keras.Model.fit` does, then condition the head.

        The head is conditioned on the training examples of the features, with their sample
        weights and without those that `validation_split` holds out. If the features are frozen, no
        epoch is run and the history is empty.

        Args:
            x: Training data, as in Keras.
            y: Labels or targets, as in Keras.
            *args: As in Keras.
            condition_on: Data for the head, if `x` is endless or can be read only once: (x, y),
                (x, y, sample_weight) or a finite dataset.
            **kwargs: As in Keras.

        Returns:
            Keras' History of the readout.

        Raises:
            ValueError: If the model is not compiled, `x` has NaN or infinite values, or `x` is
                endless or can be read only once and `condition_on` is None.
        """
        if not self.compiled:
            raise ValueError(
                "Expected a compiled model. Received: a new one. Hint: model.compile('adam')."
            )
        if condition_on is None and not has_end(x):
            raise ValueError(
                "Expected `condition_on` for data that are endless or can be read only once. "
                f"Received: a {type(x).__name__} as `x`, condition_on=None. "
                "Hint: fit(dataset.repeat(), condition_on=(x, y), steps_per_epoch=...)."
            )
        check_reads_once(x if condition_on is None else condition_on)
        check_finite_arrays(x)
        num_train = kwargs.pop("num_train", None)
        given = inspect.signature(self.training_model.fit).bind(x, y, *args, **kwargs).arguments
        triple = (x, y, given.get("sample_weight"))
        data = without_split(triple, given) if condition_on is None else condition_on
        if has_prior_scale(self.features):
            num_train = resolve_num_train(num_train, None, x, given.get("validation_split", 0.0))
            if num_train:  # otherwise training raises an error that asks for KLWeight
                set_kl_weight(self.training_model, 1 / num_train)
        training = self.training_model
        fixed = self.has_fixed_features
        history = empty_history(training) if fixed else training.fit(x, y, *args, **kwargs)
        data = data if isinstance(data, tuple | list) else (data,)
        self._condition(*data, class_weight=given.get("class_weight"))
        return history

    @property
    def has_fixed_features(self) -> bool:
        """Whether the features have no trainable weights, so `fit` only conditions the head."""
        return not self.features.trainable_variables

    def condition(
        self, x, y=None, batch_size: int = DEFAULT_BATCH_SIZE, sample_weight=None
    ) -> None:
        """Compute the head's posterior given these examples, replacing earlier ones.

        Args:
            x: Inputs (N, ...), or a finite `tf.data.Dataset` or `PyDataset` of (x, y) or
                (x, y, sample_weight).
            y: Labels (N,) or targets (N, D).
            batch_size: Number of rows of an array per batch.
            sample_weight: Weights (N,) of examples, see `BayesianLinear.condition`.

        Raises:
            ValueError: If targets are missing, or the data are endless or repeated.
        """
        self._condition(x, y, sample_weight, batch_size)

    def _condition(
        self, x, y=None, sample_weight=None, batch_size=DEFAULT_BATCH_SIZE, class_weight=None
    ) -> None:
        check_reads_once(x)
        triples = (
            (self._features(a), self.encode_targets(b), example_weights(b, w, class_weight))
            for a, b, w in labelled_batches(x, y, sample_weight, batch_size)
        )
        self.head.condition(triples, optimize_evidence=self.optimize_evidence)

    # Prediction.

    def predict_uncertainty(
        self,
        x,
        num_samples: int | None = None,
        seed: int | tuple[int, int] | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        return_samples: bool = False,
    ) -> Prediction:
        """Return the exact predictive distribution, without sampling.

        Args:
            x: Inputs: arrays, a `tf.data.Dataset` or a `keras.utils.PyDataset`.
            num_samples: Number of samples S if `return_samples`. None uses the model's default.
            seed: Seed of the samples: integer, pair of int32, or None for fresh draws.
            batch_size: Number of rows of an array per batch.
            return_samples: Whether to also draw samples (S, N, 2 D).

        Returns:
            A `Prediction`. Its mutual information is between normal targets and the weights.
        """
        features = joined(map(self._features, batches(x, batch_size)))
        parts = [self.head.predictive(phi) for phi in features]
        mean = np.concatenate([p.mean for p in parts])
        variance = np.concatenate([p.epistemic_variance for p in parts])
        noise = np.broadcast_to(parts[0].noise_variance, mean.shape)
        constant = np.log(2 * np.pi * np.e)
        total, aleatoric = ((constant + np.log(v)).sum(-1) / 2 for v in (variance + noise, noise))
        samples = self.sample(x, num_samples, seed, batch_size) if return_samples else None
        return Prediction(
            mean=mean,
            predictive_entropy=total,
            expected_entropy=aleatoric,
            mutual_information=total - aleatoric,
            variation_ratio=np.full(len(mean), np.nan),
            mean_std=np.sqrt(variance).mean(-1),
            epistemic_variance=variance,
            aleatoric_variance=noise,
            likelihood="normal",
            samples=samples,
        )

    def predict(
        self,
        x,
        batch_size: int | None = None,
        verbose="auto",
        *args,
        num_samples: int | None = None,
        **kwargs,
    ) -> np.ndarray:
        """Return the exact predictive mean (N, D). Other arguments are accepted but not used."""
        return self.predict_uncertainty(x, batch_size=batch_size or DEFAULT_BATCH_SIZE).mean

    def evaluate(  # type: ignore[override]  # a single exact pass has no steps and no callbacks
        self,
        x=None,
        y=None,
        batch_size: int | None = None,
        verbose="auto",
        return_dict=False,
        sample_weight=None,
    ) -> list[float] | dict[str, float]:
        """Score the predictive distribution.

        Args:
            x: Inputs, or a dataset of (x, y) or (x, y, sample_weight).
            y: Labels (N,) or targets (N, D).
            batch_size: Number of rows of an array per batch.
            verbose: Ignored, since there is no progress to show.
            return_dict: Whether to return a dictionary instead of a list.
            sample_weight: Weights (N,) of examples in the means.

        Returns:
            `loss`, the mean negative log likelihood of an example in nats, summed over outputs, and
            `root_mean_squared_error` over examples and outputs.
        """
        nll, squares, count = 0.0, 0.0, 0
        for a, b, w in labelled_batches(x, y, sample_weight, batch_size or DEFAULT_BATCH_SIZE):
            p, targets = self.head.predictive(self._features(a)), self.encode_targets(b)
            variance = p.epistemic_variance + p.noise_variance
            error = (targets - p.mean) ** 2
            weight = np.ones(len(error)) if w is None else np.asarray(w)
            nll += weight @ (np.log(2 * np.pi * variance) + error / variance).sum(-1) / 2
            squares += weight @ error.mean(-1)
            count += weight.sum()
        results = {"loss": nll / count, "root_mean_squared_error": float(np.sqrt(squares / count))}
        return results if return_dict else list(results.values())

    def to_classifier(self) -> BayesianModel:
        """Return a classifier that shares the features and the head's posterior.

        Each draw of the head is a function from inputs to probabilities, see `ClassProbabilities`.
        The measures, acquisition functions and export of classifiers therefore apply.

        Raises:
            ValueError: If the outputs are not classes.
        """
        if self.task != "classification":
            raise ValueError(
                "Expected a model for classification. Received: task='regression'. "
                "Hint: BayesianBasisRegression(task='classification')."
            )
        probabilities = ClassProbabilities(name="probabilities")(self.output)
        return BayesianModel(self.input, probabilities, num_samples=self.num_samples)

    def embed(self, x, batch_size: int = DEFAULT_BATCH_SIZE) -> np.ndarray:
        """Return the features (N, F) of inputs."""
        return np.concatenate(list(joined(map(self._features, batches(x, batch_size)))))

    def greedy_batch(self, x, query_size: int, batch_size: int = DEFAULT_BATCH_SIZE) -> np.ndarray:
        """Select the inputs whose labels reduce variance most, see `BayesianLinear.greedy_batch`.

        Args:
            x: Inputs (N, ...).
            query_size: Number of inputs to select.
            batch_size: Number of rows of an array per batch.

        Returns:
            Positions (query_size,) int64, in the order of selection.
        """
        return self.head.greedy_batch(self.embed(x, batch_size), query_size)

    def _features(self, x) -> np.ndarray:
        if self._embedded:
            return np.asarray(x)
        return nan_unless_finite(np.asarray(self.features.predict_on_batch(x)), x)

    def encode_targets(self, y) -> np.ndarray:
        """Return the targets (B, D) of the head: one-hot labels, or real targets after a check."""
        if y is None:
            raise ValueError(
                "Expected targets. Received: none. Hint: pass `y`, or a dataset of (x, y)."
            )
        if self.task == "regression":
            return regression_data.check_targets(y, self.head.units, self.name)
        return one_hot(y, self.num_classes)

    # Saving.

    def get_compile_config(self) -> dict | None:
        """Return the arguments of `compile` for the training of the features."""
        return self.training_model.get_compile_config() if self.compiled else None

    def compile_from_config(self, config: dict) -> None:
        """Compile the training of the features with arguments of `get_compile_config`."""
        self.training_model.compile_from_config(config)
        self.optimizer = self.training_model.optimizer
        self.compiled = True

    def get_config(self) -> dict:
        """Return the constructor arguments as plain JSON."""
        return {"features": keras.saving.serialize_keras_object(self.features), **self._config}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None):
        """Rebuild the model from `get_config()`."""
        features = keras.saving.deserialize_keras_object(config["features"], custom_objects)
        return cls(**{**config, "features": features})
