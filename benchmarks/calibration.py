"""Measure the test NLL before and after each calibration method, on three data sets.

    python benchmarks/calibration.py --fashion-mnist /usr/share/datasets/fashion-mnist

The script trains an MLP with dropout on 6,000 images of MNIST and of Fashion-MNIST, and a small CNN
on blood cells. It calibrates them on held-out examples (for blood cells, held-out smears), and
prints the test NLL before and after, and the largest rise over seeds. Fashion-MNIST is left out
unless you pass the folder of its four files, which Debian packages as dataset-fashion-mnist.
"""

import argparse
import warnings
from pathlib import Path

import keras
import numpy as np

from tfp_bayes import BayesianCNN, BayesianMLP, datasets
from tfp_bayes.datasets import MNIST_FILES
from tfp_bayes.datasets.packaged import from_idx

METHODS = ("temperature", "vector", "isotonic")


def parts(data, options, seed):
    """Returns inputs and labels for training and calibration; blood cells are split already."""
    if data.x_validation is not None:
        held = slice(options.held)
        return (data.x_train, data.y_train), (data.x_validation[held], data.y_validation[held])
    order = np.random.default_rng(seed).permutation(len(data.x_train))
    held, rest = np.split(order[: options.held + options.num_train], [options.held])
    return tuple((data.x_train[rows], data.y_train[rows]) for rows in (rest, held))


def trained(data, x, y, seed):
    """Returns a small trained network."""
    keras.utils.set_random_seed(seed)
    shape, num_classes = x.shape[1:], len(data.class_names)
    if shape[-1] == 3:
        rates = {"architecture": "kirsch", "dropout_rates": (0.1, 0.1, 0.5)}
        model = BayesianCNN(shape, num_classes, num_samples=30, seed=seed, **rates)
    else:
        model = BayesianMLP(shape, num_classes, hidden_units=(64,), num_samples=20, seed=seed)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=64, epochs=10, verbose=0)
    return model


def losses(data, options, seed):
    """Returns the test NLL before and after each method, NaN if the method is refused."""
    (x, y), held = parts(data, options, seed)
    model = trained(data, x, y, seed)
    found = [model.evaluate(data.x_test, data.y_test, verbose=0)]
    for method in METHODS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the model was left unchanged
            try:
                model.calibrate(*held, method=method)
            except ValueError:
                found.append(float("nan"))
                continue
        found.append(model.evaluate(data.x_test, data.y_test, verbose=0))
    return np.asarray([np.ravel(each)[0] for each in found])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fashion-mnist", type=Path, help="folder of the four files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-train", type=int, default=6000)
    parser.add_argument("--held", type=int, default=1000, help="examples to calibrate on")
    options = parser.parse_args()
    sets = {name: datasets.load(name) for name in ("mnist", "blood_cells")}
    if options.fashion_mnist is not None:
        files = ((options.fashion_mnist / name).read_bytes() for name in MNIST_FILES)
        sets["fashion_mnist"] = from_idx(files, None)
    print("| data | held out | NLL |", " | ".join(METHODS), "| largest rise |")
    print("|---|---|---|" + "---|" * (len(METHODS) + 1))
    for name, data in sets.items():
        rows = np.stack([losses(data, options, seed) for seed in range(options.seeds)])
        rise = np.nanmax(rows[:, 1:] - rows[:, :1], axis=0)
        means = " | ".join(f"{mean:.4f}" for mean in rows.mean(0))
        print(f"| {name} | {options.held} | {means} | {', '.join(f'{r:+.4f}' for r in rise)} |")


if __name__ == "__main__":
    main()
