"""Make the pictures of docs/gallery.md from MNIST: `python docs/gallery.py` (some minutes)."""

import argparse
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import tfp_bayes
from tfp_bayes import plots
from tfp_bayes.studies.comparison import error_curves, read_results

HERE = Path(__file__).parent
NAMES = ("BALD", "variation ratios", "random")


def main() -> None:
    """Draws every picture; with --smoke, rough ones from little data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "images" / "gallery")
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    def save(name: str, draw: Callable[[Axes], Axes], size: tuple[float, float] = (4.2, 3.4)):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        figure.savefig(options.out / f"{name}.png", dpi=90)

    keras.utils.set_random_seed(0)
    data = tfp_bayes.datasets.load("mnist")
    train, test = (500, 200) if options.smoke else (5000, 5000)
    epochs = 1 if options.smoke else 6
    x, y = data.x_train[:train], data.y_train[:train]
    x_test, y_test = data.x_test[:test], data.y_test[:test]
    classification(save, x, y, x_test, y_test, epochs)
    weights(save, x, y, epochs)
    pixels(save, x, x_test, epochs)
    regression(save, 5 if options.smoke else 1500)
    histories = read_results(HERE.parent / "examples/study/results/figure_1_acquisitions.csv")

    def curves(ax: Axes) -> Axes:
        for name in NAMES:
            acquired, errors = error_curves(histories[name], sorted(histories[name]))
            plots.learning_curve(acquired, 1 - errors, ax=ax, label=name)
        return ax

    save("learning_curve", curves)


def classification(save: Callable, x, y, x_test, y_test, epochs: int) -> None:
    """Draws the predictions of a dropout classifier for test digits, upright and rotated."""
    model = tfp_bayes.BayesianCNN(seed=0)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    p = model.predict_uncertainty(x_test, num_samples=50, seed=0)
    turned = model.predict_uncertainty(np.rot90(x_test, axes=(1, 2)), num_samples=50, seed=0)
    wrong = p.mean.argmax(-1) != y_test
    save("reliability_diagram", lambda ax: plots.reliability_diagram(y_test, p, ax=ax))
    save("confidence_histogram", lambda ax: plots.confidence_histogram(y_test, p, ax=ax))
    measures = {
        "predictive entropy": p.predictive_entropy,
        "mutual information": p.mutual_information,
        "variation ratio": p.variation_ratio,
    }

    def of_each(plot: Callable) -> Callable[[Axes], Axes]:
        def draw(ax: Axes) -> Axes:
            for name, score in measures.items():
                plot(wrong, score, ax=ax, label=name)
            return ax

        return draw

    save("retention_curve", of_each(plots.retention_curve))
    save("risk_coverage_curve", of_each(plots.risk_coverage_curve))
    scores = {"digits": p.predictive_entropy, "digits turned by 90°": turned.predictive_entropy}
    save("score_histograms", lambda ax: plots.score_histograms(scores, ax=ax))
    entropy, information = p.predictive_entropy, p.mutual_information
    save(
        "entropy_against_information",
        lambda ax: plots.entropy_against_information(entropy, information, wrong, ax=ax),
    )
    save(
        "certain_and_uncertain_images",
        lambda ax: plots.certain_and_uncertain_images(x_test, p, information, y_test, ax=ax),
        (9, 3.2),
    )


def weights(save: Callable, x, y, epochs: int) -> None:
    """Draws the weights of a network trained by variational inference."""
    model = tfp_bayes.BayesianMLP(hidden_units=(100, 100), inference="flipout", seed=0)
    model.compile("adam", "sparse_categorical_crossentropy")
    callbacks = [tfp_bayes.KLWeight(temperature=0.1)]
    model.fit(x, y, batch_size=128, epochs=3 * epochs, verbose=0, callbacks=callbacks)
    save("weight_posteriors", lambda ax: plots.weight_posteriors(model, ax=ax))
    save("signal_to_noise", lambda ax: plots.signal_to_noise(model, ax=ax))


def pixels(save: Callable, x, x_test, epochs: int) -> None:
    """Draws where a network that finds the ink under noise is uncertain."""
    rng = np.random.default_rng(0)

    def noisy(images: np.ndarray) -> np.ndarray:
        noise = rng.normal(0, 0.4, images.shape)
        return np.clip(images / images.max() + noise, 0, 1).astype("float32")

    inputs = keras.Input((28, 28, 1))
    hidden = inputs
    for _ in range(2):
        hidden = keras.layers.Conv2D(16, 5, padding="same", activation="relu")(hidden)
        hidden = tfp_bayes.layers.MCSpatialDropout2D(0.2)(hidden)
    outputs = keras.layers.Conv2D(2, 1, activation="softmax")(hidden)
    model = tfp_bayes.BayesianModel(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy")
    ink = (x[:1000, ..., 0] > x.max() / 2).astype("int64")
    model.fit(noisy(x[:1000]), ink, batch_size=32, epochs=epochs, verbose=0)
    image = noisy(x_test[:1])
    p = model.predict_uncertainty(image, num_samples=50, seed=0)
    save("uncertainty_maps", lambda ax: plots.uncertainty_maps(image[0], p, ax=ax), (7, 2.9))


def regression(save: Callable, epochs: int) -> None:
    """Draws the predictions of a closed-form head on trained features; the data have a gap."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.2, 1.2, (400, 1))
    x = x[(x < -0.3) | (x > 0.5)][:80, None]
    y = np.sin(4 * x[:, 0]) + 0.5 * x[:, 0] + 0.1 * rng.normal(size=len(x))
    features = keras.Sequential(
        [keras.Input((1,)), *(keras.layers.Dense(64, "tanh") for _ in "12")]
    )
    head = tfp_bayes.BayesianBasisRegression(features, 1, task="regression", noise_scale=0.1)
    head.compile(keras.optimizers.Adam(0.01))
    head.fit(x, y, batch_size=len(x), epochs=epochs, verbose=0)
    grid = np.linspace(-1.6, 1.6, 200)[:, None]
    p = head.predict_uncertainty(grid)
    save("regression_bands", lambda ax: plots.regression_bands(grid, p, ax=ax, data=(x, y)))


if __name__ == "__main__":
    main()
