"""Gal's network in PyTorch, for comparisons."""

from torch import nn


def torch_cnn(dropout=nn.Dropout):
    """Returns the layers of `tfp_bayes.BayesianCNN` on (N, 1, 28, 28) images, without softmax."""
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
