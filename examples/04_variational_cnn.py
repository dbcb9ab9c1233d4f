"""Train LeNet-5 with Flipout on MNIST, see what its weights know, and prune those that know little.

    python examples/04_variational_cnn.py

Prints accuracy, NLL and calibration of the predictive mean, and the accuracy left after removing
the weights of lowest signal-to-noise ratio |mean| / scale (Blundell et al. 2015, section 5.1);
writes a picture of both.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import tfp_bayes
from tfp_bayes import metrics
from tfp_bayes.layers import variational_layers

REMOVED = (0, 0.5, 0.75, 0.9, 0.95, 0.98)


def signal_to_noise(layer):
    """Returns |mean| / scale of every weight of a layer's kernel."""
    q = layer.random_kernel.distribution()
    return (np.abs(q.mean()) / q.stddev()).numpy()


def prune(model, fraction):
    """Sets the weights of lowest signal-to-noise ratio to zero, without noise."""
    layers = variational_layers(model)
    ratios = [signal_to_noise(layer) for layer in layers]
    threshold = np.quantile(np.concatenate([r.ravel() for r in ratios]), fraction)
    for layer, ratio in zip(layers, ratios):
        keep = ratio >= threshold
        layer.kernel_loc.assign(np.where(keep, layer.kernel_loc, 0))
        scale = layer.kernel_untransformed_scale
        scale.assign(
            np.where(keep, scale, -5)
        )  # a scale of softplus(-50) is nothing beside any weight


def plot(ratios, accuracies, path):
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, ratio in ratios.items():
        decibel = 20 * np.log10(np.maximum(ratio.ravel(), 1e-4))
        left.hist(decibel, bins=80, density=True, histtype="step", label=name)
    left.set(xlabel="signal to noise |mean| / scale (dB)", ylabel="density", title="Weights")
    left.legend()
    right.plot([100 * f for f in REMOVED], [100 * a for a in accuracies], marker="o")
    right.set(xlabel="weights removed (%)", ylabel="test accuracy (%)", title="Pruning")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/04_variational_cnn"))
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args()
    (x_train, y_train), (x_test, y_test) = tfp_bayes.datasets.load("mnist").splits
    if options.smoke:
        options.epochs = 1
        x_train, y_train, x_test, y_test = x_train[:500], y_train[:500], x_test[:200], y_test[:200]

    model = tfp_bayes.BayesianLeNet5(inference="flipout", seed=0)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, options.epochs * -(-len(x_train) // 128))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(x_train, y_train, batch_size=128, epochs=options.epochs, verbose=2)

    p = model.predict_uncertainty(x_test, num_samples=100, seed=0)
    print(f"accuracy {metrics.accuracy(y_test, p.mean):.4f}")
    print(f"NLL      {metrics.nll(y_test, p.mean):.4f} nats")
    print(f"ECE      {metrics.expected_calibration_error(y_test, p.mean, 10):.4f} (10 bins)")

    ratios = {layer.name: signal_to_noise(layer) for layer in variational_layers(model)}
    accuracies = []
    for fraction in REMOVED:
        prune(model, fraction)
        mean = model.predict_uncertainty(x_test, num_samples=20, seed=0).mean
        accuracies.append(metrics.accuracy(y_test, mean))
        print(f"{fraction:4.0%} of the kernel weights removed: accuracy {accuracies[-1]:.4f}")
    options.out.mkdir(parents=True, exist_ok=True)
    plot(ratios, accuracies, options.out / "weights.png")
    print(f"Wrote {options.out / 'weights.png'}")


if __name__ == "__main__":
    main()
