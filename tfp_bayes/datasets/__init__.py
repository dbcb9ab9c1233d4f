"""Data sets: packaged ones, your own files, and those of TensorFlow Datasets."""

from tfp_bayes.datasets.dataset import Dataset
from tfp_bayes.datasets.image_files import ImageFiles
from tfp_bayes.datasets.packaged import MNIST_FILES
from tfp_bayes.datasets.registry import load

__all__ = ["MNIST_FILES", "Dataset", "ImageFiles", "load"]
