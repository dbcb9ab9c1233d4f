"""Runs on images without labels: the first images to label, the learner and the files."""

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

START = "start.json"  # answers for the first images
LABELS = "labels.csv"
THUMBNAIL = 16  # height and width in pixels at which images are clustered for the start
# Fields of RunConfig that do not apply to a pool without labels.
UNUSED = ("dataset", "pool_size", "initial", "noise_rate", "evaluation_samples")


@dataclasses.dataclass(frozen=True)
class PoolRun:
    """A run on a pool of images without labels.

    Attributes:
        folder: Folder of the run.
        config: Configuration of network, query and training.
        images: Image files of the pool.
        data: The same images as a data set without labels, in memory if it is small enough.
        class_names: K names of the classes.
    """

    folder: Path
    config: RunConfig
    images: ImageFiles
    data: Dataset
    class_names: tuple[str, ...]

    @functools.cached_property
    def model(self) -> keras.Model:
        """The compiled network. An error is raised if it does not accept images of this shape."""
        model = make_model(self.config, self.data._replace(class_names=self.class_names))
        if self.config.reinit != "fresh":  # round 0 then starts from these weights
            initialize(model, self.config.seed)
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
        return model

    def describe(self) -> dict:
        """Return the description that a resumed run must share, as plain JSON."""
        names = "\n".join(self.images.names.tolist())
        config = dataclasses.asdict(self.config)
        return {
            "files": f"{len(self.images)}, {hashlib.sha256(names.encode()).hexdigest()[:16]}",
            "image_shape": list(self.images.shape[1:]),
            "class_names": list(self.class_names),
            **{name: value for name, value in config.items() if name not in UNUSED},
        }

    def open(self) -> dict[int, int | None]:
        """Start or resume the run in its folder, and return the answers for the first images.

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
        """Return the indices to label first: medoids of k-means on small copies of the images."""
        side = (THUMBNAIL, THUMBNAIL, self.images.shape[-1])
        small = ImageFiles(self.images.paths, side, self.images.folder)
        size = min(self.config.initial_size, len(small))
        return initial.kmeans_unlabelled(small, size, self.config.seed)  # type: ignore[arg-type]

    def make_learner(self, indices: np.ndarray, labels: np.ndarray) -> ActiveLearner:
        """Construct a learner that starts with the labels of the first images, or resume it."""
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
        """Write labels, tables, class names and model, each file atomically."""
        labelled = np.flatnonzero(learner.labels >= 0)
        rows = ([self.images.names[i], self.class_names[learner.labels[i]]] for i in labelled)
        write_csv(self.folder / LABELS, ("file", "label"), rows)
        write_report(learner, self.folder, self.class_names, pictures=False)
        write_class_names(self.folder, self.class_names)
        write_path_atomically(self.folder / "model.keras", learner.model.save)
