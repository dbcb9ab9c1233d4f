"""Measure accuracy, NLL and ranking of errors under every corruption and severity.

    python benchmarks/corruptions.py --out runs/corruptions

The script trains MC dropout, Flipout and a deterministic network on MNIST. It corrupts the test set
with each of the 22 kinds of `tfp_bayes.robustness.MNIST_C` at five severities (kinds without a
severity once). It prints accuracy, mean NLL, and the AUROC with which predictive entropy
distinguishes errors from correct predictions. These are means over severities, then over kinds, so
that each kind has the same weight. The last columns are paired differences from the deterministic
network.

Intervals contain 95 % of a bootstrap over test images, which are drawn once for all kinds and
methods. They do not include the variation between trainings; for that, run other seeds.

Every trained network and the results for every kind are saved in the folder, and the same command
continues after a kill. Most of the time is training.
"""

import argparse
import json
from pathlib import Path

import keras
import numpy as np

import tfp_bayes
from tfp_bayes import metrics
from tfp_bayes._plumbing.files import write_atomically, write_json, write_path_atomically
from tfp_bayes.robustness import MNIST_C, corrupt

METHODS = ("mc_dropout", "flipout", "deterministic")


def trained(method, data, options, folder):
    """Loads a network, or trains and saves it."""
    path = folder / f"{method}.keras"
    if not path.exists():
        keras.utils.set_random_seed(options.seed)
        model = tfp_bayes.BayesianLeNet5(inference=method, seed=options.seed)
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(
            data.x_train[: options.num_train],
            data.y_train[: options.num_train],
            batch_size=128,
            epochs=options.epochs,
            verbose=0,
        )
        write_path_atomically(path, model.save)
    return keras.models.load_model(path)


def conditions(kind):
    """Returns the severities of a kind; the clean test set has one."""
    return range(1, 6) if kind in MNIST_C and MNIST_C[kind].has_severities else (1,)


def measured(method, model, kind, x, y, options, folder):
    """Returns NLL, entropy and error of each image (severities, 3, N); saves them to a file."""
    path = folder / method / f"{kind}.npy"
    if not path.exists():
        samples = 1 if method == "deterministic" else options.num_samples
        rows = []
        for severity in conditions(kind):
            shifted = x if kind == "clean" else corrupt(x, kind, severity, seed=options.seed)
            p = model.predict_uncertainty(shifted, samples, seed=options.seed)
            rows.append([-p.log_prob(y), p.predictive_entropy, p.mean.argmax(-1) != y])
        values = np.asarray(rows, "float32")
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, lambda file: np.save(file, values))
    return np.load(path)


def summarized(values, rows):
    """Returns accuracy, NLL and AUROC of errors, averaged over severities, then over kinds.

    Args:
        values: Arrays (severities, 3, N), one for each kind.
        rows: Indices of images; repeated indices count repeatedly.
    """
    kinds = []
    for each in values:
        nll, entropy, errors = each[..., rows].swapaxes(0, 1)
        # A ranking needs at least one error and one correct prediction.
        ranked = [
            metrics.error_auroc(wrong, uncertain)
            for wrong, uncertain in zip(errors, entropy)
            if 0 < wrong.sum() < len(rows)
        ]
        kinds.append([1 - errors.mean(), nll.mean(), np.mean(ranked) if ranked else np.nan])
    return np.nanmean(kinds, axis=0)


def bootstrapped(results, num_rows, repeats):
    """Returns estimates (methods, 3) and draws (repeats, methods, 3) over images."""
    rng = np.random.default_rng(0)
    estimates = [summarized(each, np.arange(num_rows)) for each in results]
    draws = []
    for _ in range(repeats):
        rows = rng.integers(0, num_rows, num_rows)
        draws.append([summarized(each, rows) for each in results])
    return np.array(estimates), np.array(draws)


def cell(estimate, draws):
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{estimate:.3f} ({low:.3f} to {high:.3f})"


def show(title, results, num_rows, repeats):
    """Prints a table of all methods and their differences from the last one."""
    estimates, draws = bootstrapped(results, num_rows, repeats)
    print(f"\n{title}\n\n| | accuracy | NLL | AUROC of errors | NLL change | AUROC change |")
    print("|---|---|---|---|---|---|")
    for i, method in enumerate(METHODS):
        cells = [cell(estimates[i, j], draws[:, i, j]) for j in range(3)]
        if i < len(METHODS) - 1:
            change, drawn = estimates[i] - estimates[-1], draws[:, i] - draws[:, -1]
            cells += [cell(change[j], drawn[:, j]) for j in (1, 2)]
        else:
            cells += ["", ""]
        print(f"| {method} | {' | '.join(cells)} |")


def check_same(options, folder):
    """Saves the options with the results, and refuses results of other options."""
    path = folder / "options.json"
    known = {k: v for k, v in vars(options).items() if k not in ("out", "repeats")}
    if path.exists() and json.loads(path.read_text()) != known:
        raise SystemExit(f"{folder} has results for other options; choose another --out.")
    write_json(path, known)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/corruptions"), help="folder for results")
    add("--dataset", default="mnist")
    add("--num-train", type=int, help="training images (default: all)")
    add("--num-test", type=int, default=2000)
    add("--epochs", type=int, default=20)
    add("--num-samples", type=int, default=50)
    add("--repeats", type=int, default=500, help="resamples of the bootstrap")
    add("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = options.out
    folder.mkdir(parents=True, exist_ok=True)
    check_same(options, folder)
    data = tfp_bayes.datasets.load(options.dataset)
    x, y = data.x_test[: options.num_test], data.y_test[: options.num_test]
    clean, shifted = [], []
    for method in METHODS:
        model = trained(method, data, options, folder)
        clean.append([measured(method, model, "clean", x, y, options, folder)])
        shifted.append([])
        for kind in MNIST_C:
            shifted[-1].append(measured(method, model, kind, x, y, options, folder))
            print(f"{method}, {kind}: NLL {shifted[-1][-1][:, 0].mean():.3f}", flush=True)
    show("Clean test set", clean, len(y), options.repeats)
    show(f"{len(MNIST_C)} kinds of corruption", shifted, len(y), options.repeats)


if __name__ == "__main__":
    main()
