"""Compare the time of BatchBALD with other libraries: 10 of 2,000 MNIST images, 100 samples.

    pip install "tfp_bayes[benchmarks]" && python benchmarks/batch_bald.py

All libraries choose from the same samples of Gal's network, trained on 120 images. They take turns.
The table shows medians, and how many picks each library has in common with this one, out of ten and
out of the first four, for which all libraries except BaaL enumerate all labels. Without the extra,
batchbald_redux and BaaL are left out.
"""

import argparse
import os
import platform
import statistics
import time

import triton_first  # noqa: F401

# isort: split
import keras

import tfp_bayes
from tfp_bayes.active import batch_bald, initial

CANDIDATES, SAMPLES, QUERY_SIZE, EXACT = 2000, 100, 10, 4


def make_samples():
    """Returns probabilities (S, N, K)."""
    data = tfp_bayes.datasets.load("mnist")
    keras.utils.set_random_seed(0)
    model = tfp_bayes.BayesianCNN()
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    labelled = initial.balanced(data.y_train, 120)
    model.fit(data.x_train[labelled], data.y_train[labelled], epochs=50, verbose=0)
    return model.sample(data.x_test[:CANDIDATES], SAMPLES, seed=0)


def contenders(samples):
    """Yields (name, function that maps a query size to the ordered picks)."""
    yield "tfp_bayes", lambda size: batch_bald(samples, size)
    try:
        import torch
        from baal.active.heuristics import BatchBALD
        from batchbald_redux.batchbald import get_batchbald_batch
        from networks import silence
    except ImportError as error:
        print(f"The other libraries are not installed ({error}): left out.")
        return
    torch.set_num_threads(os.cpu_count())
    logs = torch.log(torch.from_numpy(samples.transpose(1, 0, 2).copy()))  # (N, S, K)

    def redux(size):
        torch.manual_seed(0)
        with silence():
            return get_batchbald_batch(logs, size, 10_000).indices

    yield "batchbald_redux", redux
    by_class = samples.transpose(1, 2, 0).copy()  # (N, K, S)

    def baal(size):
        torch.manual_seed(0)
        # `num_draw` counts per sample; in total this is the number that batchbald_redux uses.
        heuristic = BatchBALD(size, num_draw=10_000 // SAMPLES)
        with silence():
            return heuristic(by_class)[:size]

    yield "BaaL", baal


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    samples = make_samples()
    runs = list(contenders(samples))
    seconds = {name: [] for name, _ in runs}
    picks = {}
    for _ in range(repeats):
        for name, run in runs:
            start = time.perf_counter()
            picks[name] = [int(i) for i in run(QUERY_SIZE)]
            seconds[name].append(time.perf_counter() - start)
    ours = statistics.median(seconds["tfp_bayes"])
    print(f"{platform.machine()}, {os.cpu_count()} CPUs; median of {repeats} runs\n")
    print("| | seconds | times tfp_bayes | picks in common, of 10 | of 4 |\n|---|---|---|---|---|")
    for name, run in runs:
        median = statistics.median(seconds[name])
        exact = [int(i) for i in run(EXACT)]
        few = len(set(exact) & set(picks["tfp_bayes"][:EXACT]))
        many = len(set(picks[name]) & set(picks["tfp_bayes"]))
        print(f"| {name} | {median:.2f} | {median / ours:.1f} | {many} | {few} |")


if __name__ == "__main__":
    main()
