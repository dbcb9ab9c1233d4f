"""Summaries of a run for TensorBoard, read with TensorBoard."""

import numpy as np
import pytest
import tensorflow as tf
from learners import arranged
from networks import small_cnn
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfp_bayes.active import ActiveLearner
from tfp_bayes.studies.tensorboard import TensorBoard


def test_scalars_images_and_scores(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 12, 12, 1)).astype("uint8")
    y = rng.integers(0, 4, 60)
    model = small_cnn(num_samples=3)
    model.compile("adam", "sparse_categorical_crossentropy")
    arguments = arranged(test_data=(x, y), query_size=5, steps=2)
    learner = ActiveLearner(model, x, y, initial=np.arange(8), **arguments)
    board = TensorBoard(tmp_path)
    for _ in range(3):
        learner.step()
        board.write(learner)
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {"test_accuracy", "num_labelled", "acquired", "scores of candidates"} <= tags
    assert "validation_nll" not in tags  # there is no validation set
    accuracy = events.Tensors("test_accuracy")
    assert [event.step for event in accuracy] == [0, 5, 10]
    values = [float(tf.make_ndarray(event.tensor_proto)) for event in accuracy]
    assert values == pytest.approx([row.test_accuracy for row in learner.history])
    images = events.Tensors("acquired")
    sizes = [len(tf.make_ndarray(event.tensor_proto)) for event in images]
    assert sizes == [7, 7]  # width, height and five images


def test_without_tensorboard(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"tfp_bayes\[tensorboard\]"):
        TensorBoard(tmp_path)
