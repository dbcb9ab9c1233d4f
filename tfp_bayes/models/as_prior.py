"""The posterior of a model as its prior for the next data."""

from collections.abc import Container, Sequence

import keras
import numpy as np

from tfp_bayes import priors
from tfp_bayes.layers import VariationalLayer, variational_layers
from tfp_bayes.layers.random_weight import RandomWeight
from tfp_bayes.models.bayesian_model import BayesianModel
from tfp_bayes.models.conversion import GraphCopy, Replacement, check_graph, copy_layer, walk
from tfp_bayes.posteriors import MeanFieldNormal


def as_prior(model: keras.Model, private: str | Sequence[str] = ()) -> keras.Model:
    """Returns a copy of a variational model whose prior is the posterior that the model has now.

    Use it to learn from data that come in parts, one after another, without keeping the earlier
    ones: compile the copy, fit it to the next part, and so on. Each weight's prior is its normal
    posterior q, as an `ElementwiseNormal`, and so is where the new q starts: KL(q || prior) is 0
    before training, and a closed form in it. The copy is not compiled, so that each part of the
    data gets an optimizer without the memory of another.

    Args:
        model: A built functional or Sequential model, a `BayesianModel` as a rule; not changed.
        private: Names of layers, or paths ("nested/head") where nested models repeat a name, that
            belong to one task alone, such as the head of its classes: they start anew under their
            own prior.

    Returns:
        A `BayesianModel`, or of a plain Keras model one.

    Raises:
        ValueError: If the model has no graph, a name in `private` is not there, a scale is zero,
            or layers that are not private learn what has no distribution to pass on: point
            estimates (biases by default, plain Keras layers), statistics of BatchNormalization,
            other posteriors than `MeanFieldNormal`.

    Reference:
        Nguyen et al. 2018, "Variational Continual Learning", equation 4, arXiv:1710.10628.

    Example:

    >>> bias = {"bias_prior": "normal", "bias_posterior": "mean_field_normal"}
    >>> inputs = keras.Input((2,))
    >>> outputs = DenseFlipout(3, activation="softmax", **bias)(inputs)
    >>> model = BayesianModel(inputs, outputs)
    >>> float(model.kl_divergence()) > 0
    True
    >>> float(tfp_bayes.as_prior(model).kl_divergence())
    0.0
    """
    check_graph(model)
    own = find_private(model, private)
    _check_shared(model, own)

    def replace(layer: keras.layers.Layer) -> Replacement | None:
        if id(layer) in own:
            return Replacement(copy_layer(layer), lambda: None)
        if not isinstance(layer, VariationalLayer):
            return None
        new = _under_own_posterior(layer)
        return Replacement(new, lambda: _fill(layer, new))

    return _as_given(GraphCopy(model, replace).model, model)


def copy_as_is(model: keras.Model) -> keras.Model:
    """Returns a copy of a model with all its state, not compiled."""
    return _as_given(GraphCopy(model, lambda layer: None).model, model)


def freeze_points(model: keras.Model) -> None:
    """Freezes all that `as_prior` would refuse."""
    for _, layer in walk(model):
        for variable in _points(layer):
            variable.trainable = False
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def _as_given(copy: keras.Model, model: keras.Model) -> keras.Model:
    """Returns the copy of a graph as a model of the kind that the original is."""
    if not isinstance(model, BayesianModel):
        return copy
    is_sequential = isinstance(copy, keras.Sequential)
    return BayesianModel(
        copy.inputs[0] if is_sequential else copy.input,
        copy.outputs[0] if is_sequential else copy.output,
        name=model.name,
        likelihood=model.likelihood,
        prior_scale=model.prior_scale,
        num_samples=model.num_samples,
        trainable=model.trainable,
    )


def find_private(model: keras.Model, private: str | Sequence[str]) -> dict[int, keras.layers.Layer]:
    """Returns the layers of these names, by their ids."""
    places = list(walk(model))
    found: dict[int, keras.layers.Layer] = {}
    for name in [private] if isinstance(private, str) else private:
        named = {id(layer): layer for path, layer in places if path == name}
        named = named or {id(layer): layer for _, layer in places if layer.name == name}
        if len(named) != 1:
            raise ValueError(
                "Expected names of single layers for `private`. Received: "
                f"{name!r}, of {len(named)} layers. "
                f"Hint: the model has {[path for path, _ in places]}."
            )
        found |= named
    return found


def _mean_field(layer: VariationalLayer) -> dict[str, RandomWeight]:
    weights = layer.random_weights.items()
    return {name: w for name, w in weights if isinstance(w.posterior, MeanFieldNormal)}


def _points(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Lists the variables that a layer trains without a distribution over them."""
    held: set[int] = set()
    if isinstance(layer, VariationalLayer):
        for weight in _mean_field(layer).values():
            variables = (*weight.variables.values(), *weight.prior_variables.values())
            held |= set(map(id, variables))
    return [v for v in layer.trainable_variables if id(v) not in held]


def _check_shared(model: keras.Model, own: Container[int]) -> None:
    """Refuses what the next data would change and the prior would not hold."""
    problems: list[str] = []
    for path, layer in walk(model):
        if id(layer) in own:
            continue
        if isinstance(layer, VariationalLayer):
            for name, weight in _mean_field(layer).items():
                _check_scale(f"{path}/{name}", weight)
        problems += [f"{path}/{v.name}" for v in _points(layer)]
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            problems.append(f"{path}/moving statistics")
        elif not isinstance(layer, VariationalLayer) and variational_layers(layer):
            problems.append(f"{path}, whose random layers are inside it")
    if problems:
        problems = list(dict.fromkeys(problems))
        raise ValueError(
            "Expected independent normal distributions of all that is trained, but for `private` "
            "layers: the next data would change anything else without bounds. "
            f"Received: {', '.join(problems[:8])}{' ...' if len(problems) > 8 else ''}. "
            "Hint: bias_prior='normal', bias_posterior='mean_field_normal' for biases; "
            "layer.trainable = False; or name the layer in `private`."
        )


def _check_scale(name: str, weight: RandomWeight) -> None:
    q = weight.distribution()
    loc, scale = np.asarray(q.loc), np.asarray(q.scale)
    if not (np.isfinite(loc).all() and np.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError(
            "Expected finite means and positive scales of the posterior, which a prior can have. "
            f"Received: others in {name}. Hint: train with a smaller learning rate."
        )


def _under_own_posterior(layer: VariationalLayer) -> VariationalLayer:
    """Makes the layer anew, not built, with priors to be filled."""
    config = layer.get_config()
    given = keras.saving.serialize_keras_object(priors.ElementwiseNormal())
    config.update({f"{name}_prior": given for name in _mean_field(layer)})
    return type(layer).from_config(config)


def _fill(old: VariationalLayer, new: VariationalLayer) -> None:
    """Sets q to the old one, and the prior of independent normals to it too."""
    for name, weight in old.random_weights.items():
        twin = new.random_weights[name]
        for part, variable in weight.variables.items():
            twin.variables[part].assign(variable)
            twin.variables[part].trainable = variable.trainable
        if isinstance(weight.posterior, MeanFieldNormal):
            q = weight.distribution()
            twin.prior_variables["prior_loc"].assign(q.loc)
            twin.prior_variables["prior_scale"].assign(q.scale)
        else:
            for part, variable in weight.prior_variables.items():
                twin.prior_variables[part].assign(variable)
