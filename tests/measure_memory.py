"""Prints the peak memory in bytes of a prediction with as many samples as the argument says."""

import resource
import sys

import numpy as np

import tfp_bayes

model = tfp_bayes.BayesianCNN(seed=0)
images = np.zeros((1000, 28, 28, 1), "uint8")
model.predict_uncertainty(images, int(sys.argv[1]), seed=0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
