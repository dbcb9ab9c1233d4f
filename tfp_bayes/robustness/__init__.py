"""Corrupted and adversarial images, for testing accuracy and uncertainty under shift.

`corrupt` and `rotate_images` need no model. `fgsm` and `pgd` search nearby images for ones that the
posterior predictive mean of a model gets wrong.
"""

from tfp_bayes.robustness.attacks import fgsm, pgd
from tfp_bayes.robustness.corruptions import CIFAR_C, MNIST_C, Corruption, corrupt
from tfp_bayes.robustness.geometry import rotate_images

__all__ = ["CIFAR_C", "MNIST_C", "Corruption", "corrupt", "fgsm", "pgd", "rotate_images"]
