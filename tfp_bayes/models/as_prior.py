"""Turn the posterior of a model into its prior for the next data."""

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
    """Return a copy of a variational model whose prior is the current posterior of the model.

    Use it when data arrive in parts and earlier parts are not stored: compile the copy, fit it to
    the next part, and repeat. Each weight's normal posterior q becomes its prior, as an
    `ElementwiseNormal`, and is also the starting point of the new q. KL(q || prior) is therefore 0
    before training, and has a closed form during training. The copy is not compiled, so each part
    of the data starts with a fresh optimizer.

    Args:
        model: A built functional or Sequential model, usually a `BayesianModel`. It is not
            changed.
        private: Names of the layers that belong to a single task, such as the head for its
            classes. Where nested models repeat a name, give a path ("nested/head"). These layers
            are initialized again, under their original prior.

    Returns:
        A `BayesianModel` if `model` is one, otherwise a plain Keras model.

    Raises:
        ValueError: If the model has no graph, it has no layer of a name in `private`, a scale is
            zero, or layers that are not private train something that has no distribution to pass
            on: point estimates (biases by default, plain Keras layers), statistics of
            BatchNormalization, or posteriors other than `MeanFieldNormal`.

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
    """Return an uncompiled copy of a model with all its state."""
    return _as_given(GraphCopy(model, lambda layer: None).model, model)


def freeze_points(model: keras.Model) -> None:
    """Freeze everything that `as_prior` would refuse."""
    for _, layer in walk(model):
        for variable in _points(layer):
            variable.trainable = False
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def _as_given(copy: keras.Model, model: keras.Model) -> keras.Model:
    """Convert the copy of a graph to a `BayesianModel` if the original model is one."""
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
    """Return the layers with the given names, keyed by `id`."""
    places = list(walk(model))
    found: dict[int, keras.layers.Layer] = {}
    for name in [private] if isinstance(private, str) else private:
        named = {id(layer): layer for path, layer in places if path == name}
        named = named or {id(layer): layer for _, layer in places if layer.name == name}
        if len(named) != 1:
            raise ValueError(
                "Expected names that each belong to one layer for `private`. Received: "
                f"{name!r}, which names {len(named)} layers. "
                f"Hint: the model has {[path for path, _ in places]}."
            )
        found |= named
    return found


def _mean_field(layer: VariationalLayer) -> dict[str, RandomWeight]:
    weights = layer.random_weights.items()
    return {name: w for name, w in weights if isinstance(w.posterior, MeanFieldNormal)}


def _points(layer: keras.layers.Layer) -> list[keras.Variable]:
    """List the variables that a layer trains as point estimates."""
    held: set[int] = set()
    if isinstance(layer, VariationalLayer):
        for weight in _mean_field(layer).values():
            variables = (*weight.variables.values(), *weight.prior_variables.values())
            held |= set(map(id, variables))
    return [v for v in layer.trainable_variables if id(v) not in held]


def _check_shared(model: keras.Model, own: Container[int]) -> None:
    """Refuse anything that training would change and that a prior cannot constrain."""
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
            "Expected independent normal posteriors of everything that is trained outside of the "
            "`private` layers, because no prior would keep the next data from overwriting the "
            f"rest. Received: {', '.join(problems[:8])}{' ...' if len(problems) > 8 else ''}. "
            "Hint: bias_prior='normal', bias_posterior='mean_field_normal' for biases; "
            "layer.trainable = False; or name the layer in `private`."
        )


def _check_scale(name: str, weight: RandomWeight) -> None:
    q = weight.distribution()
    loc, scale = np.asarray(q.loc), np.asarray(q.scale)
    if not (np.isfinite(loc).all() and np.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError(
            "Expected a posterior with finite means and finite, positive scales, so that it can "
            f"become a prior. Received: other values in {name}. "
            "Hint: train with a smaller learning rate."
        )


def _under_own_posterior(layer: VariationalLayer) -> VariationalLayer:
    """Create an unbuilt copy of the layer whose priors `_fill` sets later."""
    config = layer.get_config()
    given = keras.saving.serialize_keras_object(priors.ElementwiseNormal())
    config.update({f"{name}_prior": given for name in _mean_field(layer)})
    return type(layer).from_config(config)


def _fill(old: VariationalLayer, new: VariationalLayer) -> None:
    """Set both q and the elementwise normal priors of the new layer to the q of the old one."""
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
