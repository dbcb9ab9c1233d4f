"""The predictor: one compiled graph from inputs to predictions with uncertainty."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.batches import batches
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.seeds import as_seed, fold_in
from tfp_bayes.layers import stochastic_layers
from tfp_bayes.prediction import streaming
from tfp_bayes.prediction.adapted import AdaptedStates
from tfp_bayes.prediction.calibration import calibrated, calibration_of
from tfp_bayes.prediction.finite import FiniteWeights, finite_rows, nan_unless
from tfp_bayes.prediction.inference_mode import refuse_forced_training, run_isolated
from tfp_bayes.prediction.inputs import ROWS, signature, whole_blocks
from tfp_bayes.prediction.likelihoods import Likelihood, get_likelihood
from tfp_bayes.prediction.linearized import linearized
from tfp_bayes.prediction.posterior import Posterior, check_posterior, with_noise_scales
from tfp_bayes.prediction.prediction import Prediction, concatenate
from tfp_bayes.prediction.split import SplitModel, check_ranks

# Large enough to keep matrix products busy, small enough for an image network in a few GB.
DEFAULT_BATCH_SIZE = 6 * ROWS
DEFAULT_NUM_SAMPLES = 100
# Only subclassed models, whose input shapes are unknown, need many. The oldest graph is deleted.
MAX_GRAPHS = 8


class Predictor:
    """Predictor of means and uncertainties for any Keras model with stochastic layers.

    Sample s is one function, because theta_s depends only on (`seed`, s, layer). So the result for
    a row does not depend on the batch size or on other rows (bit for bit on a CPU), and the random
    state of layers is neither read nor changed. The deterministic layers before the first random
    one run once. Sums over samples are streamed, so memory does not grow with `num_samples`.

    Args:
        model: A built Keras model with at least one stochastic layer, such as `MCDropout`, or any
            model together with `posterior`. Without either, only `num_samples=1` is accepted.
        likelihood: Meaning of the outputs: "categorical" (softmax over the last axis),
            "bernoulli" (sigmoid) or "normal" (`NormalParameters`). For several outputs, pass one
            name for all, or a structure of names like the model's outputs.
        posterior: A distribution over variables of the model, such as `Ensemble`. The noise of
            stochastic layers is added to it. If its `combine` is "vote", each sample only counts
            as a vote for its most probable class.
        linearize: Whether samples are f(x; center) + J (theta_s - center) instead of
            f(x; theta_s). J is the Jacobian of the logits with respect to the weights, or for
            "normal" that of the locations, with the scales of the center. J is never stored: a
            sample takes one forward and two backward passes. None uses `posterior.linearize`, if
            it exists, or else False.

    Raises:
        ValueError: If `likelihood` is unknown, or `posterior` is not over variables of this model.
            In predictions, if outputs to linearize do not come from a softmax or sigmoid.

    Reference:
        Gal and Ghahramani 2016, equation 6, arXiv:1506.02142; Immer et al. 2021, "Improving
        predictions of Bayesian neural nets via local linearization", equation 8, arXiv:2008.08400.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((2,)), MCDropout(0.5), keras.layers.Dense(3, activation="softmax")])
    >>> predictor = Predictor(model)
    >>> p = predictor.predict_uncertainty(np.ones((5, 2)), num_samples=20, seed=0)
    >>> p.mean.shape, p.mutual_information.shape
    ((5, 3), (5,))
    """

    def __init__(
        self,
        model: keras.Model,
        likelihood: str | Any = "categorical",
        posterior: Posterior | None = None,
        linearize: bool | None = None,
    ):
        keras.tree.map_structure(get_likelihood, likelihood)
        refuse_forced_training(model)
        self.model = model
        self.likelihood = likelihood
        self.posterior = posterior
        self._layers = stochastic_layers(model)
        self.linearize = getattr(posterior, "linearize", False) if linearize is None else linearize
        if posterior is not None:
            check_posterior(posterior, model, self.linearize)
        elif linearize:
            raise ValueError(
                "Expected a `posterior` for linearize=True. Received: posterior=None. "
                "Hint: use Predictor(model, posterior=Ensemble(members))."
            )
        self._split = self._split_model()
        self._structure = None  # structure of the model's outputs, known after tracing
        self._traced: list[Any] = []  # weights and calibration that the graphs use
        self._states = AdaptedStates(model)  # of preprocessing layers, which the graphs contain
        self._compiled: dict[tuple, Callable] = {}
        self._finite_weights = FiniteWeights([])

    def __reduce__(self):
        """Pickle and copy the arguments. The new predictor traces its own graphs."""
        return type(self), (self.model, self.likelihood, self.posterior, self.linearize)

    def predict_uncertainty(
        self,
        x,
        num_samples: int | None = None,
        seed: int | tuple[int, int] | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        return_samples: bool = False,
    ) -> Prediction:
        """Estimate predictions and their uncertainty from `num_samples` posterior samples.

        Args:
            x: Inputs: array (N, ...), structure of arrays, `tf.data.Dataset` or
                `keras.utils.PyDataset` (with or without targets).
            num_samples: Number of samples S. None uses every draw of a finite posterior once, and
                100 samples otherwise.
            seed: Integer, pair of int32, or None for new random draws.
            batch_size: Rows per batch of arrays. Affects memory and speed, but not the result.
            return_samples: Whether to return the samples (S, N, K) too.

        Returns:
            A `Prediction`, or for a model with several outputs a structure of them.

        Raises:
            ValueError: If `num_samples` is below 1, is above 1 for a model that is not random, or
                would count some draws of a finite posterior more often than others.
        """
        num_samples, theta_seed = self.resolve_num_samples(num_samples), as_seed(seed)
        self._look_at_weights()
        parts, finite_parts = [], []
        for batch in batches(x, batch_size):
            results, rows = self._function(batch, return_samples)(batch, num_samples, theta_seed)
            parts.append(keras.tree.map_structure(np.asarray, results))
            finite_parts.append(np.asarray(rows))
        if not parts:
            raise ValueError(
                "Expected at least one batch in `x`. Received: an empty dataset. "
                "Hint: check its filters and its cardinality()."
            )
        names = iter(self.likelihood_names(len(keras.tree.flatten(self._structure))))
        finite = np.concatenate(finite_parts)
        calibration = calibration_of(self.model, self.posterior)
        t = 1.0 if calibration is None else calibration.temperature

        def join(*parts: dict[str, np.ndarray]) -> Prediction:
            name = next(names)
            return concatenate([Prediction(**p, likelihood=name, temperature=t) for p in parts])

        predictions = keras.tree.map_structure_up_to(self._structure, join, *parts)
        for prediction in keras.tree.flatten(predictions):
            get_likelihood(prediction.likelihood).check(prediction.mean[finite])
        return predictions

    def predict(
        self,
        x,
        num_samples: int | None = None,
        seed: int | tuple[int, int] | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> np.ndarray:
        """Return the posterior predictive mean (N, K), see `predict_uncertainty`."""
        prediction = self.predict_uncertainty(x, num_samples, seed, batch_size)
        return keras.tree.map_structure(lambda p: p.mean, prediction)

    def sample(
        self,
        x,
        num_samples: int | None = None,
        seed: int | tuple[int, int] | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> np.ndarray:
        """Return the samples (S, N, K), see `predict_uncertainty`.

        Row s is one function, evaluated at every input, so samples of several inputs are joint.
        """
        prediction = self.predict_uncertainty(x, num_samples, seed, batch_size, return_samples=True)
        return keras.tree.map_structure(lambda p: p.samples, prediction)

    def stream(
        self,
        inputs,
        num_samples: tf.Tensor,
        seed: tf.Tensor,
        keep_samples: bool = False,
        valid: tf.Tensor | None = None,
    ):
        """Build the graph of a prediction, to call inside a `tf.function` without `jit_compile`.

        Args:
            inputs: One batch of the model's inputs.
            num_samples: Number of samples S >= 1, int32 scalar.
            seed: int32 (2,).
            keep_samples: Whether to return all samples (S, N, K) too.
            valid: Booleans (N,). The results of other rows are NaN. None checks in the graph that
                a row and all weights are finite, for Keras' `predict` and exported models.

        Returns:
            A dictionary of tensors named like the attributes of `Prediction`, or for a model with
            several outputs a structure of dictionaries.
        """
        num_samples = tf.convert_to_tensor(num_samples, tf.int32)
        with tf.control_dependencies(self._num_samples_assertions(num_samples)):
            if valid is None:
                valid = finite_rows(inputs) & FiniteWeights(self.model.weights).all_finite()
        inputs, num_rows = whole_blocks(inputs)
        values = self.share(inputs)

        # One function for all samples, since tracing a model takes seconds.
        draw = tf.function(lambda s: self.draw(values, s, seed), autograph=False)
        draw = draw.get_concrete_function(tf.TensorSpec([], tf.int32))

        # The first sample determines the shapes of the accumulators. The loop adds the others.
        outputs = draw(tf.constant(0))
        self._structure = keras.tree.map_structure(lambda _: 0, outputs)
        flat = keras.tree.flatten(outputs)
        likelihoods = self._likelihoods(len(flat))
        moments = [streaming.first(p, each) for p, each in zip(flat, likelihoods)]
        kept = []
        if keep_samples:
            kept = [tf.TensorArray(p.dtype, num_samples).write(0, p) for p in flat]

        def step(s, moments, kept):
            flat = keras.tree.flatten(draw(s))
            moments = [
                streaming.add(m, p, s + 1, each) for m, p, each in zip(moments, flat, likelihoods)
            ]
            return s + 1, moments, [array.write(s, p) for array, p in zip(kept, flat)]

        _, moments, kept = tf.while_loop(
            lambda s, *_: s < num_samples, step, (tf.constant(1), moments, kept)
        )
        results, calibration = [], calibration_of(self.model, self.posterior)
        for i, (m, each) in enumerate(zip(moments, likelihoods)):
            result = streaming.measures(m, num_samples, each, flat[i].dtype)
            result = calibrated(result, each, calibration)
            result = {name: nan_unless(valid, value[:num_rows]) for name, value in result.items()}
            if keep_samples:
                result["samples"] = nan_unless(valid, kept[i].stack()[:, :num_rows], axis=1)
            results.append(result)
        return keras.tree.pack_sequence_as(self._structure, results)

    def stream_mean(self, inputs, num_samples: tf.Tensor, seed: tf.Tensor):
        """Build the graph of the predictive mean (N, K), see `stream`."""
        results = self.stream(inputs, num_samples, seed)
        return keras.tree.map_structure_up_to(self._structure, lambda r: r["mean"], results)

    def stream_outputs(self, inputs, num_samples: tf.Tensor, seed: tf.Tensor):
        """Build the graph of the predictive distribution, in the form of the model's outputs.

        For probabilities, these are the mean. For "normal", these are means followed by total
        standard deviations. See `stream` for the arguments.
        """
        results = self.stream(inputs, num_samples, seed)
        likelihoods = iter(self._likelihoods(len(keras.tree.flatten(self._structure))))

        def outputs(result):
            variance = result["epistemic_variance"] + result["aleatoric_variance"]
            return next(likelihoods).outputs(result["mean"], variance)

        return keras.tree.map_structure_up_to(self._structure, outputs, results)

    def share(self, inputs, masks_on_kernels: bool = True):
        """Build the graph of the values that all samples share, for `draw`, see `SplitModel`."""
        self._split = self._split_model(masks_on_kernels)  # layers may have changed since
        return run_isolated(self.model, self._split.prefix, inputs)

    def draw(self, values, index, seed: tf.Tensor):
        """Build the graph of the outputs of sample `index`, from the result of `share`."""
        seed = fold_in(seed, index)
        state = [
            (layer.seed_generator.state, tf.cast(fold_in(seed, i), "int64"))
            for i, layer in enumerate(self._layers)
        ]

        def run(weights):
            replaced = [] if self.posterior is None else self.posterior.variables
            given = [*state, *zip(replaced, weights, strict=True)]
            outputs = run_isolated(self.model, self._split.suffix, values, given)
            check_ranks(outputs)
            return with_noise_scales(outputs, self.posterior)

        if self.posterior is None:
            outputs = run([])
        else:
            weights = self.posterior.draw(index, fold_in(seed, len(self._layers)))
            if self.linearize:
                outputs = linearized(run, self.posterior.center(), weights, self.likelihood_names)
            else:
                outputs = run(weights)
        # Use at least single precision for sums over samples, also under mixed_float16.
        outputs = keras.tree.map_structure(
            lambda p: p if p.dtype == tf.float64 else tf.cast(p, tf.float32), outputs
        )
        if getattr(self.posterior, "combine", "mean") == "vote":
            flat = keras.tree.flatten(outputs)
            votes = [each.vote(p) for each, p in zip(self._likelihoods(len(flat)), flat)]
            outputs = keras.tree.pack_sequence_as(outputs, votes)
        return outputs

    def _likelihoods(self, num_outputs: int) -> list[Likelihood]:
        return [get_likelihood(name) for name in self.likelihood_names(num_outputs)]

    def likelihood_names(self, num_outputs: int) -> list[str]:
        """Return the name of the likelihood of each output.

        Raises:
            ValueError: If the number of names is neither 1 nor `num_outputs`.
        """
        names = keras.tree.flatten(self.likelihood)
        if len(names) == 1:
            names *= num_outputs
        if len(names) != num_outputs:
            raise ValueError(
                f"Expected one `likelihood`, or one for each of {num_outputs} outputs. "
                f"Received: likelihood={self.likelihood!r}. Hint: a single name applies to all."
            )
        return names

    def _split_model(self, masks_on_kernels: bool = True) -> SplitModel:
        random = () if self.posterior is None else self.posterior.variables
        return SplitModel(self.model, random, masks_on_kernels)

    def _look_at_weights(self) -> None:
        """Raise ValueError for weights that do not fit, and delete graphs of replaced weights.

        Quantization and LoRA replace weights, a new calibration replaces the old one, and graphs
        contain the state of preprocessing layers. New values in the same variables do not require
        a new graph.
        """
        if self.posterior is not None:
            check_posterior(self.posterior, self.model, self.linearize)
        weights = self.model.weights
        traced = [*weights, calibration_of(self.model, self.posterior)]
        is_adapted = self._states.have_changed()
        if is_adapted or list(map(id, traced)) != list(map(id, self._traced)):
            self._traced, self._compiled = traced, {}
            self._finite_weights = FiniteWeights(weights)
        self._finite_weights.check()

    def _function(self, batch, keep_samples: bool) -> tf.types.experimental.PolymorphicFunction:
        """Return the compiled `_answer` for inputs like these, with any number of rows."""
        spec = signature(self.model, batch)
        key = (repr(spec), keep_samples)
        if key not in self._compiled:
            if len(self._compiled) == MAX_GRAPHS:
                del self._compiled[next(iter(self._compiled))]
            types = [spec, tf.TensorSpec([], tf.int32), tf.TensorSpec([2], tf.int32)]
            # For a method, TensorFlow would count the traces of all predictors together, and warn.
            answer = functools.partial(self._answer, keep_samples)
            self._compiled[key] = tf.function(answer, input_signature=types, autograph=False)
        return self._compiled[key]

    def _answer(self, keep_samples: bool, x, num_samples: tf.Tensor, seed: tf.Tensor):
        """Return the result of `stream` for finite weights, and whether each input is finite."""
        return self.stream(x, num_samples, seed, keep_samples, rows := finite_rows(x)), rows

    def resolve_num_samples(self, num_samples: int | None) -> int:
        """Return the number of samples to draw, see `predict_uncertainty`.

        Raises:
            ValueError: If the model cannot provide so many different samples of equal weight.
        """
        num_draws = None if self.posterior is None else self.posterior.num_draws
        if num_samples is None:
            num_samples = num_draws or DEFAULT_NUM_SAMPLES
        check_integers(1, num_samples=num_samples)
        if num_samples > 1 and not self.is_random:
            raise ValueError(
                f"Expected a model with stochastic layers for `num_samples={num_samples}`. "
                f"Received: model={self.model.name!r} without any, so all samples would be equal. "
                "Hint: replace keras.layers.Dropout by tfp_bayes.layers.MCDropout, pass "
                "posterior=, or use num_samples=1."
            )
        if num_draws is not None and not self._is_balanced(num_samples):
            multiple = "a multiple of " if self._layers else ""
            raise ValueError(
                f"Expected {multiple}the posterior's {num_draws} draws for `num_samples`. "
                f"Received: num_samples={num_samples}, which would count draws unequally, or "
                "compute them repeatedly. Hint: omit it to use each draw once."
            )
        return num_samples

    @property
    def is_random(self) -> bool:
        """Whether samples differ, because there are stochastic layers or a posterior."""
        return bool(self._layers) or self.posterior is not None

    def _is_balanced(self, num_samples):
        """Return whether all draws of a finite posterior count equally, for numbers or tensors.

        With noise from stochastic layers, it is useful to compute a draw several times.
        """
        num_draws = self.posterior.num_draws
        return num_samples % num_draws == 0 if self._layers else num_samples == num_draws

    def _num_samples_assertions(self, num_samples: tf.Tensor) -> list[tf.Operation]:
        """Build the checks of `resolve_num_samples` as graph operations, for exported models."""
        assertions = [tf.debugging.assert_positive(num_samples, "num_samples")]
        if self.posterior is not None and self.posterior.num_draws is not None:
            message = f"num_samples, for a posterior of {self.posterior.num_draws} draws"
            assertions.append(tf.debugging.Assert(self._is_balanced(num_samples), [message]))
        return assertions
