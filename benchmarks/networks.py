"""Gal's network in PyTorch, for comparison."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from torch import nn


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Suppresses the progress bars and log lines of BaaL."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def torch_cnn(dropout=nn.Dropout):
    """Returns the network of `tfp_bayes.BayesianCNN` for (N, 1, 28, 28) images, without softmax."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 4),
        nn.ReLU(),
        nn.Conv2d(32, 32, 4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        dropout(0.25),
        nn.Linear(3872, 128),
        nn.ReLU(),
        dropout(0.5),
        nn.Linear(128, 10),
    )
