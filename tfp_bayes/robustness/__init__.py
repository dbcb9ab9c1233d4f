"""Shifted and attacked images, to see what becomes of accuracy and uncertainty.

`corrupt` and `rotate_images` need no model. `fgsm` and `pgd` look for the images nearby that a
model's posterior predictive mean gets wrong.
"""

from tfp_bayes.robustness.attacks import fgsm, pgd
from tfp_bayes.robustness.corruptions import CIFAR_C, MNIST_C, Corruption, corrupt
from tfp_bayes.robustness.geometry import rotate_images

__all__ = ["CIFAR_C", "MNIST_C", "Corruption", "corrupt", "fgsm", "pgd", "rotate_images"]
