"""Turns any Keras model into a Bayesian one."""

from collections.abc import Sequence
from typing import Any

import keras

from tfp_bayes import priors
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.keras_internals import flatten_layers
from tfp_bayes.layers import StochasticLayer
from tfp_bayes.layers.lora import A_PRIOR, DEFAULT_RANK
from tfp_bayes.models.bayesian_model import BayesianModel
from tfp_bayes.models.conversion import (
    GraphCopy,
    Replacement,
    check_graph,
    count_types,
    leaves,
    walk,
)
from tfp_bayes.models.layer_factory import INFERENCES, check_inference
from tfp_bayes.models.layer_pairs import pair_of_keras
from tfp_bayes.prediction.predictor import DEFAULT_NUM_SAMPLES

_DROPOUT = ("mc_dropout", "concrete_dropout")


def to_bayesian(
    model: keras.Model,
    inference: str = "flipout",
    *,
    prior: str | dict | priors.Prior | None = "default",
    layers: Sequence[str] | None = None,
    moped_delta: float | None = None,
    rank: int | None = None,
    alpha: float | None = None,
    last_layer_only: bool = False,
    likelihood: str = "categorical",
    num_samples: int = DEFAULT_NUM_SAMPLES,
    verbose: bool = True,
) -> BayesianModel:
    """Returns a Bayesian copy of a functional or Sequential model, with its weights as means.

    Dense, EinsumDense, Conv1D, Conv2D, Conv3D, DepthwiseConv2D, SeparableConv2D, Conv2DTranspose,
    Embedding, LSTM, GRU and MultiHeadAttention layers get random kernels, or, with "mc_dropout",
    dropout stays on at inference: dropout layers, and LSTM, GRU and MultiHeadAttention that have a
    rate; with "concrete_dropout" it also learns its rate, starting from that of the layer, where it
    drops whole units: Dropout on vectors, SpatialDropout1D and SpatialDropout2D. Bidirectional is
    converted with what it wraps. Everything else is copied with its state: Keras operations, batch
    normalization, vocabularies, frozen layers. Shared layers stay shared, nested models nested, and
    every layer keeps its name. What is inside other layers (TimeDistributed, RNN, layers of your
    own) is left as it is.

    With "lora" the whole network is frozen, whatever its `trainable` flags were, and Dense,
    EinsumDense and MultiHeadAttention layers get low-rank updates with a random factor, see
    `layers.LoRADense`; the model first computes what the network does.

    Args:
        model: A built model whose outputs are probabilities; it is not changed.
        inference: "flipout", "local_reparameterization", "reparameterization", "mc_dropout",
            "concrete_dropout" or "lora". Depthwise convolutions have no local reparameterization
            and are left there; Embedding, LSTM and GRU train by reparameterization whichever of
            the three it is, under the same posterior.
        prior: On kernels, see `tfp_bayes.priors`; "default" is a standard normal. For "mc_dropout"
            a `priors.Normal` around 0, or None for a flat prior; "concrete_dropout" needs the
            former. For "lora" it is on the first factor, Normal(0, 0.2) by default, and None makes
            both factors plain weights, for `SWAG` and `Laplace`. For the others None leaves
            kernels fixed, as only a prior keeps their scales from going to zero.
        layers: Names of the layers to convert, or paths ("nested/dense") where nested models
            repeat a name; None is all that can be.
        moped_delta: If given, the standard deviation of each weight is this fraction of its
            size, instead of the posterior's own start. For random kernels under a prior.
        rank: For "lora", the rank of the updates, 8 by default; of a smaller kernel the largest
            that it has.
        alpha: For "lora", updates are multiplied by alpha / rank; None is 2 rank.
        last_layer_only: Whether to convert the last of these layers only.
        likelihood: What the outputs mean, see `Predictor`.
        num_samples: S of `predict` and `evaluate`.
        verbose: Whether to print what was converted and what was left.

    Returns:
        A `BayesianModel`, not compiled. `to_deterministic` is the exact inverse; of "lora" it
        leaves what was frozen frozen.

    Raises:
        ValueError: If the model has no graph, nothing in it can be converted, a name in `layers`
            is not there, belongs to several layers or cannot be converted, a layer has a
            regularizer or constraint, or a layer cannot be copied.

    Reference:
        Krishnan, Subedar and Tickoo 2020, "Specifying Weight Priors in Bayesian Deep Neural
        Networks with Empirical Bayes", equation 5, arXiv:1906.05323 (MOPED).

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3, "softmax")])
    >>> bayesian = to_bayesian(model, moped_delta=0.1)
    Converted to flipout: Dense 2. Left, with their weights: nothing.
    >>> bayesian.predict_uncertainty(np.ones((2, 4)), seed=0).mutual_information.shape
    (2,)
    """
    check_graph(model)
    if prior == "default":
        prior = A_PRIOR if inference == "lora" else "normal"
    _check_arguments(inference, prior, moped_delta)
    update = _update(inference, rank, alpha)
    prior_object = priors.get(prior)
    prior_scale = _scale(prior_object) if inference in _DROPOUT else None
    able = [layer for layer in leaves(model) if pair_of_keras(layer, inference)]
    chosen = _choose(model, able, layers, inference)
    if last_layer_only:
        chosen = chosen[-1:]

    twins: list[keras.layers.Layer] = []

    def replace(layer: keras.layers.Layer) -> Replacement | None:
        pair = pair_of_keras(layer, inference) if layer in chosen else None
        if pair is None:
            return None
        twin = pair.make_bayesian(layer, prior_object, **update)
        twins.append(twin)
        return Replacement(twin, lambda: pair.fill_bayesian(layer, twin, moped_delta))

    copy = GraphCopy(model, replace).model
    sequential = isinstance(copy, keras.Sequential)
    result = BayesianModel(
        copy.inputs[0] if sequential else copy.input,
        copy.outputs[0] if sequential else copy.output,
        name=model.name,
        likelihood=likelihood,
        prior_scale=prior_scale,
        num_samples=num_samples,
        trainable=model.trainable,
    )
    if inference == "lora":
        _freeze_all_but(twins, result)
    if verbose:
        print(_report(chosen, [each for each in leaves(model) if each not in chosen], inference))
    return result


def _check_arguments(inference: str, prior, moped_delta: float | None) -> None:
    check_inference(inference, (*INFERENCES, "lora"))
    if inference == "concrete_dropout" and prior is None:
        raise ValueError(
            "Expected a `prior` for inference='concrete_dropout', which rates are weighed against. "
            "Received: prior=None. Hint: prior='normal'; or 'mc_dropout', whose rates are fixed."
        )
    if inference == "deterministic":
        raise ValueError(
            "Expected a Bayesian `inference`. Received: inference='deterministic'. "
            "Hint: the inverse of this function is tfp_bayes.to_deterministic(model)."
        )
    if moped_delta is None:
        return
    check_positive(moped_delta=moped_delta)
    if prior is None or inference in (*_DROPOUT, "lora"):
        raise ValueError(
            "Expected `moped_delta` with random kernels under a prior only. Received: "
            f"moped_delta={moped_delta!r}, prior={prior!r}, inference={inference!r}. "
            "Hint: it sets scales by weights, which dropout and a flat prior do not have, and "
            "updates start without."
        )


def _update(inference: str, rank: int | None, alpha: float | None) -> dict[str, Any]:
    """Returns the arguments of low-rank updates, {} for other inferences."""
    if inference == "lora":
        rank = DEFAULT_RANK if rank is None else rank
        check_integers(1, rank=rank)
        if alpha is not None:
            check_positive(alpha=alpha)
        return {"rank": rank, "alpha": alpha}
    if rank is not None or alpha is not None:
        raise ValueError(
            "Expected `rank` and `alpha` with inference='lora' only. Received: "
            f"inference={inference!r}, rank={rank!r}, alpha={alpha!r}. "
            "Hint: they are of low-rank updates, which no other inference makes."
        )
    return {}


def _freeze_all_but(twins: list[keras.layers.Layer], model: keras.Model) -> None:
    """Freezes the layers of a model, and nothing in the twins but what stays frozen by itself."""
    for layer in flatten_layers(model):
        for flag in (False, True):  # setting a flag to what it is would not reach the weights
            layer.trainable = flag
    for layer in leaves(model):
        if layer not in twins:
            layer.trainable = False


def _choose(
    model: keras.Model,
    able: list[keras.layers.Layer],
    names: Sequence[str] | None,
    inference: str,
) -> list[keras.layers.Layer]:
    """Returns the layers to convert in graph order, or says why there are none."""
    if names is not None:
        wanted = [_find(model, able, name, inference) for name in _as_list(names)]
        able = [layer for layer in able if layer in wanted]
    if not able:
        what = "Dropout" if inference in _DROPOUT else "Dense or convolution"
        what = "Dense, EinsumDense or MultiHeadAttention" if inference == "lora" else what
        raise ValueError(
            f"Expected a `model` with {what} layers for inference={inference!r}. "
            f"Received: {count_types(leaves(model))}. Hint: another inference, or add such layers."
        )
    return able


def _as_list(names: Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _find(
    model: keras.Model, able: list[keras.layers.Layer], name: str, inference: str
) -> keras.layers.Layer:
    """Returns the one layer of a name, or of a path through nested models."""
    places = [(path, layer) for path, layer in walk(model) if name in (path, layer.name)]
    exact = [layer for path, layer in places if path == name]
    found = exact or list({id(layer): layer for _, layer in places}.values())
    if len(found) > 1:
        raise ValueError(
            f"Expected names that belong to one layer for `layers`. Received: {name!r}, the name "
            f"of {len(found)} layers. Hint: say which of {[path for path, _ in places]}."
        )
    if not found or found[0] not in able:
        kind = type(found[0]).__name__ if found else "no such layer"
        raise ValueError(
            f"Expected names of layers that {inference!r} can convert for `layers`. "
            f"Received: {name!r}, {kind}. "
            f"Hint: {[path for path, layer in walk(model) if layer in able]} can be."
        )
    return found[0]


def _report(chosen: list, left: list, inference: str) -> str:
    """Says what was converted and what was left."""
    with_weights = count_types([layer for layer in left if layer.weights]) or "nothing"
    text = f"Converted to {inference}: {count_types(chosen)}. Left, with their weights: "
    text += f"{with_weights}."
    noisy = count_types([layer for layer in left if _drops(layer)])
    if inference in _DROPOUT and noisy:
        text += f" Left, with dropout that is off at inference: {noisy}."
    return text


def _drops(layer: keras.layers.Layer) -> bool:
    """Tells whether a Keras layer, or one inside it, has a dropout rate."""
    parts = [each for each in flatten_layers(layer) if not isinstance(each, StochasticLayer)]
    names = ("rate", "dropout", "recurrent_dropout")
    rates = [getattr(part, name, 0) for part in parts for name in names]
    return any(isinstance(rate, int | float) and rate > 0 for rate in rates)


def _scale(prior: priors.Prior | None) -> float | None:
    """Returns the `prior_scale` of dropout."""
    if prior is not None and (not isinstance(prior, priors.Normal) or prior.loc != 0):
        raise ValueError(
            "Expected priors.Normal around 0, or None, for `prior` with dropout. "
            f"Received: prior={prior!r}. Hint: other priors need random kernels, as 'flipout' has."
        )
    return None if prior is None else prior.scale
