"""Data sets: some from the package at once, one's own from files, others through TFDS."""

from tfp_bayes.datasets.dataset import Dataset
from tfp_bayes.datasets.image_files import ImageFiles
from tfp_bayes.datasets.packaged import MNIST_FILES
from tfp_bayes.datasets.registry import load

__all__ = ["MNIST_FILES", "Dataset", "ImageFiles", "load"]
