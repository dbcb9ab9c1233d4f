"""Exact against mean-field inference of a closed-form head, in active learning on MNIST.

    python examples/07_basis_regression.py                        # 1 seed, 10 rounds
    python examples/07_basis_regression.py --seeds 5 --rounds 10  # the figures in the README

Gal's network learns features from the labels bought so far; a linear regression on its 128 units
predicts one-hot labels. Each posterior buys the images of its own largest predictive variance, ten
at once or each after those before it; a last run buys at random. Prints and plots the root mean
squared error on the test set, and the variance that each claims there.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import tfp_bayes
from tfp_bayes.studies import runs
from tfp_bayes.studies.curves import mean_crossing, paired_difference

METHODS = {
    "exact": ("closed_form", "predictive_variance", "top_k"),
    "exact, greedy": ("closed_form", "predictive_variance", "greedy_variance"),
    "mean field": ("closed_form_mean_field", "predictive_variance", "top_k"),
    "exact, random": ("closed_form", "random", "top_k"),
}


def learn(data, method, seed, options):
    """Returns (acquired, RMSE, epistemic variance) of every round."""
    names = dict(zip(("inference", "acquisition", "selector"), METHODS[method]))
    config = runs.RunConfig(**names, seed=seed, steps=options.steps)
    learner = runs.make_learner(config, data)
    rows = []
    for _ in range(options.rounds + 1):
        row = learner.step()
        variance = learner.model.predict_uncertainty(data.x_test[:1000]).epistemic_variance.mean()
        rows.append((row.num_acquired, row.test_rmse, variance))
        print(
            f"{method:13s} seed {seed}  {row.num_acquired:4d} acquired  RMSE {row.test_rmse:.4f}  "
            f"accuracy {row.test_accuracy:.2%}  epistemic variance {variance:.4f}",
            flush=True,
        )
    return np.array(rows)


def plot(curves, path):
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for method, rows in curves.items():
        for i, axis in enumerate(axes, start=1):
            mean, spread = rows[:, :, i].mean(0), rows[:, :, i].std(0)
            axis.plot(rows[0, :, 0], mean, label=method)
            axis.fill_between(rows[0, :, 0], mean - spread, mean + spread, alpha=0.15)
    axes[0].set(xlabel="images acquired", ylabel="test RMSE", title="Error")
    axes[1].set(xlabel="images acquired", ylabel="epistemic variance", title="Claimed variance")
    axes[1].set_yscale("log")
    axes[0].legend()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps a round")
    parser.add_argument("--level", type=float, default=0.22, help="RMSE to reach")
    parser.add_argument("--out", type=Path, default=Path("runs/07_basis_regression"))
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args()
    data = tfp_bayes.datasets.load("mnist")
    if options.smoke:
        data = data._replace(x_test=data.x_test[:200], y_test=data.y_test[:200])
        options.rounds, options.steps = 1, 5
    curves = {
        method: np.stack([learn(data, method, s, options) for s in range(options.seeds)])
        for method in METHODS
    }  # (seeds, rounds, 3)
    acquired, exact = curves["exact"][0, :, 0], curves["exact"][:, :, 1]
    for method, rows in curves.items():
        crossing = mean_crossing(acquired, rows[:, :, 1], options.level)
        line = f"{method:13s} RMSE {options.level} after {crossing} images"
        if method != "exact":
            # Averaged over rounds; seeds are paired, they share their initial set.
            line += f"; RMSE minus exact {paired_difference(acquired, rows[:, :, 1], exact)}"
        print(line + ", 95 % intervals")
    ratio = curves["mean field"][:, :, 2].mean() / curves["exact"][:, :, 2].mean()
    print(f"Mean field claims {ratio:.2f} of the exact epistemic variance, each on its own data")
    options.out.mkdir(parents=True, exist_ok=True)
    plot(curves, options.out / "rmse.png")
    print(f"Wrote {options.out / 'rmse.png'}")


if __name__ == "__main__":
    main()
