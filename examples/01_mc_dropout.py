"""Train a Bayesian CNN on MNIST and look at the test digits it is least sure of.

    python examples/01_mc_dropout.py

Prints accuracy, NLL and calibration of the predictive mean, and how much more often the digits of
high mutual information are wrong; writes the 24 most uncertain digits as a picture.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import tfp_bayes
from tfp_bayes import metrics


def plot_most_uncertain(images, labels, prediction, path, count=24):
    worst = np.argsort(-prediction.mutual_information)[:count]
    figure = Figure(figsize=(11, 6), layout="constrained")
    figure.suptitle("The MNIST test digits of highest mutual information (nats)")
    for axes, i in zip(figure.subplots(3, count // 3).flat, worst):
        best = np.argsort(-prediction.mean[i])[:2]
        guesses = " or ".join(f"{k} ({prediction.mean[i, k]:.0%})" for k in best)
        axes.imshow(images[i, ..., 0], cmap="gray_r")
        axes.set_title(
            f"{guesses}\ntrue {labels[i]}, {prediction.mutual_information[i]:.2f}", fontsize=8
        )
        axes.set_axis_off()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/01_mc_dropout"))
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args()
    (x_train, y_train), (x_test, y_test) = tfp_bayes.datasets.load("mnist").splits
    if options.smoke:
        options.epochs = 1
        x_train, y_train, x_test, y_test = x_train[:500], y_train[:500], x_test[:200], y_test[:200]

    model = tfp_bayes.BayesianCNN(seed=0)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, batch_size=128, epochs=options.epochs, verbose=2)

    p = model.predict_uncertainty(x_test, num_samples=100, seed=0)
    print(f"accuracy {metrics.accuracy(y_test, p.mean):.4f}")
    print(f"NLL      {metrics.nll(y_test, p.mean):.4f} nats")
    print(f"ECE      {metrics.expected_calibration_error(y_test, p.mean):.4f} (15 bins)")

    wrong = p.mean.argmax(-1) != y_test
    order = np.argsort(-p.mutual_information)
    tenth = order[: len(order) // 10]
    print(f"{wrong[tenth].sum()} of {wrong.sum()} errors are in the tenth of highest")
    print("mutual information: refer those to a person and the error on the rest is", end=" ")
    print(f"{wrong[order[len(order) // 10 :]].mean():.2%} instead of {wrong.mean():.2%}")

    options.out.mkdir(parents=True, exist_ok=True)
    plot_most_uncertain(x_test, y_test, p, options.out / "most_uncertain.png")
    print(f"Wrote {options.out / 'most_uncertain.png'}")


if __name__ == "__main__":
    main()
