"""An active-learning run in a folder: started, killed, continued and reported."""

import dataclasses
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import keras

from tfp_bayes import __version__, datasets
from tfp_bayes.active import ActiveLearner, Round, images_to_error, initial
from tfp_bayes.active.checkpoint import write_atomically
from tfp_bayes.active.report import write_report
from tfp_bayes.models import BayesianBasisRegression, BayesianCNN

VALIDATION_SIZE = 100
CLOSED_FORM = {"closed_form": "matrix_normal", "closed_form_mean_field": "mean_field"}


@dataclass(frozen=True)
class RunConfig:
    """What defines a run; equal configurations choose equal images on one machine.

    Attributes:
        dataset: Name for `datasets.load`.
        acquisition: Name of an acquisition function.
        selector: Name of the rule that makes a batch of its scores, or its serialized form.
        architecture: `BayesianCNN(architecture=)`.
        inference: `BayesianCNN(inference=)`; or "closed_form" or "closed_form_mean_field", its
            features under the head of `BayesianBasisRegression`.
        prior_scale: `BayesianCNN(prior_scale=)`; a closed-form head has its own.
        query_size: Images acquired a round.
        initial_size: Images labelled at the start, balanced over classes.
        candidates: Random pool images scored a round, None for all.
        num_samples: Posterior samples, None for the model's own.
        reinit: Where each training starts, see `ActiveLearner`.
        steps: Optimizer steps a round.
        seed: Decides everything random.
    """

    dataset: str = "mnist"
    acquisition: str = "bald"
    selector: str | dict = "top_k"
    architecture: str = "gal"
    inference: str = "mc_dropout"
    prior_scale: float | None = 1.0
    query_size: int = 10
    initial_size: int = 20
    candidates: int | None = 2000
    num_samples: int | None = None
    reinit: str = "fresh"
    steps: int = 200
    seed: int = 0


def make_learner(config: RunConfig, data: datasets.Dataset, **kwargs) -> ActiveLearner:
    """Builds a network and a learner on a data set: the protocol of Gal et al. 2017, 5.1.

    A balanced validation set of 100 images and the initial set are taken from the training
    images; both depend on the seed alone, so runs that differ in acquisition are paired.

    Args:
        config: The run.
        data: Images and labels.
        **kwargs: Further arguments of `ActiveLearner`, such as `checkpoint`.
    """
    held_out = initial.balanced(data.y_train, VALIDATION_SIZE, config.seed)
    model = _make_model(config, data)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return ActiveLearner(
        model,
        data.x_train,
        data.y_train,
        initial=initial.balanced(data.y_train, config.initial_size, config.seed, exclude=held_out),
        ignore=held_out,
        validation_data=(data.x_train[held_out], data.y_train[held_out]),
        test_data=(data.x_test, data.y_test),
        acquisition=config.acquisition,
        selector=config.selector,
        query_size=config.query_size,
        candidates=config.candidates,
        reinit=config.reinit,
        steps=config.steps,
        seed=config.seed,
        **kwargs,
    )


def _make_model(config: RunConfig, data: datasets.Dataset) -> keras.Model:
    closed_form = CLOSED_FORM.get(config.inference)
    inference = "deterministic" if closed_form else config.inference
    network = BayesianCNN(
        data.x_train.shape[1:],
        len(data.class_names),
        architecture=config.architecture,
        inference=inference,
        prior_scale=config.prior_scale,
        num_samples=None if inference == "deterministic" else config.num_samples,
    )
    if not closed_form:
        return network
    features = keras.Model(network.inputs, network.layers[-2].output, name="features")
    return BayesianBasisRegression(
        features,
        len(data.class_names),
        posterior=closed_form,
        # Features of these networks have a norm of about 30: functions of size 1 before data.
        prior_scale=0.03,
        noise_scale=0.3,
    )


def run_active_learning(
    config: RunConfig,
    rounds: int,
    folder: str | Path,
    *,
    data: datasets.Dataset | None = None,
    on_round: Callable[[Round], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> ActiveLearner:
    """Runs, or continues, active learning in a folder until `rounds` rounds are complete.

    The folder then holds config.json, checkpoint.npz, history.csv, acquired.csv,
    learning_curve.png, acquired.png, summary.json and model.keras; tables and plots are brought
    up to date after each round.

    Args:
        config: The run.
        rounds: Rounds of acquisition in all.
        folder: Where to write; if it holds a run, of the same configuration, that is continued.
        data: The images; None loads `config.dataset`.
        on_round: Called with each new row of the history.
        on_stage: Called with the name of each stage, see `ActiveLearner`.

    Returns:
        The learner, its model trained on all labels.

    Raises:
        ValueError: If the folder holds a run of another configuration.
    """
    folder = Path(folder)
    data = data or datasets.load(config.dataset)
    learner = make_learner(config, data, checkpoint=folder / "checkpoint.npz", on_stage=on_stage)
    _write_json(folder / "config.json", dataclasses.asdict(config))
    while len(learner.history) <= rounds:
        row = learner.step()
        write_report(learner, folder, data.class_names)
        if on_round is not None:
            on_round(row)
    write_report(learner, folder, data.class_names)
    _write_json(folder / "summary.json", summary(config, learner.history))
    _save_model(learner.model, folder / "model.keras")
    return learner


def load_config(folder: str | Path) -> RunConfig:
    """Returns the configuration of the run in a folder.

    Raises:
        ValueError: If there is none.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise ValueError(
            f"Expected a run in {folder}. Received: no {path.name} there. "
            "Hint: leave out --resume to start one."
        )
    return RunConfig(**json.loads(path.read_text()))


def summary(config: RunConfig, history: list[Round]) -> dict:
    """Returns what a run was and what came of it, plain JSON."""
    packages = ("tensorflow", "keras", "tensorflow-probability", "numpy")
    return {
        "configuration": dataclasses.asdict(config),
        "rounds": len(history) - 1,
        "images_to_10_percent_error": images_to_error(history, 0.10),
        "images_to_5_percent_error": images_to_error(history, 0.05),
        "final": dataclasses.asdict(history[-1]),
        "seconds": sum(r.fit_seconds + r.score_seconds + r.evaluate_seconds for r in history),
        "versions": {
            "tfp_bayes": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
    }


def _write_json(path: Path, record: dict) -> None:
    write_atomically(path, lambda file: file.write(json.dumps(record, indent=2).encode() + b"\n"))


def _save_model(model: keras.Model, path: Path) -> None:
    temporary = path.with_name(f".{path.name}")  # Keras insists on the .keras ending
    model.save(temporary)
    temporary.replace(path)
