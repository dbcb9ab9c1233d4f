"""Runs on images without labels: a start by clustering, and what they leave in a folder."""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import keras
import numpy as np

from tfp_bayes._plumbing.checkpoint import check_same_configuration
from tfp_bayes._plumbing.files import write_csv, write_json, write_path_atomically
from tfp_bayes._plumbing.fresh import initialize
from tfp_bayes.active import ActiveLearner, Query, Refit, filters, initial
from tfp_bayes.datasets import Dataset, ImageFiles
from tfp_bayes.studies.configuration import CHECKPOINT, POOL, RunConfig
from tfp_bayes.studies.predictions import write_class_names
from tfp_bayes.studies.report import write_report
from tfp_bayes.studies.runs import make_model

START = "start.json"  # answers to the first images
LABELS = "labels.csv"
THUMBNAIL = 16  # pixels of a side, by which images are compared for the start
# No label is known, so none can be wrong on purpose, and none tells which to begin with.
UNUSED = ("dataset", "pool_size", "initial", "noise_rate", "evaluation_samples")


@dataclasses.dataclass(frozen=True)
class PoolRun:
    """One run on a pool of images without labels.

    Attributes:
        folder: Where everything is written.
        config: Network, query and training.
        images: The pool, in files.
        data: The same as a data set without labels, in memory if small enough.
        class_names: K names.
    """

    folder: Path
    config: RunConfig
    images: ImageFiles
    data: Dataset
    class_names: tuple[str, ...]

    @functools.cached_property
    def model(self) -> keras.Model:
        """The network, compiled; an error if it does not take images of this shape."""
        model = make_model(self.config, self.data._replace(class_names=self.class_names))
        if self.config.reinit != "fresh":  # which would start from these
            initialize(model, self.config.seed)
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
        return model

    def describe(self) -> dict:
        """Returns what must be the same when the run is continued, plain JSON."""
        names = "\n".join(self.images.names.tolist())
        config = dataclasses.asdict(self.config)
        return {
            "files": f"{len(self.images)}, {hashlib.sha256(names.encode()).hexdigest()[:16]}",
            "image_shape": list(self.images.shape[1:]),
            "class_names": list(self.class_names),
            **{name: value for name, value in config.items() if name not in UNUSED},
        }

    def open(self) -> dict[int, int | None]:
        """Starts the run in its folder, or continues it; returns answers to the first images.

        Raises:
            ValueError: If the folder holds another run.
        """
        path = self.folder / POOL
        if path.exists():
            known = json.loads(path.read_text())
            check_same_configuration(self.describe(), known, self.folder)
        else:
            write_json(path, self.describe())
        try:
            answers = json.loads((self.folder / START).read_text())
        except FileNotFoundError:
            return {}
        return {int(index): label for index, label in answers.items()}

    def first_images(self) -> np.ndarray:
        """Returns the indices to label first: medoids of k-means on small copies of the images."""
        side = (THUMBNAIL, THUMBNAIL, self.images.shape[-1])
        small = ImageFiles(self.images.paths, side, self.images.folder)
        size = min(self.config.initial_size, len(small))
        return initial.kmeans_unlabelled(small, size, self.config.seed)  # type: ignore[arg-type]

    def make_learner(self, indices: np.ndarray, labels: np.ndarray) -> ActiveLearner:
        """Makes the learner of the labels of the first images, or continues with it."""
        config = self.config
        return ActiveLearner(
            self.model,
            self.data.x_train,
            initial=(indices, labels),
            query=Query(
                config.acquisition,
                config.selector,
                config.query_size,
                config.candidates,
                config.num_samples,
            ),
            refit=Refit(config.reinit, config.steps),
            label_filter=filters.get(config.label_filter, config.rejected),
            seed=config.seed,
            checkpoint=self.folder / CHECKPOINT,
        )

    def write(self, learner: ActiveLearner) -> None:
        """Writes labels, tables, names of classes and model, each whole or not at all."""
        labelled = np.flatnonzero(learner.labels >= 0)
        rows = ([self.images.names[i], self.class_names[learner.labels[i]]] for i in labelled)
        write_csv(self.folder / LABELS, ("file", "label"), rows)
        write_report(learner, self.folder, self.class_names, pictures=False)
        write_class_names(self.folder, self.class_names)
        write_path_atomically(self.folder / "model.keras", learner.model.save)
