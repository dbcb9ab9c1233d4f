"""Compare BatchEnsemble with one network and with an ensemble, on a few images of MNIST.

    python benchmarks/batch_ensemble.py
    python benchmarks/batch_ensemble.py --epochs 10

Networks and training are those of `benchmarks/methods.py`.
"""

import argparse

import keras
import methods
import numpy as np

import tfp_bayes
from tfp_bayes import inference, metrics


def batch_ensemble(**settings):
    """Returns a function that trains four members that share kernels."""

    def fit(data, seed, options):
        method = inference.BatchEnsemble(4, seed=seed, **settings)
        return methods.fit_anew(method, data, seed, options, options.epochs)

    return fit


METHODS = {
    "deterministic": methods.METHODS["deterministic"],
    "BatchEnsemble of 4": batch_ensemble(),
    "BatchEnsemble of 4, `factor_scale=0.1`": batch_ensemble(factor_scale=0.1),
    "BatchEnsemble of 4, `split_batches=True`": batch_ensemble(split_batches=True),
    "ensemble of 4": methods.ensemble(4),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=2000, help="training images")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    mnist, n = tfp_bayes.datasets.load("mnist"), options.train
    x_test, y_test = mnist.x_test, mnist.y_test
    # Nothing is chosen on held-out images, and there is no other data set.
    data = methods.Data(mnist.x_train[:n], mnist.y_train[:n], None, None, x_test, y_test, None)
    print("| method | accuracy | NLL | NLL of single members | ECE | mutual information |")
    print("|---|---|---|---|---|---|")
    for name, fit in METHODS.items():
        keras.utils.set_random_seed(options.seed)  # of the order of the images
        fitted = fit(data, options.seed, options)
        p = fitted.predictor.predict_uncertainty(
            x_test, fitted.num_samples, seed=0, return_samples=True
        )
        members = [metrics.nll(y_test, each) for each in p.samples]
        cells = [
            f"{metrics.accuracy(y_test, p.mean):.2%}",
            f"{metrics.nll(y_test, p.mean):.4f}",
            f"{min(members):.3f} to {max(members):.3f}",
            f"{metrics.expected_calibration_error(y_test, p.mean):.4f}",
            f"{np.mean(p.mutual_information):.4f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
