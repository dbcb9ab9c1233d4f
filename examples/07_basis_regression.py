# %% [markdown]
# # Exact and mean-field posteriors in active learning
#
# Gal's network learns features from the labels acquired so far. A linear regression on its 128
# units predicts one-hot labels, with a posterior in closed form. Each run acquires the images with
# the largest variance under its own posterior: ten at once or, with "greedy", one by one given
# those before it. A last run acquires at random. You learn that a mean-field posterior chooses
# worse images, and that a large variance does not always make an image worth labeling.
#
# ```bash
# python examples/07_basis_regression.py  # 1 seed, 10 rounds: four minutes on two cores
# python examples/07_basis_regression.py --seeds 5 --rounds 10  # the picture below: 20 minutes
# ```

# %%
import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import tfp_bayes
from tfp_bayes.studies import runs
from tfp_bayes.studies.curves import mean_crossing, paired_difference

parser = argparse.ArgumentParser(description="A closed-form head in active learning")
parser.add_argument("--seeds", type=int, default=1)
parser.add_argument("--rounds", type=int, default=10)
parser.add_argument("--steps", type=int, default=200, help="optimizer steps per round")
parser.add_argument("--level", type=float, default=0.22, help="target RMSE")
parser.add_argument("--out", type=Path, default=Path("runs/07_basis_regression"))
parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
options = parser.parse_args(None if "__file__" in globals() else [])  # a notebook has none

data = tfp_bayes.datasets.load("mnist")
if options.smoke:
    data = data._replace(x_test=data.x_test[:200], y_test=data.y_test[:200])
    options.rounds, options.steps = 1, 5

# %%
METHODS = {
    "exact": ("closed_form", "predictive_variance", "top_k"),
    "exact, greedy": ("closed_form", "predictive_variance", "greedy_variance"),
    "mean field": ("closed_form_mean_field", "predictive_variance", "top_k"),
    "exact, random": ("closed_form", "random", "top_k"),
}


def learn(method, seed):
    """Returns (number acquired, RMSE, epistemic variance) for every round."""
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


curves = {
    method: np.stack([learn(method, seed) for seed in range(options.seeds)]) for method in METHODS
}  # (seeds, rounds, 3)

# %% [markdown]
# Averages over rounds are compared seed by seed, since all methods share the initial set of a seed.

# %%
acquired, exact = curves["exact"][0, :, 0], curves["exact"][:, :, 1]
for method, rows in curves.items():
    line = f"{method:13s} RMSE {options.level} after "
    line += f"{mean_crossing(acquired, rows[:, :, 1], options.level)} images"
    if method != "exact":
        line += f"; RMSE minus exact {paired_difference(acquired, rows[:, :, 1], exact)}"
    print(line + ", 95 % intervals")
ratio = curves["mean field"][:, :, 2].mean() / curves["exact"][:, :, 2].mean()
print(f"Mean field claims {ratio:.2f} of the exact epistemic variance, each on its own data")

# %% [markdown]
# The mean-field posterior, which chooses its own images, has by far the largest error. But images
# with the largest variance are also worse than random ones: a large variance means large features,
# which belong to bold digits that resemble each other. Greedy selection corrects only a little of
# that.
#
# ![Error and claimed variance, means of five seeds](../docs/images/07_basis_regression.png)

# %%
figure = Figure(figsize=(11, 4), layout="constrained")
axes = figure.subplots(1, 2)
COLORS = ("#0072b2", "#d55e00", "#009e73", "black")  # for color-blind readers
for (method, rows), color in zip(curves.items(), COLORS):
    for i, axis in enumerate(axes, start=1):
        mean, spread = rows[:, :, i].mean(0), rows[:, :, i].std(0)
        axis.plot(rows[0, :, 0], mean, color=color, label=method)
        axis.fill_between(rows[0, :, 0], mean - spread, mean + spread, alpha=0.15, color=color)
axes[0].set(xlabel="images acquired", ylabel="test RMSE", title="Error")
axes[1].set(xlabel="images acquired", ylabel="epistemic variance", title="Claimed variance")
axes[1].set_yscale("log")
axes[0].legend()
options.out.mkdir(parents=True, exist_ok=True)
figure.savefig(options.out / "rmse.png", dpi=80)
print(f"Wrote {options.out / 'rmse.png'}")
