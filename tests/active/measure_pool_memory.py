"""Prints by how many bytes memory peaks while a learner scores a pool file: its path is given."""

import resource
import sys

import keras
import numpy as np

from tfp_bayes import BayesianModel
from tfp_bayes.active import ActiveLearner
from tfp_bayes.active.rows import LoadedRows
from tfp_bayes.layers import MCDropout


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(path):
    # Mapped anew for each request: pages of the file that were read count as memory of the process.
    shape = np.load(path, mmap_mode="r").shape
    x = LoadedRows(lambda indices: np.load(path, mmap_mode="r")[indices], shape[0])
    inputs = keras.Input(shape[1:])
    outputs = keras.layers.Dense(2, "softmax")(MCDropout(0.5)(inputs))
    model = BayesianModel(inputs, outputs, num_samples=2)
    model.compile("adam", "sparse_categorical_crossentropy")
    learner = ActiveLearner(model, x, initial=([0, 1], [0, 1]), refit={"steps": 2})
    learner.train()
    model.predict_uncertainty(x[np.arange(4096)])  # what one portion of the pool takes
    before = peak()
    learner.propose()
    print(peak() - before)


if __name__ == "__main__":
    main(sys.argv[1])
