"""Split-MNIST: five tasks of two digits, one after another, with a head for each.

    python benchmarks/continual.py --seeds 3

A network of 256-256 units learns 0 or 1, then 2 or 3, and so on, and never sees earlier data again
but for a coreset. Printed are the accuracy on the test images of all five tasks after the last, the
mean over tasks; forgetting, by how much the accuracy of a task is lower then than right after it
was learned; and for variational continual learning (VCL) KL(q || q before) of the shared layers.
"""

import argparse

import keras
import numpy as np

import tfp_bayes
from tfp_bayes import Laplace, datasets
from tfp_bayes.layers import DenseLocalReparameterization
from tfp_bayes.models import ContinualLearner
from tfp_bayes.posteriors import MeanFieldNormal

NUM_TASKS = 5
LOSS = "sparse_categorical_crossentropy"


def tasks(num_train, num_test):
    """Yields training and test data of each task, digits 2 t and 2 t + 1 as classes 0 and 1."""
    data = datasets.load("mnist")
    for task in range(NUM_TASKS):
        parts = []
        for x, y, size in (
            (data.x_train, data.y_train, num_train),
            (data.x_test, data.y_test, num_test),
        ):
            rows = np.flatnonzero(y // 2 == task)[:size]
            parts.append((x[rows].reshape(len(rows), -1).astype("float32"), y[rows] % 2))
        yield parts


def adam():
    return keras.optimizers.Adam(1e-3)


def variational_model(first, args):
    """Starts the means at those of a plain network trained on the first task."""
    scale = {"initial_scale": args.initial_scale}
    q = MeanFieldNormal(**scale)
    random = {"kernel_posterior": q, "bias_prior": "normal", "bias_posterior": q}
    inputs = keras.Input((784,))
    x = DenseLocalReparameterization(256, "relu", name="hidden_1", **random)(inputs)
    x = DenseLocalReparameterization(256, "relu", name="hidden_2", **random)(x)
    outputs = DenseLocalReparameterization(2, "softmax", name="head", **random)(x)
    model = tfp_bayes.BayesianModel(inputs, outputs, num_samples=args.num_samples)
    model.compile(adam(), LOSS)
    plain = tfp_bayes.to_deterministic(model)
    plain.compile(adam(), LOSS)
    plain.fit(*first, batch_size=256, epochs=args.start_epochs, verbose=0)
    for layer in plain.layers[1:]:
        twin = model.get_layer(layer.name)
        twin.kernel_loc.assign(layer.kernel)
        twin.bias_loc.assign(layer.bias)
    return model


def accuracy(model, test):
    x, y = test
    return float((np.argmax(model.predict(x, verbose=0, batch_size=500), -1) == y).mean())


def variational(coreset_size):
    def run(data, seed, args):
        model = variational_model(data[0][0], args)
        learner = ContinualLearner(model, "head", coreset_size=coreset_size, seed=seed)
        after = []
        for task, (train, test) in enumerate(data):
            learner.fit(*train, epochs=args.epochs, batch_size=256, verbose=0)
            after.append(accuracy(learner.task_model(task), test))
        last = [accuracy(learner.task_model(t), test) for t, (_, test) in enumerate(data)]
        return after, last, learner.divergences

    return run


def shared_body(**arguments):
    """Returns a function that makes models which share two layers and have heads of their own."""
    inputs = keras.Input((784,))
    x = keras.layers.Dense(256, "relu")(keras.layers.Dense(256, "relu")(inputs))

    def with_new_head():
        outputs = keras.layers.Dense(2, "softmax")(x)
        model = tfp_bayes.BayesianModel(inputs, outputs, num_samples=1, **arguments)
        model.compile(adam(), LOSS)
        return model

    return with_new_head


def fine_tuning(data, seed, args):
    make, models, after = shared_body(), [], []
    for train, test in data:
        models.append(make())
        models[-1].fit(*train, batch_size=256, epochs=args.epochs, verbose=0)
        after.append(accuracy(models[-1], test))
    return after, [accuracy(model, test) for model, (_, test) in zip(models, data)], []


def online_laplace(data, seed, args):
    make, models, after, posterior = shared_body(prior_scale=1.0), [], [], None
    method = Laplace("diagonal", seed=seed)
    for (x, y), test in data:
        models.append(make())
        fit_arguments = {"epochs": args.epochs, "batch_size": 256, "verbose": 0}
        posterior = method.fit(models[-1], x, y, prior=posterior, **fit_arguments)
        after.append(accuracy(models[-1], test))
    return after, [accuracy(model, test) for model, (_, test) in zip(models, data)], []


METHODS = {
    "fine-tuning": fine_tuning,
    "online Laplace, diagonal": online_laplace,
    "VCL": variational(0),
    "VCL, coreset of 40": variational(40),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--start-epochs", type=int, default=10)
    parser.add_argument("--initial-scale", type=float, default=0.0067)
    parser.add_argument("--num-samples", type=int, default=30)
    parser.add_argument("--num-train", type=int, help="of a task; all by default")
    parser.add_argument("--num-test", type=int, help="of a task; all by default")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    data = list(tasks(args.num_train, args.num_test))
    print("| method | seed | accuracy | of each task | forgetting | KL of each task, nats |")
    print("|---|---|---|---|---|---|")
    for name in args.methods:
        means, lost = [], []
        for seed in range(args.seeds):
            keras.utils.set_random_seed(seed)
            after, last, divergences = METHODS[name](data, seed, args)
            means.append(100 * np.mean(last))
            # Nothing was learned since the last task.
            lost.append(100 * np.mean(np.subtract(after, last)[:-1]))
            each = " ".join(f"{100 * a:.1f}" for a in last)
            kl = " ".join(f"{kl:.0f}" for kl in divergences)
            print(
                f"| {name} | {seed} | {means[-1]:.2f} | {each} | {lost[-1]:.2f} | {kl} |",
                flush=True,
            )
        spread = f" ± {np.std(means, ddof=1):.2f}" if args.seeds > 1 else ""
        print(
            f"| **{name}** | mean | {np.mean(means):.2f}{spread} | | {np.mean(lost):.2f} | |",
            flush=True,
        )


if __name__ == "__main__":
    main()
