# %% [markdown]
# # Choose what to label: BALD against random
#
# Two runs of active learning start from the same 20 images and acquire ten images per round. One
# acquires the images about which sampled networks disagree most (BALD), the other random images.
# You learn to set up the loop and to compare two acquisition functions.
#
# ```bash
# python examples/02_active_learning.py  # 1 seed, 10 rounds: eight minutes on two cores
# python examples/02_active_learning.py --seeds 3 --rounds 15  # a better comparison
# ```

# %%
import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import tfp_bayes
from tfp_bayes.active import Evaluation, Query, Refit, initial
from tfp_bayes.studies.curves import images_to_error

parser = argparse.ArgumentParser(description="BALD against random acquisition, seed by seed")
parser.add_argument("--seeds", type=int, default=1)
parser.add_argument("--rounds", type=int, default=10)
parser.add_argument("--architecture", default="kirsch", help="gal or kirsch, of BayesianCNN")
parser.add_argument("--prior-scale", type=float, default=np.inf, help="inf for a flat prior")
parser.add_argument("--steps", type=int, default=200, help="optimizer steps per round")
parser.add_argument("--num-samples", type=int, default=100)
parser.add_argument("--out", type=Path, default=Path("runs/02_active_learning"))
parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
options = parser.parse_args(None if "__file__" in globals() else [])  # a notebook has none

data = tfp_bayes.datasets.load("mnist")
if options.smoke:
    data = data._replace(x_test=data.x_test[:200], y_test=data.y_test[:200])
    options.rounds, options.steps, options.num_samples = 1, 5, 10

# %% [markdown]
# ## One run
#
# Both methods use the same seeds, and therefore the same initial sets, so their curves can be
# compared seed by seed.


# %%
def learn(acquisition, seed):
    held_out = initial.balanced(data.y_train, 100, seed)
    model = tfp_bayes.BayesianCNN(
        architecture=options.architecture,
        prior_scale=None if np.isinf(options.prior_scale) else options.prior_scale,
        num_samples=options.num_samples,
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    learner = tfp_bayes.ActiveLearner(
        model,
        data.x_train,
        data.y_train,
        initial=initial.balanced(data.y_train, 20, seed, exclude=held_out),
        query=Query(acquisition, candidates=2000, ignore=held_out),
        refit=Refit(steps=options.steps),
        evaluation=Evaluation(test_data=(data.x_test, data.y_test)),
        seed=seed,
    )
    for row in (learner.step() for _ in range(options.rounds + 1)):
        print(f"{acquisition:7s} seed {seed}  {row.num_acquired:4d}  {row.test_accuracy:.2%}")
    return learner.history


curves = {
    acquisition: [learn(acquisition, seed) for seed in range(options.seeds)]
    for acquisition in ("bald", "random")
}
for acquisition, histories in curves.items():
    for error in (0.10, 0.05):
        print(f"{acquisition}: images to {error:.0%} error, by seed:", end=" ")
        print([images_to_error(history, error) for history in histories])

# %% [markdown]
# One seed shows what such curves look like, but proves nothing. [The study](../docs/study.md) has
# five seeds, intervals and more methods.
#
# ![Test accuracy over acquired images, BALD and random](../docs/images/02_active_learning.png)

# %%
figure = Figure(figsize=(7, 4.5), layout="constrained")
axes = figure.subplots()
for (acquisition, histories), style in zip(curves.items(), ("o-", "s--")):
    x = [row.num_acquired for row in histories[0]]
    y = 100 * np.array([[row.test_accuracy for row in h] for h in histories])  # (seeds, R)
    (line,) = axes.plot(x, y.mean(0), style, markersize=5, label=acquisition)
    axes.fill_between(x, y.min(0), y.max(0), alpha=0.2, color=line.get_color())
axes.set(
    xlabel="acquired images, beyond the initial 20",
    ylabel="MNIST test accuracy (%)",
    title="one seed" if options.seeds == 1 else f"mean of {options.seeds} seeds, band: range",
)
axes.grid(alpha=0.3)
axes.legend(loc="lower right")
options.out.mkdir(parents=True, exist_ok=True)
figure.savefig(options.out / "learning_curves.png", dpi=80)
print(f"Wrote {options.out / 'learning_curves.png'}")
