"""See what a prior does: a Gaussian one is L2, a Laplace one leaves few weights, a mixture both.

    python examples/06_priors.py

Softmax regression on 2,000 MNIST digits with point estimates (posterior "deterministic"), so that
nothing but the prior differs. Prints the size of the weights and the accuracy on the test digits;
writes a picture of the weights.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import tfp_bayes
from tfp_bayes import metrics, priors
from tfp_bayes.layers import DenseReparameterization

SCALE = 0.1
PRIORS = {
    "Normal": priors.Normal(scale=SCALE),
    "Laplace": priors.Laplace(scale=0.1),
    "ScaleMixture": priors.ScaleMixture(0.25, scale1=0.5, scale2=0.01),
}


def regression(last, x, y, epochs):
    """Trains softmax(last(x)); returns its kernel and the model."""
    model = keras.Sequential([keras.Input((784,)), last])
    steps = epochs * (len(x) // 100)
    rate = keras.optimizers.schedules.CosineDecay(0.02, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    # Plain Keras layers have no use for the callback, and no harm from it.
    weight = tfp_bayes.KLWeight(num_train=len(x))
    model.fit(x, y, 100, epochs, verbose=0, shuffle=False, callbacks=[weight])
    return np.asarray(last.kernel), model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/06_priors"))
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args()
    (x_train, y_train), (x_test, y_test) = tfp_bayes.datasets.load("mnist").splits
    x_train, y_train = x_train[:2000], y_train[:2000]
    if options.smoke:
        options.epochs, x_train, y_train = 2, x_train[:200], y_train[:200]
        x_test, y_test = x_test[:200], y_test[:200]
    x = x_train.reshape(-1, 784).astype("float32") / 255

    start = keras.initializers.GlorotUniform(0)
    arguments = {"units": 10, "activation": "softmax", "kernel_initializer": start}
    l2 = keras.regularizers.L2(1 / (2 * SCALE**2 * len(x)))
    expected, _ = regression(
        keras.layers.Dense(**arguments, kernel_regularizer=l2), x, y_train, options.epochs
    )
    kernels, models = {}, {}
    for name, prior in PRIORS.items():
        layer = DenseReparameterization(
            **arguments, kernel_prior=prior, kernel_posterior="deterministic"
        )
        kernels[name], models[name] = regression(layer, x, y_train, options.epochs)
    difference = np.abs(kernels["Normal"] - expected).max()
    print(f"Normal prior and Keras' L2: largest difference of a weight {difference:.1e}")
    figure = Figure(figsize=(11, 3.5), layout="constrained")
    for axes, (name, kernel) in zip(figure.subplots(1, 3, sharex=True), kernels.items()):
        small = np.mean(np.abs(kernel) < 0.01)
        mean = models[name].predict(x_test.reshape(-1, 784) / 255, verbose=0)
        print(
            f"{name:13s} {small:.0%} of the weights are below 0.01, largest {kernel.max():.2f}, "
            f"accuracy {metrics.accuracy(y_test, mean):.4f}"
        )
        axes.hist(kernel.ravel(), bins=np.linspace(-1, 1, 101), log=True)
        axes.set(title=f"{PRIORS[name]}".replace("ScaleMixture(", "ScaleMixture(\n"), xlabel="w")
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "weights.png", dpi=120)
    print(f"Wrote {options.out / 'weights.png'}")


if __name__ == "__main__":
    main()
