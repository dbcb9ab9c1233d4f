# %% [markdown]
# # Learn from few labels: features of unlabeled images and a closed-form head
#
# A network sees all training images of MNIST without labels, and learns to recognize each image
# when it is rotated, scaled or shifted. Then a closed-form head learns on the features of this
# network, from one label per cluster of features. You learn what accuracy some dozens of labels
# give, and that choosing them helps.
#
# ```bash
# python examples/12_few_labels.py  # trains the network: four minutes of processor time
# python examples/12_few_labels.py --seeds 2  # the picture below
# ```

# %%
import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import tfp_bayes
from tfp_bayes.active import initial

parser = argparse.ArgumentParser(description="Few labels on features of unlabeled images")
parser.add_argument("--seeds", type=int, default=1, help="choices of images to label; one network")
parser.add_argument("--labels", type=int, nargs="+", default=[20, 40, 60, 80, 100])
parser.add_argument("--steps", type=int, default=1500, help="training steps of the network")
parser.add_argument("--out", type=Path, default=Path("runs/12_few_labels"))
parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
options = parser.parse_args(None if "__file__" in globals() else [])  # a notebook has none
options.out.mkdir(parents=True, exist_ok=True)

data = tfp_bayes.datasets.load("mnist")
if options.smoke:
    data = data._replace(x_train=data.x_train[:300], y_train=data.y_train[:300])
    data = data._replace(x_test=data.x_test[:100], y_test=data.y_test[:100])
    options.labels, options.steps = [20, 40], 2

# %% [markdown]
# The network sees only images. It is trained once and saved; every image passes through it once.

# %%
path = options.out / "backbone.keras"
if not path.exists():
    tfp_bayes.networks.contrastive_features(data.x_train, steps=options.steps, seed=0).save(path)
features = keras.Sequential([keras.models.load_model(path), keras.layers.UnitNormalization()])
pool, test = (features.predict(x, batch_size=1000) for x in (data.x_train, data.x_test))


# %%
head = tfp_bayes.BayesianBasisRegression(pool.shape[1], 10, noise_scale=0.2)
CHOICES = {
    "clusters": lambda size, seed: initial.kmeans_unlabelled(pool, size, seed),
    "random": lambda size, seed: initial.random_set(len(pool), size, seed),
}
curves = {name: np.zeros((options.seeds, len(options.labels))) for name in CHOICES}
for name, choose in CHOICES.items():
    for seed, i in np.ndindex(curves[name].shape):
        chosen = choose(options.labels[i], seed)
        head.condition(pool[chosen], data.y_train[chosen])
        curves[name][seed, i] = np.mean(head.predict(test).argmax(1) == data.y_test)
        print(
            f"{name:8s} seed {seed}: {len(chosen):3d} labels {curves[name][seed, i]:.1%}",
            flush=True,
        )

# %% [markdown]
# One image per cluster is worth several random images. From scratch, BatchBALD needs 72 labels
# beyond an initial 20 to reach 90 % (see [the benchmarks](../docs/benchmarks.md)).
#
# ![Accuracy against labels, and the first twenty images](../docs/images/12_few_labels.png)

# %%
figure = Figure(figsize=(11, 4), layout="constrained")
left, right = figure.subplots(1, 2)
for (name, rows), color in zip(curves.items(), ("#0072b2", "black")):
    left.plot(options.labels, rows.mean(0), ".-", color=color, label=name)
    left.fill_between(options.labels, rows.min(0), rows.max(0), alpha=0.15, color=color)
left.set(xlabel="labels", ylabel="test accuracy", title="Mean and range of the seeds")
left.legend()
first = data.x_train[initial.kmeans_unlabelled(pool, 20, 0), :, :, 0].reshape(2, 10, 28, 28)
right.imshow(first.swapaxes(1, 2).reshape(56, 280), cmap="gray_r")
right.set(title="One image of each of 20 clusters")
right.axis("off")
figure.savefig(options.out / "few_labels.png", dpi=80)
print(f"Wrote {options.out / 'few_labels.png'}")
