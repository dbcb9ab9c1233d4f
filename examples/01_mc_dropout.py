# %% [markdown]
# # Which digits is the network least sure of?
#
# A Bayesian CNN learns MNIST with dropout that stays on. You learn how to train it, how to read its
# uncertainty, and how to use the uncertainty: a person checks the digits it is least sure of.
#
# ```bash
# python examples/01_mc_dropout.py  # two minutes on two cores
# ```

# %%
import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import tfp_bayes
from tfp_bayes import metrics

parser = argparse.ArgumentParser(description="The digits a Bayesian CNN is least sure of")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--out", type=Path, default=Path("runs/01_mc_dropout"))
parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
options = parser.parse_args(None if "__file__" in globals() else [])  # a notebook has none

(x_train, y_train), (x_test, y_test) = tfp_bayes.datasets.load("mnist").splits
if options.smoke:
    options.epochs = 1
    x_train, y_train, x_test, y_test = x_train[:500], y_train[:500], x_test[:200], y_test[:200]

# %% [markdown]
# Training works as in Keras. `fit` counts the examples, because their number weights the prior.

# %%
model = tfp_bayes.BayesianCNN(seed=0)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x_train, y_train, batch_size=128, epochs=options.epochs, verbose=2)

# %% [markdown]
# `predict_uncertainty` samples 100 functions from the posterior. `mean` averages their
# probabilities; `mutual_information` measures in nats how much they disagree.

# %%
p = model.predict_uncertainty(x_test, num_samples=100, seed=0)
print(f"accuracy {metrics.accuracy(y_test, p.mean):.4f}")
print(f"NLL      {metrics.nll(y_test, p.mean):.4f} nats")
print(f"ECE      {metrics.expected_calibration_error(y_test, p.mean):.4f} (15 bins)")
print(f"         {metrics.calibration_floor(p.mean).quantile_95:.4f} is possible by chance")

# %% [markdown]
# Where the functions disagree, they are often wrong. After five epochs, 89 of the 92 errors on the
# test set are in the 10 % of digits with the highest mutual information. If a person checks these
# digits, few errors remain.

# %%
wrong = p.mean.argmax(-1) != y_test
order = np.argsort(-p.mutual_information)
tenth, rest = np.split(order, [len(order) // 10])
print(f"{wrong[tenth].sum()} of {wrong.sum()} errors are in the 10 % of highest information")
print(f"error on all {wrong.mean():.2%}, on the rest {wrong[rest].mean():.2%}")

# %% [markdown]
# The digits with the highest mutual information, with the two most likely classes:
#
# ![24 test digits, most of them hard to read](../docs/images/01_mc_dropout.png)

# %%
figure = Figure(figsize=(11, 6), layout="constrained")
figure.suptitle("The MNIST test digits of highest mutual information (nats)")
for axes, i in zip(figure.subplots(3, 8).flat, order):
    best = np.argsort(-p.mean[i])[:2]
    guesses = " or ".join(f"{k} ({p.mean[i, k]:.0%})" for k in best)
    axes.imshow(x_test[i, ..., 0], cmap="gray_r")
    axes.set_title(f"{guesses}\ntrue {y_test[i]}, {p.mutual_information[i]:.2f}", fontsize=8)
    axes.set_axis_off()
options.out.mkdir(parents=True, exist_ok=True)
figure.savefig(options.out / "most_uncertain.png", dpi=80)
print(f"Wrote {options.out / 'most_uncertain.png'}")
