"""Measure continual learning on Split-MNIST: five tasks of two digits, each with its own head.

    python benchmarks/continual.py --seeds 3

A network with two layers of 256 units learns 0 or 1, then 2 or 3, and so on. It does not see
earlier data again, except for a coreset. The script prints three measures:

- accuracy: on the test images of all five tasks after the last one, and the mean over tasks;
- forgetting: by how much the final accuracy of a task is lower than right after it was learned;
- for variational continual learning (VCL), KL(q || previous q) of the shared layers.
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


def adam(args):
    """Returns Adam with a learning rate that falls to 0 during a task, or is constant."""
    rate = args.learning_rate
    if not args.constant:
        steps = args.epochs * -(-args.num_rows // args.batch_size)
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    return keras.optimizers.Adam(rate)


def variational_model(first, args):
    """Returns a model whose means are the weights of a network trained on the first task."""
    scale = {"initial_scale": args.initial_scale}
    q = MeanFieldNormal(**scale)
    random = {"kernel_posterior": q, "bias_prior": "normal", "bias_posterior": q}
    inputs = keras.Input((784,))
    x = DenseLocalReparameterization(256, "relu", name="hidden_1", **random)(inputs)
    x = DenseLocalReparameterization(256, "relu", name="hidden_2", **random)(x)
    outputs = DenseLocalReparameterization(2, "softmax", name="head", **random)(x)
    model = tfp_bayes.BayesianModel(inputs, outputs, num_samples=args.num_samples)
    model.compile(adam(args), LOSS)
    plain = tfp_bayes.to_deterministic(model)
    plain.compile("adam", LOSS)
    plain.fit(*first, batch_size=256, epochs=args.start_epochs, verbose=0)
    for layer in plain.layers[1:]:
        twin = model.get_layer(layer.name)
        twin.kernel_loc.assign(layer.kernel)
        twin.bias_loc.assign(layer.bias)
    return model


def accuracy(model, test):
    x, y = test
    return float((np.argmax(model.predict(x, verbose=0, batch_size=500), -1) == y).mean())


def variational(data, seed, args):
    """Returns results of one run, without and with its coresets, which are held out."""
    model = variational_model(data[0][0], args)
    learner = ContinualLearner(model, "head", coreset_size=40, seed=seed)
    after = {0: [], args.coreset_epochs: []}
    last = {}

    def scores(number, task):
        learner.coreset_epochs = number
        return accuracy(learner.task_model(task), data[task][1])

    for task, (train, _) in enumerate(data):
        learner.fit(*train, epochs=args.epochs, batch_size=args.batch_size, verbose=0)
        for number, each in after.items():
            each.append(scores(number, task))
    for number in after:
        last[number] = [scores(number, task) for task in range(len(data))]
    names = ["VCL", "VCL, coreset of 40"]
    return {n: (after[k], last[k], learner.divergences) for n, k in zip(names, after)}


def shared_body(args, **arguments):
    """Returns a function that makes models with two shared layers and a new head."""
    inputs = keras.Input((784,))
    x = keras.layers.Dense(256, "relu")(keras.layers.Dense(256, "relu")(inputs))

    def with_new_head():
        outputs = keras.layers.Dense(2, "softmax")(x)
        model = tfp_bayes.BayesianModel(inputs, outputs, num_samples=1, **arguments)
        model.compile(adam(args), LOSS)
        return model

    return with_new_head


def fine_tuning(data, seed, args):
    make, models, after = shared_body(args), [], []
    for train, test in data:
        models.append(make())
        models[-1].fit(*train, batch_size=args.batch_size, epochs=args.epochs, verbose=0)
        after.append(accuracy(models[-1], test))
    last = [accuracy(model, test) for model, (_, test) in zip(models, data)]
    return {"fine-tuning": (after, last, [])}


def online_laplace(data, seed, args):
    make, models, after, posterior = shared_body(args, prior_scale=1.0), [], [], None
    method = Laplace("diagonal", seed=seed)
    for (x, y), test in data:
        models.append(make())
        fit_arguments = {"epochs": args.epochs, "batch_size": args.batch_size, "verbose": 0}
        posterior = method.fit(models[-1], x, y, prior=posterior, **fit_arguments)
        after.append(accuracy(models[-1], test))
    last = [accuracy(model, test) for model, (_, test) in zip(models, data)]
    return {"online Laplace, diagonal": (after, last, [])}


METHODS = {"fine-tuning": fine_tuning, "laplace": online_laplace, "vcl": variational}


def show(name, runs):
    """Prints a row for each seed and the mean."""
    accuracies, lost = [], []
    for seed, (after, last, divergences) in enumerate(runs):
        accuracies.append(100 * np.mean(last))
        lost.append(100 * np.mean(np.subtract(after, last)[:-1]))  # no task follows the last
        each = " ".join(f"{100 * a:.1f}" for a in last)
        kl = " ".join(f"{kl:,.0f}" for kl in divergences)
        print(f"| {name} | {seed} | {accuracies[-1]:.2f} | {each} | {lost[-1]:.2f} | {kl} |")
    if len(runs) > 1:
        mean = f"{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f}"
        print(f"| **{name}** | mean | {mean} | | {np.mean(lost):.2f} | |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--constant", action="store_true", help="keep the learning rate constant")
    parser.add_argument("--start-epochs", type=int, default=5, help="of a network before VCL")
    parser.add_argument("--initial-scale", type=float, default=0.0067)
    parser.add_argument("--coreset-epochs", type=int, default=100)
    parser.add_argument("--num-samples", type=int, default=10)
    parser.add_argument("--num-train", type=int, help="images per task; default: all")
    parser.add_argument("--num-test", type=int, help="images per task; default: all")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    data = list(tasks(args.num_train, args.num_test))
    args.num_rows = min(len(x) for (x, _), _ in data)
    print("| method | seed | accuracy | of each task | forgetting | KL of each task, nats |")
    print("|---|---|---|---|---|---|", flush=True)
    for method in args.methods:
        runs = {}
        for seed in range(args.seeds):
            keras.utils.set_random_seed(seed)
            for name, result in METHODS[method](data, seed, args).items():
                runs.setdefault(name, []).append(result)
        for name, results in runs.items():
            show(name, results)


if __name__ == "__main__":
    main()
