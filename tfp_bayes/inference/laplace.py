"""The Laplace approximation for a whole network or for its last layer."""

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfp_bayes._plumbing.batches import check_reads_once, unpack_validation_data
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import Configured, check_positive
from tfp_bayes._plumbing.optimize import minimize_from_grid
from tfp_bayes.inference.curvature import CURVATURES
from tfp_bayes.inference.labelled_run import flat_targets, labelled, run_model, seen_positions
from tfp_bayes.inference.laplace_posterior import LaplacePosterior
from tfp_bayes.inference.last_layer_laplace import LastLayerLaplace
from tfp_bayes.inference.network_curvature import network_curvature
from tfp_bayes.inference.online_laplace import EarlierData
from tfp_bayes.inference.target_noise import resolve_observations, with_noise_of_evidence
from tfp_bayes.inference.training import train
from tfp_bayes.layers import stochastic_layers
from tfp_bayes.prediction.adapted import update_constants
from tfp_bayes.prediction.finite import FiniteWeights
from tfp_bayes.prediction.inference_mode import refuse_forced_training
from tfp_bayes.prediction.likelihoods import get_likelihood
from tfp_bayes.prediction.predictor import Predictor

_COVARIANCES = {"all": ("kronecker", "diagonal"), "last_layer": tuple(CURVATURES)}
_LOG_SCALES = np.linspace(np.log(1e-4), np.log(1e4), 81)  # initial grid for the evidence
_LOG_SCALES_OF_VALIDATION = np.linspace(np.log(1e-3), np.log(1e2), 11)
_NUM_SAMPLES = 32  # samples for predicting validation data


class Laplace(Configured):
    """A normal posterior around trained weights, from one pass over the data.

    Use it if the network is already trained. The network does not change, and a `Predictor`
    computes its uncertainty from samples of the network linearized in its weights. The precision
    of the posterior is the generalized Gauss-Newton matrix plus the precision of the prior, with a
    block for each layer that applies a matrix at each position: dense layers, convolutions, the
    projections of attention, embeddings and layer normalization. Other weights, such as those of
    BatchNormalization and of recurrent cells, keep their values and are listed in
    `posterior.left_at_map`.

    Args:
        covariance: "kronecker" (one factor for a layer's inputs and one for its units) or
            "diagonal" (independent weights). For the last layer also "full" or "shared".
        prior_scale: Prior standard deviation of each weight, or how to find it: "evidence"
            maximizes the marginal likelihood, "validation" the likelihood of `validation_data`.
            None uses "validation" if `validation_data` are given, else the `prior_scale` of a
            `BayesianModel`, else "evidence".
        variables: "all", or "last_layer" for a `LastLayerLaplace`, which requires a classifier that
            ends in a Dense layer with a softmax. For the last layer of other models, such as
            sigmoids and regressions, set trainable = False in all other layers and use "all".
        likelihood: Meaning of the outputs, see `Predictor`. None uses the likelihood of a
            `BayesianModel`, and "categorical" for other models. Under "normal", outputs (N, D) of
            a model trained with a squared error are locations, and the posterior includes the
            noise of the targets.
        seed: Integer, for training and for the samples that predict validation data.
        temperature: Factor T that multiplies the covariance. It is applied after the prior scale is
            found by evidence, and during the search by validation. 1 gives the Bayesian posterior.
        noise_scale: Standard deviation of targets around their locations: one number, or one for
            each target. None uses the root mean square of the training residuals of each target.
            "evidence" multiplies these by a common factor that maximizes the marginal likelihood,
            jointly with the prior scale if that is "evidence" too. It cannot be combined with
            `validation_data`.

    Raises:
        ValueError: If an argument is out of range, or arguments contradict each other.

    Reference:
        Daxberger et al. 2021, "Laplace Redux", sections 2 and 3, arXiv:2106.14806; Ritter et al.
        2018, section 3, https://openreview.net/forum?id=Skdvd2xAZ.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((2,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3, "softmax")])
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> x, y = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 3
    >>> posterior = Laplace(prior_scale=1.0).fit(model, x, y, epochs=2, verbose=0)
    >>> Predictor(model, posterior=posterior).predict_uncertainty(x).mean.shape
    (50, 3)
    """

    def __init__(
        self,
        covariance: str = "kronecker",
        prior_scale: float | str | None = None,
        variables: str = "all",
        likelihood: Any = None,
        seed: int = 0,
        temperature: float = 1.0,
        noise_scale: float | Sequence[float] | str | None = None,
    ):
        if variables not in list(_COVARIANCES):
            raise ValueError(
                f"Expected one of {sorted(_COVARIANCES)} for `variables`. "
                f"Received: variables={variables!r}. Hint: 'all' is the default."
            )
        if covariance not in list(_COVARIANCES[variables]):
            raise ValueError(
                f"Expected one of {sorted(_COVARIANCES[variables])} for `covariance` with "
                f"variables={variables!r}. Received: covariance={covariance!r}. "
                "Hint: 'kronecker' is the most exact for a whole network."
            )
        if isinstance(prior_scale, str):
            if prior_scale not in ("evidence", "validation"):
                raise ValueError(
                    "Expected a positive number, 'evidence', 'validation' or None for "
                    f"`prior_scale`. Received: prior_scale={prior_scale!r}. "
                    "Hint: 'validation' is the safest; it needs validation_data."
                )
        elif prior_scale is not None:
            check_positive(prior_scale=prior_scale)
        _check_likelihood(likelihood, variables)
        _check_noise_scale(noise_scale, prior_scale, variables)
        check_positive(temperature=temperature)
        check_integers(0, seed=seed)
        self.covariance = covariance
        self.prior_scale = prior_scale
        self.variables = variables
        self.likelihood = likelihood
        self.seed = seed
        self.temperature = float(temperature)
        self.noise_scale = noise_scale

    def fit(
        self,
        model: keras.Model,
        x: Any,
        y: np.ndarray | None = None,
        *,
        epochs: int = 0,
        validation_data: Any = None,
        prior: LaplacePosterior | None = None,
        **fit_arguments: Any,
    ) -> LaplacePosterior | LastLayerLaplace:
        """Find the posterior around the model's weights.

        Args:
            model: A trained model, or a compiled model to train for `epochs`, without stochastic
                layers. Its outputs have shape (N, ..., K), and each position is an observation.
                Its weights, after any training, are the center of the posterior.
            x: The training data: arrays (N, ...), or a dataset of (x, y).
            y: Class numbers (N, ...), zeros and ones (N, ..., K) or real targets (N, ..., D), in
                the structure of the outputs if there are several. None for a dataset.
            epochs: Number of epochs to train first. 0 does not change the weights.
            validation_data: (x, y) or a dataset that the network was not trained on.
            prior: The posterior of earlier data, if data arrive in parts (online Laplace). It is
                the prior of a `BayesianModel` when training for `epochs`, which starts with a fresh
                optimizer. Its precision is then added to that of the new data. The new posterior
                has the same prior scale. The model may share only some layers with the model of
                `prior`; its other layers are new.
            **fit_arguments: Further arguments of Keras' `fit`, if `epochs` > 0.

        Returns:
            A posterior with a method `save`, whose file `load_posterior` reads.

        Raises:
            ValueError: If the model or its outputs do not meet these requirements, inputs or
                weights are not finite, or the targets do not match the likelihood.
        """
        _check_fit_arguments(epochs, fit_arguments)
        check_reads_once(x)
        earlier = None if prior is None else self._earlier_data(prior, model, validation_data)
        prior_scale = self._resolve_prior_scale(model, validation_data, prior)
        _check_noise_scale(self.noise_scale, prior_scale, self.variables)
        if epochs:
            with contextlib.nullcontext() if earlier is None else earlier.as_prior_of(model):
                train(model, x, y, epochs=epochs, seed=self.seed, **fit_arguments)
        if self.variables == "last_layer":
            scale = None if isinstance(prior_scale, str) else prior_scale
            return LastLayerLaplace(
                model, x, y, self.covariance, scale, validation_data, self.temperature
            )
        likelihood = self._resolve_likelihood(model)
        _check_model(model)
        is_evidence = isinstance(self.noise_scale, str)
        given = None if is_evidence else self.noise_scale
        observations = resolve_observations(model, x, y, likelihood, given)
        found = network_curvature(model, x, y, observations, self.covariance == "diagonal")
        if is_evidence:
            known = None if isinstance(prior_scale, str) else prior_scale
            found, observations = with_noise_of_evidence(found, observations, known)
        if earlier is not None:
            found = earlier.add(found)
        _warn_of_kernels(found.left)
        posterior = LaplacePosterior(
            model,
            found.layers,
            [layer.read() for layer in found.layers],
            found.blocks,
            found.left,
            found.log_likelihood,
            prior_scale=1.0,
            temperature=self.temperature,
            noise_scales=[each.scale for each in observations],
        )
        if prior_scale == "validation":
            self._maximize_validation(posterior, likelihood, validation_data)
        elif prior_scale == "evidence":
            _maximize_evidence(posterior)
        else:
            posterior.set_prior_scale(prior_scale)
        return posterior

    def _earlier_data(
        self, prior: LaplacePosterior, model: keras.Model, validation_data: Any
    ) -> EarlierData:
        """Check that `prior` fits the other settings, and return it as `EarlierData`."""
        if self.noise_scale == "evidence":
            raise ValueError(
                "Expected a number or None for `noise_scale` together with `prior`. Received: "
                "noise_scale='evidence', which needs all data at once. Hint: leave it out."
            )
        if self.variables != "all" or validation_data is not None:
            raise ValueError(
                "Expected variables='all' and no `validation_data` together with `prior`, which "
                f"determines the prior scale. Received: variables={self.variables!r}, "
                f"validation_data {'missing' if validation_data is None else 'given'}. "
                "Hint: for the last layer only, set trainable = False in the other layers."
            )
        earlier = EarlierData(prior, model, self.covariance == "diagonal")
        if self.prior_scale not in (None, prior.prior_scale):
            raise ValueError(
                f"Expected None or {prior.prior_scale}, as in `prior`, for `prior_scale`. "
                f"Received: prior_scale={self.prior_scale!r}. Hint: leave it out."
            )
        return earlier

    def _resolve_prior_scale(
        self, model: keras.Model, validation_data: Any, prior: LaplacePosterior | None
    ) -> Any:
        """Return a number, "evidence" or "validation"."""
        if prior is not None:
            return prior.prior_scale
        prior_scale = self.prior_scale
        if prior_scale is None:
            of_model = getattr(model, "prior_scale", None)
            known = "evidence" if of_model is None else of_model
            prior_scale = known if validation_data is None else "validation"
        if (prior_scale == "validation") != (validation_data is not None):
            raise ValueError(
                "Expected `validation_data` with prior_scale='validation', and only with this or "
                f"None. Received: prior_scale={self.prior_scale!r} and validation_data "
                f"{'missing' if validation_data is None else 'given'}. "
                "Hint: use Laplace().fit(model, x, y, validation_data=(x_val, y_val))."
            )
        return prior_scale

    def _resolve_likelihood(self, model: keras.Model) -> Any:
        of_model = getattr(model, "likelihood", None)
        if None not in (self.likelihood, of_model) and self.likelihood != of_model:
            raise ValueError(
                f"Expected the model's likelihood {of_model!r} for `likelihood`. "
                f"Received: likelihood={self.likelihood!r}. Hint: leave it out."
            )
        return self.likelihood or of_model or "categorical"

    def _maximize_validation(self, posterior: LaplacePosterior, likelihood: Any, data: Any) -> None:
        """Set the prior scale that predicts the data best, with common random numbers."""
        model = posterior.model
        parts = []
        for inputs, labels in labelled(*unpack_validation_data(data)):
            outputs = run_model(model, inputs)
            seen = [seen_positions(p) for p in keras.tree.flatten(outputs)]
            parts.append((inputs, flat_targets(model, outputs, labels), seen))
        predictor = Predictor(model, likelihood, posterior)

        def objective(log_scale: float) -> float:
            posterior.set_prior_scale(float(np.exp(log_scale)))
            total = 0.0
            for inputs, labels, seen in parts:
                outputs = predictor.predict_uncertainty(inputs, _NUM_SAMPLES, self.seed)
                for p, y, mask in zip(keras.tree.flatten(outputs), labels, seen):
                    log_prob = p.log_prob(_like(y, p.mean))
                    total -= np.where(True if mask is None else mask, log_prob, 0).sum()
            return total

        best = minimize_from_grid(objective, _LOG_SCALES_OF_VALIDATION, 0.1)
        posterior.set_prior_scale(float(np.exp(best)))


def _like(labels: Any, mean: np.ndarray) -> np.ndarray:
    """Remove the last axis of class numbers (N, ..., 1)."""
    labels = np.asarray(labels)
    column = labels.shape == (*mean.shape[:-1], 1) and mean.shape[-1] > 1
    return labels[..., 0] if column else labels


def _check_likelihood(likelihood: Any, variables: str) -> None:
    if likelihood is None:
        return
    keras.tree.map_structure(get_likelihood, likelihood)
    if variables == "last_layer" and keras.tree.flatten(likelihood) != ["categorical"]:
        raise ValueError(
            "Expected likelihood='categorical' or None with variables='last_layer'. "
            f"Received: likelihood={likelihood!r}. Hint: set trainable = False in the other "
            "layers, and use variables='all', which supports all likelihoods."
        )


def _check_noise_scale(noise_scale: Any, prior_scale: Any, variables: str) -> None:
    if noise_scale is None:
        return
    if isinstance(noise_scale, str):
        fits = noise_scale == "evidence" and prior_scale != "validation"
    else:
        given = np.asarray(noise_scale, dtype="float64")
        fits = given.ndim < 2 and bool((np.isfinite(given) & (given > 0)).all())
    if not fits or variables == "last_layer":
        raise ValueError(
            "Expected positive numbers, or 'evidence' unless prior_scale='validation', for "
            "`noise_scale`, and variables='all'. Received: "
            f"noise_scale={noise_scale!r}, prior_scale={prior_scale!r}, variables={variables!r}. "
            "Hint: None estimates it from the residuals."
        )


def _maximize_evidence(posterior: LaplacePosterior) -> None:
    best = minimize_from_grid(
        lambda log_scale: -posterior.log_marginal_likelihood(np.exp(log_scale)), _LOG_SCALES
    )
    if not _LOG_SCALES[1] < best < _LOG_SCALES[-2]:
        raise ValueError(
            "Expected training data that determine the prior scale. Received: an evidence that is "
            f"largest at the end of the search range, at prior_scale={np.exp(best):.2g}. "
            "Hint: pass validation_data or prior_scale, or train with weight decay."
        )
    posterior.set_prior_scale(float(np.exp(best)))


def _check_fit_arguments(epochs: int, fit_arguments: dict[str, Any]) -> None:
    check_integers(0, epochs=epochs)
    unused = sorted(set(fit_arguments) - {"verbose"})
    if unused and not epochs:
        raise ValueError(
            f"Expected `epochs` together with {unused}, which are for training. Received: "
            f"epochs={epochs!r}. Hint: leave them out if the model is already trained."
        )
    weights = [name for name in unused if name in ("sample_weight", "class_weight")]
    if weights:
        raise ValueError(
            f"Expected examples with equal weights. Received: {weights}. Hint: leave them out."
        )


def _check_model(model: keras.Model) -> None:
    random = stochastic_layers(model)
    if random:
        raise ValueError(
            "Expected a `model` without stochastic layers. Received: "
            f"{[each.name for each in random]}. Hint: use fit(to_deterministic(model), x, y)."
        )
    refuse_forced_training(model)
    update_constants(model)
    FiniteWeights(model.weights).check()


def _warn_of_kernels(left: list[keras.Variable]) -> None:
    kernels = [v.path for v in left if len(v.shape) > 1]
    if kernels:
        warnings.warn(
            f"The posterior leaves {len(kernels)} weight matrices at their trained values: "
            f"{', '.join(kernels[:5])}{' ...' if len(kernels) > 5 else ''}. It covers only layers "
            "that apply a matrix of their own at each position: Dense, EinsumDense, convolutions, "
            "embeddings.",
            stacklevel=3,
        )
