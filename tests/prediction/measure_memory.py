"""Print the peak memory in bytes of a prediction. The argument is the number of samples."""

import resource
import sys

import keras
import numpy as np

from tfp_bayes import Predictor
from tfp_bayes.layers import MCDropout


def main(num_samples):
    # A thousand samples of these outputs would take 400 MB.
    model = keras.Sequential(
        [keras.Input((8,)), MCDropout(0.5), keras.layers.Dense(1000, "softmax")]
    )
    Predictor(model).predict_uncertainty(np.ones((100, 8)), num_samples, seed=0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main(int(sys.argv[1]))
