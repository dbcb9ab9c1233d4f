"""Measure what `evaluate` costs beyond prediction, for 10,000 MNIST images and 100 samples.

    python benchmarks/evaluation.py

`predict_uncertainty` and `evaluate` take turns on the same trained network, so that a drift of the
machine's speed affects both equally. The script prints the seconds of each turn and the medians.
The time of `evaluate` includes all metrics, the fit of the temperature and 1,000 bootstrap
resamples.
"""

import argparse
import time

import keras
import numpy as np

import tfp_bayes


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--num-samples", type=int, default=100)
    options = parser.parse_args()
    data = tfp_bayes.datasets.load("mnist")
    keras.utils.set_random_seed(0)
    model = tfp_bayes.BayesianCNN(seed=0)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(data.x_train[:10_000], data.y_train[:10_000], batch_size=128, epochs=2, verbose=0)
    test = (data.x_test, data.y_test)

    def predict():
        model.predict_uncertainty(data.x_test, options.num_samples, seed=0)

    def predict_many_at_once():
        model.predict_uncertainty(data.x_test, options.num_samples, seed=0, batch_size=1152)

    def evaluate():
        tfp_bayes.evaluate(model, test, num_samples=options.num_samples)

    runs = (predict, predict_many_at_once, evaluate)
    for run in runs:
        run()  # traces graphs
    turns = np.array([[seconds(run) for run in runs] for _ in range(options.repeats)])
    for turn in turns:
        print("predict_uncertainty {:.2f} s, of 1,152 {:.2f} s, evaluate {:.2f} s".format(*turn))
    a, b, c = np.median(turns, axis=0)
    print(f"Medians {a:.2f} s, {b:.2f} s and {c:.2f} s.")
    print(f"1.1 times the first plus 2 s is {1.1 * a + 2:.2f} s.")


if __name__ == "__main__":
    main()
