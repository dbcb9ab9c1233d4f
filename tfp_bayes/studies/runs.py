"""Active learning runs in folders, which can be started, interrupted and resumed."""

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from tfp_bayes import __version__, datasets
from tfp_bayes._plumbing.checkpoint import check_same_configuration
from tfp_bayes._plumbing.digest import digest, digest_rows
from tfp_bayes._plumbing.files import number_or_none, write_json, write_path_atomically
from tfp_bayes._plumbing.fresh import initialize
from tfp_bayes._plumbing.lock import lock_of
from tfp_bayes.active import (
    ActiveLearner,
    Evaluation,
    NoisyOracle,
    Query,
    Refit,
    Round,
    filter_quality,
    filters,
    initial,
)
from tfp_bayes.active.round import Narration
from tfp_bayes.active.stopping import Criterion
from tfp_bayes.networks import BayesianBasisRegression, BayesianCNN
from tfp_bayes.studies.baseline import read_baselines
from tfp_bayes.studies.configuration import CHECKPOINT, CLOSED_FORM, RunConfig, load_config
from tfp_bayes.studies.curves import LEVELS, images_to_error, level_name
from tfp_bayes.studies.predictions import write_class_names
from tfp_bayes.studies.report import write_report
from tfp_bayes.studies.tensorboard import TensorBoard

VALIDATION_SIZE = 100
SECONDS_BETWEEN_PICTURES = 60
SUMMARY = "summary.json"


def make_learner(config: RunConfig, data: datasets.Dataset, **kwargs) -> ActiveLearner:
    """Build a network and a learner on a data set, by the protocol of Gal et al. 2017, section 5.1.

    A balanced validation set of 100 images and the initial set are taken from the training images.
    If the rarest class has too few images, the validation set instead holds half as many of each
    class as the rarest class has. Both sets depend only on the seed, so runs that differ in
    acquisition are paired.

    Args:
        config: Configuration of the run.
        data: Images and labels.
        **kwargs: Further arguments of `ActiveLearner`, such as `checkpoint`.
    """
    if config.pool_size is not None:
        data = _first_images(data, config.pool_size)
    validation_size = _validation_size(data.y_train, len(data.class_names))
    held_out = initial.balanced(data.y_train, validation_size, config.seed)
    model = make_model(config, data)
    if config.reinit != "fresh":  # round 0 then starts from these weights
        initialize(model, config.seed)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return ActiveLearner(
        model,
        data.x_train,
        data.y_train,
        oracle=NoisyOracle(
            data.y_train,
            config.noise_rate,
            seed=config.seed,
            resample=True,
            num_classes=len(data.class_names),
        ),
        initial=initial_set(config, data, held_out),
        query=Query(
            config.acquisition,
            config.selector,
            config.query_size,
            config.candidates,
            ignore=held_out,
        ),
        refit=Refit(config.reinit, config.steps),
        evaluation=Evaluation(
            test_data=(data.x_test, data.y_test),
            validation_data=(data.x_train[held_out], data.y_train[held_out]),
            num_samples=config.evaluation_samples,
        ),
        label_filter=filters.get(config.label_filter, config.rejected),
        seed=config.seed,
        **kwargs,
    )


def _validation_size(labels: np.ndarray, num_classes: int) -> int:
    """Return how many images to hold out so that each class has images left to label."""
    size = max(VALIDATION_SIZE, num_classes)
    counts = np.unique(labels, return_counts=True)[1]
    half = max(int(counts.min()) // 2, 1)
    return size if counts.min() >= -(-size // len(counts)) else half * len(counts)


def _first_images(data: datasets.Dataset, size: int) -> datasets.Dataset:
    if not 1 <= size <= len(data.x_train):
        raise ValueError(
            f"Expected `pool_size` between 1 and the {len(data.x_train)} training images. "
            f"Received: pool_size={size}. Hint: leave it out to use all."
        )
    return data._replace(x_train=data.x_train[:size], y_train=data.y_train[:size])


def initial_set(config: RunConfig, data: datasets.Dataset, held_out: np.ndarray) -> np.ndarray:
    """Return the indices of the initial set."""
    images, labels = data.x_train, data.y_train
    rest = config.initial_size, config.seed, held_out
    choose = {
        "balanced": lambda: initial.balanced(labels, *rest),
        "random": lambda: initial.random_set(len(labels), *rest),
        "kmeans": lambda: initial.kmeans(images, labels, *rest),
        "kmeans_unlabelled": lambda: initial.kmeans_unlabelled(images, *rest),
    }
    return choose[config.initial]()


def make_model(config: RunConfig, data: datasets.Dataset) -> keras.Model:
    """Build the network of a run for the images and classes of a data set."""
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
        # Features of these networks have a norm of about 30, so prior functions are of size 1.
        prior_scale=0.03,
        noise_scale=0.3,
    )


def run_active_learning(
    config: RunConfig,
    rounds: int,
    folder: str | Path,
    *,
    data: datasets.Dataset | None = None,
    stop: Criterion | None = None,
    pictures: bool = True,
    tensorboard: bool = False,
    on_round: Callable[[Round], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> ActiveLearner:
    """Run or resume active learning in a folder until `rounds` rounds are complete.

    The folder will contain config.json, checkpoint.npz with its journal of answers, history.csv,
    acquired.csv, learning_curve.png, acquired.png, model.keras, class_names.json and summary.json.
    Tables are updated after each round, plots once a minute and at the end, model and summary at
    the end, the summary last. Only one process at a time can write to the folder. Histories of runs
    in subfolders are drawn beside that of this run.

    Args:
        config: Configuration of the run.
        rounds: Total number of rounds of acquisition.
        folder: Folder of the run. If it holds a run with the same configuration, that is resumed.
        data: Images and labels. None loads `config.dataset`.
        stop: Criterion that ends the run before `rounds`; see `tfp_bayes.active.stopping`.
        pictures: Whether to draw plots during the run and not only at the end.
        tensorboard: Whether to write a subfolder `tensorboard` for TensorBoard too.
        on_round: Function that is called with each new row of the history.
        on_stage: Function that is called with a message that describes the current stage.

    Returns:
        The learner, with its model trained on all labels.

    Raises:
        ValueError: If the folder holds a run of another configuration.
        OSError: If another process runs it.
    """
    folder = Path(folder)
    lock = lock_of(folder / CHECKPOINT)
    if folder.exists():  # a new folder is only created once all arguments are checked
        lock.acquire()  # held until the learner takes it over
    data = data or datasets.load(config.dataset)
    board = TensorBoard(folder / "tensorboard") if tensorboard else None
    if (folder / "config.json").exists():
        check_continues(config, folder)
    narration = Narration(rounds)

    def say(stage: str) -> None:
        words = narration(stage)
        if on_stage is not None and words is not None:
            on_stage(words)

    learner = make_learner(config, data, checkpoint=folder / CHECKPOINT, on_stage=say)
    narration.round = len(learner.history)
    learner.lock()
    write_json(folder / "config.json", dataclasses.asdict(config))

    drawn = time.monotonic()

    def report(row: Round) -> None:
        nonlocal drawn
        now = pictures and time.monotonic() - drawn > SECONDS_BETWEEN_PICTURES
        write_report(
            learner, folder, data.class_names, now, read_baselines(folder) if now else None
        )
        if now:
            drawn = time.monotonic()
        if board is not None:
            board.write(learner)
        if on_round is not None:
            on_round(row)

    learner.run(rounds, stop, on_round=report)
    write_outcome(learner, config, data, folder)
    return learner


def write_outcome(
    learner: ActiveLearner, config: RunConfig, data: datasets.Dataset, folder: str | Path
) -> None:
    """Write the results of a run: tables, plots and model, and the summary last."""
    folder = Path(folder)
    write_report(learner, folder, data.class_names, beside=read_baselines(folder))
    write_path_atomically(folder / "model.keras", learner.model.save)
    write_class_names(folder, data.class_names)
    record = summary(config, learner.history)
    chosen = np.flatnonzero(learner.pool.acquired_at == 0)
    record["initial_coverage"] = initial.coverage(data.y_train, chosen)
    record["data"] = digest_data(data)
    write_json(folder / SUMMARY, record)


def num_complete_rounds(folder: str | Path) -> int:
    """Return how many rounds, including the initial one, the results in a folder cover."""
    try:
        return json.loads((Path(folder) / SUMMARY).read_text())["rounds"] + 1
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0


def check_same_data(folder: Path, data_digest: str) -> None:
    """Raise ValueError if the summary in a folder is that of a run on data of another digest."""
    known = json.loads((folder / SUMMARY).read_text())
    if known.get("data", data_digest) != data_digest:  # earlier releases stored no digest
        raise ValueError(
            f"Expected the images and labels of the complete run in {folder}. Received: others, "
            f"from dataset={known['configuration']['dataset']!r}. "
            "Hint: choose another folder, or delete this one to run again."
        )


def digest_data(data: datasets.Dataset) -> str:
    """Return a digest of the images and labels for training and testing."""
    inputs = [digest_rows(x) for x in (data.x_train, data.x_test)]
    return digest([*inputs, data.y_train, data.y_test])


def open_run(
    folder: str | Path,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    write: bool = True,
) -> tuple[ActiveLearner, RunConfig, datasets.Dataset]:
    """Open a run so that people can label its proposals.

    Args:
        folder: Folder of a run that `run_active_learning` started.
        data_dir: See `datasets.load`.
        manual_dir: See `datasets.load`.
        write: Whether to lock the run for writing at once. If a killed process left results that
            are older than the checkpoint, they are then updated.

    Returns:
        The learner, its configuration, and its data set.

    Raises:
        ValueError: If there is no run in the folder.
        OSError: If another process writes to the run.
    """
    folder = Path(folder)
    config = load_config(folder)
    lock = lock_of(folder / CHECKPOINT)
    if write:
        lock.acquire()
    data = datasets.load(config.dataset, data_dir, manual_dir)
    learner = make_learner(config, data, checkpoint=folder / CHECKPOINT)
    learner.label_by_hand()
    if write:
        learner.lock()
        if learner.history and num_complete_rounds(folder) != len(learner.history):
            write_outcome(learner, config, data, folder)
    return learner, config, data


def check_continues(config: RunConfig, folder: Path) -> None:
    """Raise ValueError if the folder holds a run with another configuration."""
    known = dataclasses.asdict(load_config(folder))
    check_same_configuration(dataclasses.asdict(config), known, folder)


def summary(config: RunConfig, history: list[Round]) -> dict:
    """Return the configuration and the results of a run, as plain JSON."""
    packages = ("tensorflow", "keras", "tensorflow-probability", "numpy")
    return {
        "configuration": dataclasses.asdict(config),
        "rounds": len(history) - 1,
        **{level_name(level): images_to_error(history, level) for level in LEVELS},
        "filter": {name: number_or_none(v) for name, v in filter_quality(history).items()},
        "final": {
            name: value if isinstance(value, int) else number_or_none(value)
            for name, value in dataclasses.asdict(history[-1]).items()
        },
        "seconds": sum(r.fit_seconds + r.score_seconds + r.evaluate_seconds for r in history),
        "versions": {
            "tfp_bayes": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
    }
