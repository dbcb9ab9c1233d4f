"""Compare accuracy, calibration and cost of all methods on one network and two data sets.

    python benchmarks/methods.py --out methods --datasets mnist fashion_mnist --seeds 3

The network is LeNet-5 with a Normal(0, 1) prior on its kernels, trained with Adam, cosine decay and
batches of 128. The last 5,000 training images are held out; they choose temperatures and Laplace's
prior scale. Out-of-distribution inputs come from the other data set. Costs are relative to those of
the deterministic network on the same machine, for training and for the prediction of the test
images.

Each row (data set, seed, method) is a file in the folder of --out, written when it is complete. If
started again, the command computes only the missing rows, then prints the table. All rows take
about an hour per data set and seed on two quiet cores; --methods, --epochs and --train shorten it.

"NLL less" is the NLL minus that of the deterministic network with the same seed: its mean over the
seeds, and its 95 % interval by Student's t.
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

import tfp_bayes
from tfp_bayes import inference, metrics
from tfp_bayes._plumbing.files import write_json
from tfp_bayes._plumbing.t_interval import t_margin
from tfp_bayes.models import FittedFeatureDensity
from tfp_bayes.uncertainty import apply_temperature, fit_temperature

NUM_HELD_OUT = 5000
BATCH_SIZE = 128
NUM_SAMPLES = 100


class Data(NamedTuple):
    """Images and labels of one data set, and test images of the other."""

    x: np.ndarray
    y: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    x_other: np.ndarray


class Fitted(NamedTuple):
    """A trained method: its predictor, number of samples, and seconds of training."""

    predictor: tfp_bayes.Predictor
    num_samples: int | None
    seconds: float
    density: FittedFeatureDensity | None = None  # another out-of-distribution score


def network(kind, seed, rate, **arguments):
    """Returns a compiled LeNet-5."""
    model = tfp_bayes.BayesianLeNet5(inference=kind, seed=seed, prior_scale=1.0, **arguments)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    return model


def cosine(data, options):
    """Returns the learning rate of all methods that train with Adam."""
    steps = options.epochs * -(-len(data.x) // BATCH_SIZE)
    return keras.optimizers.schedules.CosineDecay(options.rate, steps)


def fit_layers(kind, data, seed, options):
    """Trains a network with random layers, or a deterministic one."""
    keras.utils.set_random_seed(seed)  # of shuffling, so that a method starts from the same network
    deterministic = {"dropout_rate": 0.0} if kind == "deterministic" else {}
    model = network(kind, seed, cosine(data, options), **deterministic)
    start = time.perf_counter()
    model.fit(data.x, data.y, batch_size=BATCH_SIZE, epochs=options.epochs, verbose=0)
    seconds = time.perf_counter() - start
    return Fitted(model.predictor, 1 if kind == "deterministic" else NUM_SAMPLES, seconds)


def fit_anew(method, data, seed, options, epochs):
    """Trains a method that starts from new weights; no layer seed, so that members differ."""
    keras.utils.set_random_seed(seed)
    model = network("deterministic", None, cosine(data, options), dropout_rate=0.0)
    return _fit(method, model, data, 0.0, epochs=epochs, batch_size=BATCH_SIZE, verbose=0)


def fit_after(method, data, seed, options, optimizer=None, **arguments):
    """Trains the deterministic network and fits the method to it."""
    trained = fit_layers("deterministic", data, seed, options)
    model = trained.predictor.model
    if optimizer is not None:
        model.compile(optimizer, "sparse_categorical_crossentropy")
    return _fit(method, model, data, trained.seconds, **arguments)


def _fit(method, model, data, spent, **arguments):
    start = time.perf_counter()
    posterior = method.fit(model, data.x, data.y, **arguments)
    seconds = spent + time.perf_counter() - start
    predictor = tfp_bayes.Predictor(model, posterior=posterior)
    return Fitted(predictor, posterior.num_draws or NUM_SAMPLES, seconds)


def sngp(data, seed, options):
    """Trains an SNGP network, then computes its posterior in one pass."""
    keras.utils.set_random_seed(seed)
    model = tfp_bayes.to_sngp(network("deterministic", seed, 1e-3, dropout_rate=0.0), seed=seed)
    rate = cosine(data, options)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    method = inference.Laplace("shared", 1.0, variables="last_layer", seed=seed)
    training = {"epochs": options.epochs, "batch_size": BATCH_SIZE, "verbose": 0}
    return _fit(method, model, data, 0.0, **training)


def feature_density(data, seed, options):
    """Trains the deterministic network and fits the density of its features."""
    trained = fit_layers("deterministic", data, seed, options)
    start = time.perf_counter()
    density = tfp_bayes.FeatureDensity().fit(trained.predictor.model, data.x, data.y)
    seconds = trained.seconds + time.perf_counter() - start
    return trained._replace(density=density, seconds=seconds)


def swag(data, seed, options):
    """Continues the deterministic network for 20 epochs of SGD, with a snapshot after each."""
    further = {"epochs": 20, "batch_size": BATCH_SIZE, "verbose": 0}
    method = inference.SWAG(20, num_snapshots=20, seed=seed)
    return fit_after(method, data, seed, options, keras.optimizers.SGD(0.01, 0.9), **further)


def multi_swag(data, seed, options):
    """Trains five members with SGD from new weights, with snapshots in the last 20 epochs."""
    keras.utils.set_random_seed(seed)
    model = network("deterministic", None, 1e-3, dropout_rate=0.0)
    model.compile(keras.optimizers.SGD(0.02, 0.9), "sparse_categorical_crossentropy")
    method = inference.MultiSWAG(5, draws_per_member=20, learning_rate=0.01, seed=seed)
    training = {"epochs": options.epochs + 20, "batch_size": BATCH_SIZE, "verbose": 0}
    return _fit(method, model, data, 0.0, **training)


def laplace(variables):
    """Returns a function that fits Laplace's approximation after training."""

    def fit(data, seed, options):
        method = inference.Laplace("kronecker", variables=variables, seed=seed)
        # For all weights, each candidate scale predicts these rows by sampling, so use fewer.
        rows = slice(None) if variables == "last_layer" else slice(500)
        held_out = (data.x_val[rows], data.y_val[rows])
        return fit_after(method, data, seed, options, validation_data=held_out)

    return fit


def layers(kind):
    """Returns a function that trains a network with this inference."""
    return lambda data, seed, options: fit_layers(kind, data, seed, options)


def ensemble(num_members):
    """Returns a function that trains a deep ensemble."""

    def fit(data, seed, options):
        method = inference.DeepEnsemble(num_members, seed=seed)
        return fit_anew(method, data, seed, options, options.epochs)

    return fit


def batch_ensemble(data, seed, options):
    """Trains four members that share kernels, each on whole batches."""
    return fit_anew(inference.BatchEnsemble(4, seed=seed), data, seed, options, options.epochs)


def cyclical_sghmc(data, seed, options):
    """Samples four cycles of half the epochs each, at temperature 1: twice the epochs."""
    method = inference.CyclicalSGHMC(4, snapshots_per_cycle=3, seed=seed)
    epochs = 4 * max(5, -(-options.epochs // 2))  # the last 5 epochs of a cycle have noise
    return fit_anew(method, data, seed, options, epochs)


METHODS = {
    "deterministic": layers("deterministic"),
    "MC dropout": layers("mc_dropout"),
    "concrete dropout": layers("concrete_dropout"),
    "Flipout": layers("flipout"),
    "SWAG": swag,
    "MultiSWAG, 5 members": multi_swag,
    "Laplace, last layer, Kronecker": laplace("last_layer"),
    "Laplace, Kronecker, linearized": laplace("all"),
    "SNGP": sngp,
    "deterministic, feature density": feature_density,
    "cyclical SGHMC, T = 1": cyclical_sghmc,
    "BatchEnsemble of 4": batch_ensemble,
    "ensemble of 5": ensemble(5),
    "ensemble of 10": ensemble(10),
}


def measure(fitted, data):
    """Returns a row of the table as a JSON-compatible dictionary."""
    num_samples = fitted.num_samples
    start = time.perf_counter()
    test = fitted.predictor.predict_uncertainty(data.x_test, num_samples, seed=0)
    seconds = time.perf_counter() - start  # includes tracing, which users wait for, too
    other = fitted.predictor.predict_uncertainty(data.x_other, num_samples, seed=0)
    validation = fitted.predictor.predict(data.x_val, num_samples, seed=0)
    temperature = fit_temperature(data.y_val, validation)
    tempered = apply_temperature(test.mean, temperature)
    y = data.y_test
    of_density = {}
    if fitted.density is not None:
        scores = [fitted.density.score(x) for x in (data.x_test, data.x_other)]
        of_density["AUROC to other, feature density"] = metrics.auroc(*scores)
    errors, unsure = test.mean.argmax(-1) != y, test.variation_ratio
    floor = metrics.calibration_floor(test.mean)
    return {
        "accuracy": metrics.accuracy(y, test.mean),
        "NLL": metrics.nll(y, test.mean),
        "NLL at T": metrics.nll(y, tempered),
        "T": temperature,
        "Brier": metrics.brier(y, test.mean),
        "ECE": metrics.expected_calibration_error(y, test.mean),
        "ECE if calibrated": floor.quantile_95,
        "AURC": metrics.aurc(errors, unsure),
        "AUGRC": metrics.augrc(errors, unsure),
        "AUROC of errors": metrics.error_auroc(errors, unsure),
        "AUROC to other, entropy": metrics.auroc(test.predictive_entropy, other.predictive_entropy),
        "AUROC to other, mutual information": metrics.auroc(
            test.mutual_information, other.mutual_information
        ),
        **of_density,
        "seconds of training": fitted.seconds,
        "seconds of prediction": seconds,
        "samples": num_samples,
    }


def load(name, other, options):
    """Loads a data set and the test images of the other one."""
    sets = {
        each: tfp_bayes.datasets.load(each, manual_dir=options.manual_dir) for each in (name, other)
    }
    data = sets[name]
    end = min(options.train, len(data.x_train) - NUM_HELD_OUT)
    return Data(
        data.x_train[:end],
        data.y_train[:end],
        data.x_train[-NUM_HELD_OUT:],
        data.y_train[-NUM_HELD_OUT:],
        data.x_test,
        data.y_test,
        sets[other].x_test[: len(data.x_test)],
    )


def cell(column, rows, plain):
    """Returns the mean over the rows of a method. `plain`: rows of the first method, by seed."""
    of = "NLL" if column == "NLL less" else column
    pairs = [(row[of], plain.get(row["seed"], {}).get(of)) for row in rows if of in row]
    paired = np.array([pair for pair in pairs if None not in pair]).reshape(-1, 2)
    if column == "NLL less":
        less = paired[:, 0] - paired[:, 1]
        return f"{less.mean():+.4f} ± {t_margin(less):.4f}" if less.any() else ""
    if column.startswith("seconds"):
        return f"{np.mean(paired[:, 0] / paired[:, 1]):.1f} times" if len(paired) else ""
    return f"{np.mean([value for value, _ in pairs]):.4g}" if pairs else ""


def table(rows):
    """Returns the means over seeds as Markdown; costs are relative to the deterministic network."""
    lines = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        here = [row for row in rows if row["dataset"] == dataset]
        names = dict.fromkeys(name for row in here for name in row)
        columns = [name for name in names if name not in ("dataset", "seed", "method", "options")]
        columns.insert(columns.index("NLL") + 1, "NLL less")
        lines += [f"\n{dataset}\n", f"| method | seeds | {' | '.join(columns)} |"]
        lines.append("|---" * (len(columns) + 2) + "|")
        plain = {row["seed"]: row for row in here if row["method"] == "deterministic"}
        for method in METHODS:
            mine = [row for row in here if row["method"] == method]
            if mine:
                cells = [cell(column, mine, plain) for column in columns]
                lines.append(f"| {method} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for the rows")
    add("--datasets", nargs="+", default=["mnist", "fashion_mnist"])
    add("--seeds", type=int, default=3)
    add("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    add("--epochs", type=int, default=20)
    add("--rate", type=float, default=1e-3, help="initial learning rate of Adam")
    add("--train", type=int, default=55_000, help="images to train on")
    add("--manual-dir", help="folder of Fashion-MNIST's files, see tfp_bayes.datasets")
    add("--show", action="store_true", help="only print the table of the rows that are complete")
    options = parser.parse_args()
    settings = {name: getattr(options, name) for name in ("epochs", "rate", "train")}
    rows = []
    for dataset in options.datasets:
        other = "mnist" if dataset != "mnist" else "fashion_mnist"
        data = None if options.show else load(dataset, other, options)
        for seed in range(options.seeds):
            for method in options.methods:
                slug = "".join(c if c.isalnum() else "_" for c in method)
                path = options.out / f"{dataset}-{seed}-{slug}.json"
                if not path.exists() and options.show:
                    continue
                if not path.exists():
                    found = measure(METHODS[method](data, seed, options), data)
                    found = {"dataset": dataset, "seed": seed, "method": method, **found}
                    write_json(path, {**found, "options": settings})
                    keras.backend.clear_session()
                row = json.loads(path.read_text())
                if row["options"] != settings:
                    raise SystemExit(f"{path} has options {row['options']}: use another --out")
                rows.append(row)
                print(f"{dataset}, seed {seed}, {method}: NLL {row['NLL']:.4f}", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
