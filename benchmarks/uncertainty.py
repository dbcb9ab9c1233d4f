"""Measure accuracy, negative log likelihood and calibration of a network over several seeds.

    python benchmarks/uncertainty.py --model BayesianLeNet5 --inference flipout

The script prints one line per seed and the mean, which are the rows of the table in
docs/which_method.md. Each line has the calibration error and the 95 % quantile of the error that
calibrated probabilities would show. Errors below this quantile are due to chance and do not rank
methods. Training takes a few minutes per seed on two cores. Fashion-MNIST comes from TensorFlow
Datasets or, with --manual-dir, from the files of Debian's package dataset-fashion-mnist.
"""

import argparse
import time

import keras
import numpy as np

import tfp_bayes
from tfp_bayes import metrics


def measure(options, data, seed):
    """Trains a network; returns accuracy, NLL, ECE, its chance level, and seconds."""
    keras.utils.set_random_seed(seed)
    variational = options.inference not in ("mc_dropout", "deterministic")
    prior = {"kernel_prior": options.kernel_prior} if variational else {}
    model = getattr(tfp_bayes, options.model)(
        data.x_train.shape[1:],
        len(data.class_names),
        inference=options.inference,
        prior_scale=options.prior_scale,
        seed=seed,
        **prior,
    )
    steps = options.epochs * -(-len(data.x_train) // options.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    start = time.perf_counter()
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=options.batch_size,
        epochs=options.epochs,
        verbose=2 if options.verbose else 0,
        callbacks=[tfp_bayes.KLWeight(temperature=options.temperature)] if variational else None,
    )
    seconds = time.perf_counter() - start
    if options.laplace:
        posterior = tfp_bayes.LastLayerLaplace(model, data.x_train, data.y_train, options.laplace)
        mean = posterior.predict(data.x_test)
    else:
        samples = 1 if options.inference == "deterministic" else 100
        mean = model.predict_uncertainty(data.x_test, samples, seed=0).mean
    return (
        metrics.accuracy(data.y_test, mean),
        metrics.nll(data.y_test, mean),
        metrics.expected_calibration_error(data.y_test, mean, num_bins=10),
        metrics.calibration_floor(mean, num_bins=10).quantile_95,
        seconds,
    )


def describe(row):
    """Returns a row of results as text."""
    accuracy, nll, ece, floor, seconds = row
    return (
        f"accuracy {accuracy:.2%}, NLL {nll:.4f}, ECE {ece:.4f} "
        f"(if calibrated, 95 % below {floor:.4f}), trained in {seconds:.0f} s"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="BayesianLeNet5")
    add("--inference", default="flipout")
    add("--laplace", help="full, kronecker or diagonal, for a deterministic network's last layer")
    add("--dataset", default="mnist")
    add("--manual-dir")
    add("--prior-scale", type=float, default=1.0)
    add("--kernel-prior", help="prior of random kernels (default: Normal)")
    add("--temperature", type=float, default=1.0)
    add("--epochs", type=int, default=20)
    add("--batch-size", type=int, default=128)
    add("--seeds", type=int, default=3)
    add("--verbose", action="store_true")
    options = parser.parse_args()
    data = tfp_bayes.datasets.load(options.dataset, manual_dir=options.manual_dir)
    rows = []
    for seed in range(options.seeds):
        rows.append(measure(options, data, seed))
        name = f"{options.model} {options.inference} {options.dataset} seed {seed}"
        print(f"{name}: {describe(rows[-1])}", flush=True)
    print(f"mean of {options.seeds}: {describe(np.mean(rows, axis=0))}")


if __name__ == "__main__":
    main()
