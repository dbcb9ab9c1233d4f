"""Measure the accuracy with few labels, on features learned from unlabeled training images.

    python benchmarks/few_labels.py --out few_labels

For each seed, a network is trained on the training images without their labels (SimCLR). Then, for
each strategy, a closed-form head on its features learns from the labels that the strategy requests.
Some strategies use `NeighborAverage`: features averaged over the most similar training images.
Networks and finished runs in the folder are not computed again. Test images are used only to
measure the accuracy. The last column is the median time of a round, from the answers to the next
images to label, without the time to measure the accuracy.
"""

import argparse
import csv
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

import tfp_bayes
from tfp_bayes._plumbing.t_interval import t_margin
from tfp_bayes.active import initial
from tfp_bayes.networks import NeighborAverage, contrastive_features

START, QUERY_SIZE, CANDIDATES, SHOWN = 20, 5, 4000, (20, 40, 60, 100)
EASY_CLOTHES = (1, 5, 7, 8, 9)  # trouser, sandal, sneaker, bag, boot
COLUMNS = ("data", "seed", "strategy", "labels", "accuracy", "seconds")


def closest_call(prediction):
    """Scores how close the second most likely class is to the most likely one."""
    best = np.sort(prediction.mean, axis=1)
    return 1 - (best[:, -1] - best[:, -2])


class Strategy(NamedTuple):
    """How the images to label are chosen, and whether features are averaged over neighbors."""

    start: str
    acquisition: str | Callable | None
    selector: str = "top_k"
    averaged: bool = False


STRATEGIES = {
    "random": Strategy("random", "random"),
    "k-means start, then random": Strategy("kmeans", "random"),
    "k-means start, then largest variance": Strategy("kmeans", "random", "greedy_variance"),
    "k-means start, then closest calls": Strategy("kmeans", closest_call, "diverse"),
    "k-means alone": Strategy("kmeans", None),
    "random, averaged features": Strategy("random", "random", averaged=True),
    "k-means alone, averaged features": Strategy("kmeans", None, averaged=True),
}


def load(name, manual_dir):
    """Loads a data set, or the five easy classes of Fashion-MNIST."""
    if name != "easy_clothes":
        return tfp_bayes.datasets.load(name, manual_dir=manual_dir)
    data = tfp_bayes.datasets.load("fashion_mnist", manual_dir=manual_dir)
    train, test = (np.isin(y, EASY_CLOTHES) for y in (data.y_train, data.y_test))
    return data._replace(
        x_train=data.x_train[train],
        y_train=np.searchsorted(EASY_CLOTHES, data.y_train[train]),
        x_test=data.x_test[test],
        y_test=np.searchsorted(EASY_CLOTHES, data.y_test[test]),
        class_names=tuple(data.class_names[i] for i in EASY_CLOTHES),
    )


def embed(data, path, seed, steps):
    """Returns unit-length features of training and test images, from a network that is saved."""
    if not path.exists():
        start = time.perf_counter()
        network = contrastive_features(data.x_train, steps=steps, seed=seed, verbose=2)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s, without labels", flush=True)
        network.save(path)
    network = keras.models.load_model(path)
    model = keras.Sequential([network, keras.layers.UnitNormalization()])
    return [model.predict(x, batch_size=1000, verbose=0) for x in (data.x_train, data.x_test)]


def average(pool, test):
    """Returns features of the pool and the test images, averaged over neighbors in the pool."""
    layer = NeighborAverage()
    layer.adapt(pool)
    model = keras.Sequential([keras.Input(pool.shape[1:]), layer])
    return [model.predict(x, batch_size=500, verbose=0) for x in (pool, test)]


def run(data, phi, strategy, seed, most):
    """Yields (number of labels, accuracy, seconds of the round) for one strategy."""
    start, acquisition, selector, _ = strategy
    pool, test = phi

    def head():
        model = tfp_bayes.BayesianBasisRegression(
            pool.shape[1], len(data.class_names), noise_scale=0.2, seed=seed
        )
        model.compile()
        return model

    if acquisition is None:
        model = head()
        for size in SHOWN:
            began = time.perf_counter()
            chosen = initial.kmeans_unlabelled(pool, size, seed)
            model.condition(pool[chosen], data.y_train[chosen])
            seconds = time.perf_counter() - began
            yield size, np.mean(model.predict(test).argmax(1) == data.y_test), seconds
        return
    if start == "kmeans":
        first = initial.kmeans_unlabelled(pool, START, seed)
    else:
        first = initial.random_set(len(pool), START, seed)
    learner = tfp_bayes.ActiveLearner(
        head(),
        pool,
        data.y_train,
        initial=first,
        query={
            "acquisition": acquisition,
            "selector": selector,
            "size": QUERY_SIZE,
            "candidates": CANDIDATES,
        },
        refit={"steps": 1},  # not used: the head learns in closed form
        evaluation={"test_data": (test, data.y_test)},
        seed=seed,
    )
    while len(learner.pool.labelled) < most:
        row = learner.step()
        yield row.num_labelled, row.test_accuracy, row.fit_seconds + row.score_seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for networks and results")
    add("--data", default="mnist", help="mnist, fashion_mnist or easy_clothes")
    add("--seeds", type=int, default=5)
    add("--steps", type=int, default=1500, help="training steps without labels")
    add("--manual-dir", help="folder of Fashion-MNIST's files, see tfp_bayes.datasets")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = load(options.data, options.manual_dir)
    rows = []
    for seed in range(options.seeds):
        path = options.out / f"{options.data}_{seed}.csv"
        if not path.exists():
            phi = embed(data, path.with_suffix(".keras"), seed, options.steps)
            features = {False: phi, True: average(*phi)}
            found = [
                (options.data, seed, name, *result)
                for name, strategy in STRATEGIES.items()
                for result in run(data, features[strategy.averaged], strategy, seed, SHOWN[-1])
            ]
            with path.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([COLUMNS, *found])
            print(f"Wrote {path}", flush=True)
        with path.open(newline="") as file:
            rows += list(csv.DictReader(file))
    report(rows, options)


def report(rows, options):
    """Prints mean accuracies with 95 % intervals over seeds, and labels to reach two levels."""
    print(f"\n{options.data}, {options.seeds} seeds, {platform.machine()}\n")
    print("| | " + " | ".join(f"{size} labels" for size in SHOWN) + " | 90 % | 95 % | round |")
    print("|---" * (len(SHOWN) + 4) + "|")
    for strategy in STRATEGIES:
        curves, seconds = [], []
        for seed in range(options.seeds):
            own = [r for r in rows if r["strategy"] == strategy and int(r["seed"]) == seed]
            curves.append({int(r["labels"]): float(r["accuracy"]) for r in own})
            seconds += [float(r["seconds"]) for r in own if r["seconds"]]
        cells = []
        for size in SHOWN:
            values = np.array([curve[size] for curve in curves])
            margin = f" ± {t_margin(values):.1%}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1%}{margin}")
        for level in (0.9, 0.95):
            reached = [min((n for n, a in c.items() if a >= level), default=np.inf) for c in curves]
            middle = np.median(reached)
            cells.append(f"{middle:.0f}" if middle < np.inf else f"> {SHOWN[-1]}")
        cells.append(f"{1000 * np.median(seconds):.0f} ms" if seconds else "")
        print(f"| {strategy} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
