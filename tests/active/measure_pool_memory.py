"""Print how many bytes of memory a learner needs to score a pool: the path of a file is given."""

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
    # Map the file again for each request, because pages that were read count as memory in use.
    shape = np.load(path, mmap_mode="r").shape
    x = LoadedRows(lambda indices: np.load(path, mmap_mode="r")[indices], shape[0])
    inputs = keras.Input(shape[1:])
    outputs = keras.layers.Dense(2, "softmax")(MCDropout(0.5)(inputs))
    model = BayesianModel(inputs, outputs, num_samples=2)
    model.compile("adam", "sparse_categorical_crossentropy")
    learner = ActiveLearner(model, x, initial=([0, 1], [0, 1]), refit={"steps": 2})
    learner.train()
    model.predict_uncertainty(x[np.arange(4096)])  # the memory that one part of the pool needs
    before = peak()
    learner.propose()
    print(peak() - before)


if __name__ == "__main__":
    main(sys.argv[1])
