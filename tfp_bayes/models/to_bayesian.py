"""Turn any Keras model into a Bayesian one."""

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
    """Return a Bayesian copy of a functional or Sequential model, with its weights as means.

    The conversion depends on `inference`:

    - "flipout", "local_reparameterization" and "reparameterization" give random kernels to Dense,
      EinsumDense, Conv1D, Conv2D, Conv3D, DepthwiseConv2D, SeparableConv2D, Conv2DTranspose,
      Embedding, LSTM, GRU and MultiHeadAttention layers. They share a posterior and differ in the
      estimator that training uses. DepthwiseConv2D, SeparableConv2D and Conv2DTranspose have no
      local reparameterization and are then not converted. Embedding, LSTM and GRU train by
      reparameterization in all three cases.
    - "mc_dropout" keeps dropout on at inference: dropout layers, and LSTM, GRU and
      MultiHeadAttention layers with a positive rate.
    - "concrete_dropout" also learns the rate, starting from that of the layer. It applies to
      dropout of whole units: Dropout on vectors, SpatialDropout1D and SpatialDropout2D.
    - "lora" freezes the whole network, regardless of its `trainable` flags, and adds low-rank
      updates with a random factor to Dense, EinsumDense and MultiHeadAttention layers, see
      `layers.LoRADense`. Before training, the copy computes the same outputs as the network.

    Bidirectional is converted together with the layers that it wraps. Everything else is copied
    with its state: Keras operations, batch normalization, vocabularies, frozen layers. Shared
    layers stay shared, nested models stay nested, and every layer keeps its name. Layers inside of
    others (TimeDistributed, RNN, custom layers) are not converted.

    Args:
        model: A built model whose outputs are probabilities. It is not changed.
        inference: "flipout", "local_reparameterization", "reparameterization", "mc_dropout",
            "concrete_dropout" or "lora".
        prior: Prior on kernels, see `tfp_bayes.priors`. "default" is a standard normal. For
            "mc_dropout", a `priors.Normal` around 0, or None for a flat prior; for
            "concrete_dropout", a `priors.Normal` around 0. For "lora", the prior on the first
            factor, Normal(0, 0.2) by default; None makes both factors plain weights, for `SWAG`
            and `Laplace`. For random kernels, None makes the kernels point estimates, because only
            a prior keeps their scales from shrinking to zero.
        layers: Names of the layers to convert. Where nested models repeat a name, give a path
            ("nested/dense"). None converts all layers that can be converted.
        moped_delta: Initial standard deviation of each weight as a fraction of its absolute value.
            None uses the initial scale of the posterior. Only for random kernels under a prior.
        rank: Rank of the updates for "lora", 8 by default. A smaller kernel gets its largest
            possible rank.
        alpha: Numerator of the factor alpha / rank of the updates for "lora". None is 2 rank.
        last_layer_only: Whether to convert only the last of these layers.
        likelihood: Meaning of the outputs, see `Predictor`.
        num_samples: Number of posterior samples S of `predict` and `evaluate`.
        verbose: Whether to print which layers were converted and which were not.

    Returns:
        A `BayesianModel`, not compiled. `to_deterministic` is the exact inverse, except that the
        layers frozen by "lora" stay frozen.

    Raises:
        ValueError: If the model has no graph, none of its layers can be converted, a name in
            `layers` is unknown, ambiguous or that of a layer that cannot be converted, a layer has
            a regularizer or constraint, or a layer cannot be copied.

    Reference:
        Krishnan, Subedar and Tickoo 2020, "Specifying Weight Priors in Bayesian Deep Neural
        Networks with Empirical Bayes", equation 5, arXiv:1906.05323 (MOPED).

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3, "softmax")])
    >>> bayesian = to_bayesian(model, moped_delta=0.1)
    Converted to flipout: Dense 2. Other layers with weights: none.
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
            "Expected a `prior` for inference='concrete_dropout', to balance the learned rates. "
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
            "Hint: it sets the initial scales of random kernels, as inference='flipout' with "
            "prior='normal' has them."
        )


def _update(inference: str, rank: int | None, alpha: float | None) -> dict[str, Any]:
    """Return the arguments of low-rank updates, or {} for other inferences."""
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
            "Hint: only inference='lora' adds low-rank updates."
        )
    return {}


def _freeze_all_but(twins: list[keras.layers.Layer], model: keras.Model) -> None:
    """Freeze all layers of a model except the updates in the twins."""
    for layer in flatten_layers(model):
        for flag in (False, True):  # setting a flag to its present value does not reach the weights
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
    """Return the layers to convert in graph order, or raise ValueError if there are none."""
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
    """Return the layer with a name, or with a path through nested models."""
    places = [(path, layer) for path, layer in walk(model) if name in (path, layer.name)]
    exact = [layer for path, layer in places if path == name]
    found = exact or list({id(layer): layer for _, layer in places}.values())
    if len(found) > 1:
        raise ValueError(
            "Expected names that each belong to one layer for `layers`. Received: "
            f"{name!r}, the name of {len(found)} layers. "
            f"Hint: use one of the paths {[path for path, _ in places]}."
        )
    if not found or found[0] not in able:
        kind = type(found[0]).__name__ if found else "no such layer"
        raise ValueError(
            f"Expected names of layers that {inference!r} can convert for `layers`. "
            f"Received: {name!r}, {kind}. "
            f"Hint: it can convert {[path for path, layer in walk(model) if layer in able]}."
        )
    return found[0]


def _report(chosen: list, left: list, inference: str) -> str:
    """Describe which layers were converted and which were not."""
    with_weights = count_types([layer for layer in left if layer.weights]) or "none"
    text = f"Converted to {inference}: {count_types(chosen)}. "
    text += f"Other layers with weights: {with_weights}."
    noisy = count_types([layer for layer in left if _drops(layer)])
    if inference in _DROPOUT and noisy:
        text += f" Layers whose dropout is off at inference: {noisy}."
    return text


def _drops(layer: keras.layers.Layer) -> bool:
    """Return whether a Keras layer, or one inside it, has a dropout rate."""
    parts = [each for each in flatten_layers(layer) if not isinstance(each, StochasticLayer)]
    names = ("rate", "dropout", "recurrent_dropout")
    rates = [getattr(part, name, 0) for part in parts for name in names]
    return any(isinstance(rate, int | float) and rate > 0 for rate in rates)


def _scale(prior: priors.Prior | None) -> float | None:
    """Return the `prior_scale` that expresses a prior for dropout."""
    if prior is not None and (not isinstance(prior, priors.Normal) or prior.loc != 0):
        raise ValueError(
            "Expected priors.Normal around 0, or None, for `prior` with dropout. "
            f"Received: prior={prior!r}. Hint: other priors need random kernels, such as 'flipout'."
        )
    return None if prior is None else prior.scale
