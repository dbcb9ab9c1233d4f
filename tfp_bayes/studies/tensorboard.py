"""Summaries of a run for TensorBoard."""

import math
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfp_bayes.active.learner import ActiveLearner


class TensorBoard:
    """Writer of TensorBoard summaries of each round: figures, acquired images and scores.

    Args:
        folder: Folder of the event files, for `tensorboard --logdir`.
        max_images: Maximum number of images of a round to write.

    Raises:
        ImportError: If TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path, max_images: int = 10):
        try:
            import tensorboard  # noqa: F401  (tf.summary needs it)
        except ImportError as error:
            raise ImportError(
                "Expected TensorBoard. "
                f'Received: {error}. Hint: pip install "tfp_bayes[tensorboard]".'
            ) from None
        self.max_images = max_images
        self._writer = tf.summary.create_file_writer(str(folder))

    def write(self, learner: ActiveLearner) -> None:
        """Write the last round, with its number of acquired labels as the step.

        Args:
            learner: Learner with at least one round of history.
        """
        row = learner.history[-1]
        with self._writer.as_default(step=row.num_acquired):
            for name, value in vars(row).items():
                if not math.isnan(value):
                    tf.summary.scalar(name, value)
            acquired = np.flatnonzero(learner.pool.acquired_at == row.round)
            if row.round and len(acquired):
                tf.summary.histogram("scores of candidates", learner.candidate_scores)
                images = learner.rows(acquired[: self.max_images])
                if images.ndim == 4 and images.shape[-1] in (1, 3):
                    tf.summary.image("acquired", images, max_outputs=self.max_images)
        self._writer.flush()
