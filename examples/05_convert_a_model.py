"""Make a trained Keras model Bayesian with one call, tune it for an epoch, and go back.

    python examples/05_convert_a_model.py

An ordinary CNN is trained on 5,000 MNIST digits, converted with MOPED scales, and tuned; the table
compares what each of them says about the test set. Then a network of keras.applications, with its
batch normalization, skips and depthwise convolutions, is converted the same way.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import tfp_bayes
from tfp_bayes import metrics


def describe(name, y, probs):
    print(
        f"{name:30s} accuracy {metrics.accuracy(y, probs):.4f}  "
        f"NLL {metrics.nll(y, probs):.4f}  "
        f"ECE {metrics.expected_calibration_error(y, probs):.4f}"
    )


def plot_reliability(y, curves, path, num_bins=10):
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":")
    for name, probs in curves.items():
        confidence, hit = probs.max(-1), probs.argmax(-1) == y
        bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
        used = [b for b in range(num_bins) if np.sum(bins == b) >= 20]
        axes.plot(
            [confidence[bins == b].mean() for b in used],
            [hit[bins == b].mean() for b in used],
            marker="o",
            label=name,
        )
    axes.set(xlabel="confidence", ylabel="accuracy", title="Reliability on the test digits")
    axes.legend()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/05_convert_a_model"))
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args()
    (x_train, y_train), (x_test, y_test) = tfp_bayes.datasets.load("mnist").splits
    x_train, y_train = x_train[:5000], y_train[:5000]
    if options.smoke:
        options.epochs = 1
        x_train, y_train, x_test, y_test = x_train[:500], y_train[:500], x_test[:200], y_test[:200]

    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(32, 4, activation="relu"),
            layers.SeparableConv2D(32, 4, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x_train, y_train, batch_size=64, epochs=options.epochs, verbose=0)
    before = model.predict(x_test, verbose=0)

    bayesian = tfp_bayes.to_bayesian(model, "flipout", moped_delta=0.2)
    converted = bayesian.predict_uncertainty(x_test, seed=0).mean
    bayesian.compile(keras.optimizers.Adam(3e-4), "sparse_categorical_crossentropy")
    bayesian.fit(x_train, y_train, batch_size=64, epochs=options.epochs, verbose=0)
    tuned = bayesian.predict_uncertainty(x_test, seed=0).mean
    back = tfp_bayes.to_deterministic(bayesian).predict(x_test, verbose=0)
    describe("Keras", y_test, before)
    describe("converted", y_test, converted)
    describe("converted and tuned", y_test, tuned)
    describe("its means, to_deterministic", y_test, back)
    options.out.mkdir(parents=True, exist_ok=True)
    curves = {"Keras": before, "Bayesian": tuned}
    plot_reliability(y_test, curves, options.out / "reliability.png")
    print(f"Wrote {options.out / 'reliability.png'}")

    tfp_bayes.to_bayesian(
        keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3), classes=10)
    )


if __name__ == "__main__":
    main()
