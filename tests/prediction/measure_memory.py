"""Print the peak memory in bytes of a prediction. The argument is the number of samples."""

import resource
import sys

import numpy as np

import tfp_bayes


def main(num_samples):
    model = tfp_bayes.BayesianCNN(seed=0)
    images = np.zeros((1000, 28, 28, 1), "uint8")
    model.predict_uncertainty(images, num_samples, seed=0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main(int(sys.argv[1]))
