"""Measure one active-learning round: refit in place, score 2,000 candidates, evaluate.

    pip install "tfp_bayes[benchmarks]" && python benchmarks/active_learning.py

The round is compared with a new Keras model compiled in every round, as a plain script would do,
and with BaaL if it is installed. All train Gal's network for 100 steps of 64 on 120 images, score
with 100 samples, and evaluate 1,000 test images with 100 samples. They take turns; the table shows
medians.
"""

import argparse
import os
import platform
import statistics
import time

import triton_first  # noqa: F401

# isort: split
import keras
import numpy as np

import tfp_bayes
from tfp_bayes.active import Refit, initial

STEPS, BATCH, LABELLED, CANDIDATES, TEST, SAMPLES = 100, 64, 120, 2000, 1000, 100


def compiled():
    model = tfp_bayes.BayesianCNN()
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return model


def timed(*stages):
    seconds = []
    for stage in stages:
        start = time.perf_counter()
        stage()
        seconds.append(time.perf_counter() - start)
    return seconds


def ours(data, labelled):
    model = compiled()
    train = Refit(steps=STEPS, batch_size=BATCH).bind(model)

    def one_round(number):
        return timed(
            lambda: train(data.x_train[labelled], data.y_train[labelled], number),
            lambda: model.predict_uncertainty(data.x_train[:CANDIDATES], SAMPLES, seed=number),
            lambda: model.predict_uncertainty(data.x_test[:TEST], SAMPLES, seed=number),
        )

    return one_round


def steps_alone(data, labelled):
    """Runs only the training steps, which no design can avoid, in a model that is warm."""
    model = compiled()
    x = np.resize(data.x_train[labelled], (STEPS * BATCH, 28, 28, 1))
    y = np.resize(data.y_train[labelled], STEPS * BATCH)

    def one_round(number):
        del number
        return [*timed(lambda: model.fit(x, y, batch_size=BATCH, verbose=0)), 0.0, 0.0]

    return one_round


def fresh_model(data, labelled):
    def one_round(number):
        del number
        model = None

        def fit():
            nonlocal model
            model = compiled()
            x = np.resize(data.x_train[labelled], (STEPS * BATCH, 28, 28, 1))
            y = np.resize(data.y_train[labelled], STEPS * BATCH)
            model.fit(x, y, batch_size=BATCH, verbose=0)

        def sampled(x, samples=10):  # a tenth of the samples, times ten
            start = time.perf_counter()
            np.mean([model(x.astype("float32"), training=True) for _ in range(samples)], axis=0)
            return (time.perf_counter() - start) * SAMPLES / samples

        (seconds,) = timed(fit)
        return [seconds, sampled(data.x_train[:CANDIDATES]), sampled(data.x_test[:TEST])]

    return one_round


def baal(data, labelled):
    import torch
    from baal.active.heuristics import BALD
    from baal.bayesian.dropout import Dropout
    from baal.modelwrapper import ModelWrapper, TrainingArgs
    from networks import silence, torch_cnn

    torch.set_num_threads(os.cpu_count())

    def tensors(x, y):
        images = torch.from_numpy(np.moveaxis(x.astype("float32") / 255, -1, 1).copy())
        return torch.utils.data.TensorDataset(images, torch.from_numpy(y))

    rows = np.resize(labelled, STEPS * BATCH)
    training = tensors(data.x_train[rows], data.y_train[rows])
    pool = tensors(data.x_train[:CANDIDATES], data.y_train[:CANDIDATES])
    test = tensors(data.x_test[:TEST], data.y_test[:TEST])

    def one_round(number, samples=10):
        del number
        network = torch_cnn(Dropout)
        arguments = TrainingArgs(
            optimizer=torch.optim.Adam(network.parameters(), 1e-3),
            criterion=torch.nn.CrossEntropyLoss(),
            batch_size=BATCH,
            epoch=1,
            use_cuda=False,
            workers=0,
            replicate_in_memory=False,
        )
        wrapper = ModelWrapper(network, arguments)
        with silence():
            fit, score, evaluate = timed(
                lambda: wrapper.train_on_dataset(training),
                lambda: BALD()(wrapper.predict_on_dataset(pool, samples)),
                lambda: wrapper.predict_on_dataset(test, samples),
            )
        return [fit, score * SAMPLES / samples, evaluate * SAMPLES / samples]

    return one_round


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    data = tfp_bayes.datasets.load("mnist")
    labelled = initial.balanced(data.y_train, LABELLED)
    contenders = {
        "tfp_bayes, in place": ours(data, labelled),
        "the training steps alone": steps_alone(data, labelled),
        "fresh Keras model, Keras loop": fresh_model(data, labelled),
    }
    try:
        contenders["BaaL, fresh model"] = baal(data, labelled)
    except ImportError as error:
        print(f"BaaL is not installed ({error}): left out.")
    seconds = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, one_round in contenders.items():
            stages = one_round(turn)
            if turn:  # the first turn traces and warms up
                seconds[name].append([*stages, sum(stages)])
    print(f"\n{platform.machine()}, {os.cpu_count()} CPUs; median seconds of {repeats} rounds:\n")
    print("| | fit | score | evaluate | round | times tfp_bayes |\n|---|---|---|---|---|---|")
    medians = {
        name: [statistics.median(column) for column in zip(*rows)] for name, rows in seconds.items()
    }
    for name, row in medians.items():
        ratio = row[-1] / medians["tfp_bayes, in place"][-1]
        print(f"| {name} | " + " | ".join(f"{s:.2f}" for s in row) + f" | {ratio:.1f} |")
    fixed = medians["tfp_bayes, in place"][0] - medians["the training steps alone"][0]
    print(f"\nFixed cost of a refit beyond its steps: {fixed:.2f} s")


if __name__ == "__main__":
    main()
