"""Test uncertainty as a score of image quality, and as a weight for augmented copies.

    python benchmarks/uncertain_images.py

The script trains an MLP with dropout on MNIST. The first table shows, for each kind of corruption,
how the uncertainty of an image follows the severity (Spearman's correlation over six versions of an
image, mean over images), and the AUROC with which uncertainty distinguishes severity 5 from clean
images.

For the second table, networks train on clean images and one corrupted copy of each. The copies have
equal weights, or weights that depend on the entropy of the first network: lower or higher for
copies that it finds uncertain. The table shows the test NLL on clean images and on kinds of
corruption that no copy has.
"""

import argparse

import keras
import numpy as np
from scipy.stats import rankdata

from tfp_bayes import BayesianMLP, datasets, metrics
from tfp_bayes.robustness import MNIST_C, corrupt

SCORES = ("predictive_entropy", "mutual_information", "variation_ratio")
COPIES = ("shot_noise", "motion_blur", "fog", "shear")  # corruptions of the training copies


def trained(x, y, options, seed, weights=None):
    """Returns a trained network."""
    keras.utils.set_random_seed(seed)
    model = BayesianMLP(x.shape[1:], 10, hidden_units=(128,), num_samples=20, seed=seed)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, 64, options.epochs, sample_weight=weights, verbose=0)
    return model


def spearman(scores):
    """Returns the rank correlation of scores (severities, N) with severity, for each image."""
    ranks = rankdata(scores, axis=0)
    ranks -= ranks.mean(axis=0)
    severity = np.arange(len(scores)) - (len(scores) - 1) / 2
    scale = np.sqrt((ranks**2).sum(axis=0) * (severity**2).sum())
    return np.where(scale > 0, severity @ ranks / np.maximum(scale, 1e-12), 0.0)


def quality(model, x, kinds, seed):
    """Prints the first table."""
    print("| kind |", " | ".join(f"{s}: Spearman, AUROC" for s in SCORES), "|")
    print("|---|" + "---|" * len(SCORES))
    found = []
    for kind in kinds:
        versions = [x, *(corrupt(x, kind, severity, seed=seed) for severity in range(1, 6))]
        predictions = [model.predict_uncertainty(each, seed=seed) for each in versions]
        row = []
        for name in SCORES:
            scores = np.stack([getattr(p, name) for p in predictions])
            row += [spearman(scores).mean(), metrics.auroc(scores[0], scores[-1])]
        found.append(row)
        print(f"| {kind} |", " | ".join(f"{a:.2f}, {b:.2f}" for a, b in zip(row[::2], row[1::2])))
    mean = np.mean(found, axis=0)
    print("| mean |", " | ".join(f"{a:.2f}, {b:.2f}" for a, b in zip(mean[::2], mean[1::2])))


def augmentation(data, x, y, kinds, options):
    """Prints the second table."""
    others = [kind for kind in kinds if kind not in COPIES]
    x_test, y_test = data.x_test[: options.num_test], data.y_test[: options.num_test]
    shifted = [corrupt(x_test, kind, 3, seed=0) for kind in others]
    losses = {}
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        which, copies = rng.integers(len(COPIES), size=len(x)), x.copy()
        for i, kind in enumerate(COPIES):
            copies[which == i] = corrupt(x[which == i], kind, 3, seed=seed)
        first = trained(x, y, options, seed)
        entropy = first.predict_uncertainty(copies, seed=seed).predictive_entropy
        ways = {
            "equal": np.ones(len(x)),
            "less for uncertain copies": np.exp(-entropy),
            "more for uncertain copies": 0.1 + entropy,
        }
        models = {"no copies": first}
        both = np.concatenate([x, copies]), np.concatenate([y, y])
        for name, weights in ways.items():
            weights = np.concatenate([np.ones(len(x)), weights / weights.mean()])
            models[name] = trained(*both, options, seed, weights.astype("float32"))
        for name, model in models.items():
            clean = metrics.nll(y_test, model.predict(x_test, verbose=0))
            other = [metrics.nll(y_test, model.predict(each, verbose=0)) for each in shifted]
            losses.setdefault(name, []).append([clean, np.mean(other)])
    print("| weights of copies | NLL, clean | NLL, other kinds | minus equal weights, by seed |")
    print("|---|---|---|---|")
    for name, rows in losses.items():
        clean, other = np.mean(rows, axis=0)
        minus = np.subtract(rows, losses["equal"])[:, 1]
        print(f"| {name} | {clean:.3f} | {other:.3f} | {', '.join(f'{d:+.3f}' for d in minus)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-train", type=int, default=4000)
    parser.add_argument("--num-test", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    data = datasets.load("mnist")
    x, y = data.x_train[: options.num_train], data.y_train[: options.num_train]
    kinds = [kind for kind, each in MNIST_C.items() if each.has_severities]
    quality(trained(x, y, options, 0), data.x_test[: options.num_test], kinds, 0)
    augmentation(data, x, y, kinds, options)


if __name__ == "__main__":
    main()
