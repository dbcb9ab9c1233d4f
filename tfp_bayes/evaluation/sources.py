"""Conversion of the models to evaluate (Bayesian or plain models, predictors, files)."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from tfp_bayes._plumbing.model_files import model_files, model_name
from tfp_bayes.inference import load_posterior
from tfp_bayes.layers import stochastic_layers
from tfp_bayes.prediction import Prediction, Predictor
from tfp_bayes.prediction.prediction import concatenate


@dataclass
class Source:
    """A named model with the predictions that it has made so far.

    Attributes:
        name: Name in tables.
        model: Object with `predict_uncertainty`.
        num_samples: Number of posterior samples S of each prediction.
        seconds: Time spent on predictions, without tracing.
        rows: Number of rows predicted in that time.
        is_traced: Whether the graph has been traced.
    """

    name: str
    model: Any
    num_samples: int
    seconds: float = 0.0
    rows: int = 0
    is_traced: bool = False
    _parts: list[Prediction] = field(default_factory=list)

    def add(self, x: Any, seed: int) -> None:
        """Predicts a batch of inputs."""
        size = len(keras.tree.flatten(x)[0])
        if not self.is_traced:
            self._predict(keras.tree.map_structure(lambda a: a[:1], x), 1, seed)
            self.is_traced = True
        start = time.perf_counter()
        self._parts.append(self._predict(x, size, seed))
        self.seconds += time.perf_counter() - start
        self.rows += size

    def take(self) -> Prediction:
        """Returns the prediction of all batches since the last call."""
        parts, self._parts = self._parts, []
        return concatenate(parts)

    def _predict(self, x: Any, size: int, seed: int) -> Prediction:
        p = self.model.predict_uncertainty(
            x, num_samples=self.num_samples, seed=seed, batch_size=size
        )
        if not isinstance(p, Prediction) or p.predictive_entropy.ndim != 1:
            received = "several outputs"
            if isinstance(p, Prediction):
                received = f"a mean of shape {p.mean.shape}"
            raise ValueError(
                f"Expected one prediction per example, (N, K). Received: {received} from "
                f"{self.name!r}. Hint: keras.Model(model.inputs, model.outputs[0]) has one output; "
                "for pixels, reshape them to rows and use tfp_bayes.metrics."
            )
        return p


def as_sources(models: Any, num_samples: int | None) -> list[Source]:
    """Returns the models as predictors with unique names.

    Args:
        models: One or several models in any form that `evaluate` takes.
        num_samples: Requested number of samples S, or None.

    Raises:
        ValueError: If there is no model, or one of the objects is not a model.
    """
    if isinstance(models, Mapping):
        named = list(models.items())
    elif isinstance(models, Sequence) and not isinstance(models, str):
        named = [(_name(each), each) for each in models]
    else:
        named = [(_name(models), models)]
    if not named or not all(isinstance(name, str) and name.strip() for name, _ in named):
        raise ValueError(
            "Expected a model, a list of models or a dictionary of models by name. "
            f"Received: {[name for name, _ in named]!r}. Hint: evaluate(model, (x_test, y_test))."
        )
    counts: dict[str, int] = {}
    sources = []
    for name, each in named:
        counts[name] = counts.get(name, 0) + 1
        unique = name if counts[name] == 1 else f"{name} ({counts[name]})"
        predictor = as_predictor(each, unique)
        sources.append(Source(unique, predictor, _num_samples(predictor, num_samples)))
    if len({source.name for source in sources}) < len(sources):
        raise ValueError(
            f"Expected unique names. Received: {[s.name for s in sources]}. "
            "Hint: pass a dictionary of models by name."
        )
    return sources


def _name(model: Any) -> str:
    if isinstance(model, str | Path):
        return model_name(model)
    inner = getattr(model, "model", model)  # of a predictor
    return str(getattr(inner, "name", type(model).__name__))


def as_predictor(model: Any, name: str) -> Any:
    """Returns an object with `predict_uncertainty` for a model, loading it if it is a file.

    Args:
        model: A model in any form that `evaluate` takes.
        name: Name of the model in errors.

    Raises:
        ValueError: If the object is not a model.
    """
    if isinstance(model, str | Path):
        model_file, *posterior = model_files(model)
        loaded = _load(model_file)
        if not posterior:
            return as_predictor(loaded, name)
        likelihood = getattr(loaded, "likelihood", "categorical")
        return Predictor(loaded, likelihood, posterior=load_posterior(posterior[0], loaded))
    if hasattr(model, "predict_uncertainty"):
        return model
    if isinstance(model, keras.Model):
        return Predictor(model)
    raise ValueError(
        "Expected a Keras model, an object with predict_uncertainty, or the path of a .keras file. "
        f"Received: {type(model).__name__} for {name!r}. "
        "Hint: use Predictor(model, posterior=posterior) for a weight posterior."
    )


def _load(path: Path) -> keras.Model:
    # Keras finds the classes of a saved model only after their modules are imported.
    import tfp_bayes.losses
    import tfp_bayes.metrics
    import tfp_bayes.networks  # noqa: F401

    return keras.models.load_model(path)


def _num_samples(model: Any, num_samples: int | None) -> int:
    """Returns the number of samples S: the requested one, if the model has that many samples.

    A deterministic model has one sample. A finite posterior has its stored draws, unless random
    layers add noise to them.
    """
    predictor = getattr(model, "predictor", model)
    if not isinstance(predictor, Predictor):
        return 100 if num_samples is None else num_samples
    if not predictor.is_random:
        return 1
    num_draws = getattr(predictor.posterior, "num_draws", None)
    if num_draws is not None and not stochastic_layers(predictor.model):
        return num_draws
    if num_samples is None:
        num_samples = getattr(model, "num_samples", None)
    return predictor.resolve_num_samples(num_samples)
