"""Deep ensembles: several networks of one architecture, trained independently."""

import contextlib
import functools
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.checkpoint import check_same_configuration
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import Configured
from tfp_bayes._plumbing.digest import digest, digest_network
from tfp_bayes._plumbing.files import remove_unfinished, write_json
from tfp_bayes._plumbing.fresh import fresh_values, initialize
from tfp_bayes._plumbing.lock import Lock
from tfp_bayes._plumbing.workers import check_engine, check_is_main, run_all
from tfp_bayes.inference.adversarial import adversarial_training
from tfp_bayes.inference.ensemble import Ensemble
from tfp_bayes.inference.member import (
    Data,
    Member,
    member_seed,
    train_in_worker,
    train_member,
)
from tfp_bayes.inference.stored_posterior import check_combine
from tfp_bayes.inference.training import check_compiled


class DeepEnsemble(Configured):
    """A deep ensemble: M copies of a network, trained from different weights and orders of data.

    Use it if you can afford M times the cost of training and prediction. It is the best
    calibrated of the simple methods, and the most robust under distribution shift. Calibrate the
    ensemble (`uncertainty.fit_temperature` of its mean), not its members: calibrated members give
    an underconfident ensemble.

    Args:
        num_members: Number of members M. 5 is a common choice; 10 is slightly better.
        seed: Integer. Member i depends only on the seed and on i, so an ensemble can be enlarged.
        bootstrap: Whether each member is trained on N rows drawn with replacement. This is usually
            worse for networks, whose initial weights already make them differ enough.
        combine: "mean" or "vote", see `StoredPosterior`.
        adversarial: Size of the perturbation for adversarial training, as a share of the range of
            each input in the data. The reference uses 0.01; 0 turns adversarial training off.
        workers: Number of members trained in parallel, each in a process that has the model and
            the data. None starts one per core or, with `gpus_per_worker`, as many as the GPUs
            allow. More than 1 requires scripts to be guarded by `if __name__ == "__main__":`, and
            custom objects in the model to be registered with Keras. With 1, members are trained
            one after another. The result is the same.
        engine: "processes" (on this machine; one worker is this process itself) or "ray" (actors
            on the cluster of `ray.init`, else of RAY_ADDRESS, else this machine). "local" is this
            process.
        gpus_per_worker: Number of GPUs per actor, with Ray.
        directory: Folder for the trained members and for a checkpoint of the members in training.
            If `fit` is called again with the same model and data, it trains only what is missing,
            with bit-identical results on a CPU. Other data are refused; of a dataset, only the
            shapes and the number of batches are compared, and of callbacks and functions only their
            names. None saves nothing. Ray requires a folder that all its machines can reach.

    Raises:
        ValueError: If an argument is out of range, or Ray has no `directory`.

    Reference:
        Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using
        Deep Ensembles", algorithm 1, arXiv:1612.01474.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(60, 2)).astype("float32")
    >>> y = (x[:, 0] > 0).astype("int64")
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")])
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> ensemble = DeepEnsemble(3).fit(model, x, y, epochs=2, verbose=0)
    >>> p = Predictor(model, posterior=ensemble).predict_uncertainty(x, return_samples=True)
    >>> p.samples.shape
    (3, 60, 2)
    """

    def __init__(
        self,
        num_members: int = 5,
        *,
        seed: int = 0,
        bootstrap: bool = False,
        combine: str = "mean",
        adversarial: float = 0.0,
        workers: int | None = 1,
        engine: str = "processes",
        gpus_per_worker: float = 0,
        directory: str | Path | None = None,
    ):
        check_integers(1, num_members=num_members)
        check_integers(0, seed=seed)
        check_engine(engine, workers, gpus_per_worker)
        if engine == "ray" and directory is None:
            raise ValueError(
                "Expected a folder for `directory` with engine='ray'. Received: directory=None. "
                "Hint: choose a folder that all machines of the cluster can reach; the members "
                "are saved there."
            )
        check_combine(combine)
        if not 0 <= adversarial < 1:
            raise ValueError(
                "Expected a share in [0, 1) for `adversarial`. "
                f"Received: adversarial={adversarial!r}. "
                "Hint: 0.01 perturbs each input by 1% of its range."
            )
        self.num_members = num_members
        self.seed = seed
        self.bootstrap = bootstrap
        self.combine = combine
        self.adversarial = adversarial
        self.workers = workers
        self.engine = engine
        self.gpus_per_worker = gpus_per_worker
        self.directory = None if directory is None else str(directory)

    def fit(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        *,
        epochs: int,
        batch_size: int = 32,
        sample_weight: Any = None,
        verbose: Any = "auto",
        **fit_arguments: Any,
    ) -> Ensemble:
        """Train the members one after another in the given model, or in parallel workers.

        Frozen layers and layers that were adapted to data keep their values in every member. The
        seeds in the model's configuration are replaced with those of the members. Afterwards, the
        model has the weights of the last member, and its optimizer is in its initial state.

        Args:
            model: Compiled Keras model. The model and its layers must implement `get_config`.
            x: Arrays (N, ...) or a structure of them. With one worker and without `bootstrap` and
                `adversarial`, it can also be a dataset, whose order is then the same for all
                members.
            y: Targets, if `x` holds arrays.
            epochs: Number of epochs for each member.
            batch_size: Rows in a batch, if `x` holds arrays.
            sample_weight: Sample weights as for Keras' `fit`, if `x` holds arrays.
            verbose: 0 for no output. Other values are passed to Keras' `fit`, and the number of
                the current member is printed.
            **fit_arguments: Further arguments of Keras' `fit`, such as `validation_data` and
                `callbacks`. For workers they are pickled.

        Returns:
            A posterior with M draws, bound to `model`.

        Raises:
            ValueError: If the model is not compiled, the data cannot be used with these settings,
                training diverged, or the directory belongs to a different ensemble.
            ChildProcessError: If three workers were killed while they trained the same member.
            OSError: If another process is training in the directory.
        """
        check_integers(1, epochs=epochs)
        check_is_main()
        check_compiled(model)
        self._check_data(x)
        arguments = {"epochs": epochs, "batch_size": batch_size, **fit_arguments}
        data = (x, y, sample_weight)
        with contextlib.ExitStack() as stack:
            folder, settings = self._open(stack, model, data, arguments)
            seeds = [member_seed(self.seed, index) for index in range(self.num_members)]
            members = [
                Member(i, seed, folder / f"member-{i}.npz", self.bootstrap, settings)
                for i, seed in enumerate(seeds, start=1)
            ]
            missing = [member for member in members if not member.path.exists()]
            if self.num_members > 1:
                _warn_of_equal_starts(model, seeds[:2])
            self._train(missing, model, data, {**arguments, "verbose": verbose})
            weights = [member.load(model) for member in members]
        # Set the states of random generators, which are not weights, and then the weights.
        initialize(model, seeds[-1], own_seeds=False)
        model.set_weights(weights[-1])
        return Ensemble(weights, model, self.combine)

    def _train(self, missing: list[Member], model: keras.Model, data: Data, arguments: dict):
        """Train the missing members, in this process or in workers."""
        shown = arguments["verbose"]
        if self._trains_here:
            with adversarial_training(model, data[0], self.adversarial):
                for member in missing:
                    if shown:
                        print(f"member {member.number} of {self.num_members}", flush=True)
                    train_member(member, model, data, arguments)
            return

        def on_end(number: int) -> None:
            if shown:
                print(f"finished member {number} of {self.num_members}", flush=True)

        members = {member.number: member for member in missing}
        arguments = {**arguments, "verbose": 0}
        run_all(
            functools.partial(train_in_worker, members, model, data, arguments, self.adversarial),
            list(members),
            on_end,
            engine=self.engine,
            workers=self.workers,
            gpus_per_worker=self.gpus_per_worker,
        )

    @property
    def _trains_here(self) -> bool:
        """Whether members are trained one after another in this process."""
        return self.engine == "local" or (self.engine == "processes" and self.workers == 1)

    def _open(
        self, stack: contextlib.ExitStack, model: keras.Model, data: Data, arguments: dict
    ) -> tuple[Path, dict[str, Any] | None]:
        """Return the folder of the members, and the settings that identify their checkpoints."""
        if self.directory is None:
            return Path(stack.enter_context(tempfile.TemporaryDirectory())), None
        folder = Path(self.directory).absolute()  # workers may be in other folders
        lock = Lock(folder / "ensemble.lock", folder)
        lock.acquire()
        stack.callback(lock.release)
        remove_unfinished(folder)
        callbacks = arguments.get("callbacks")
        others = {key: value for key, value in arguments.items() if key != "callbacks"}
        settings = {
            "seed": self.seed,
            "bootstrap": self.bootstrap,
            "adversarial": self.adversarial,
            "epochs": arguments["epochs"],
            "fit_arguments": digest([others, callbacks]),
        }
        identity = {
            "network": digest_network(model),
            # Covers values that members keep, such as frozen layers, and initial values.
            "start": digest(fresh_values(model, self.seed, own_seeds=False)),
            "data": digest(data),
            **settings,
        }
        record = folder / "ensemble.json"
        if record.exists() and any(folder.glob("member-*")):
            check_same_configuration(identity, json.loads(record.read_text()), folder)
        else:
            write_json(record, identity)
        return folder, settings

    def _check_data(self, x: Any) -> None:
        """Refuse a dataset if the settings require arrays."""
        alone = self._trains_here and not self.bootstrap and not self.adversarial
        if isinstance(x, tf.data.Dataset | keras.utils.PyDataset) and not alone:
            raise ValueError(
                "Expected arrays for `x` with workers, bootstrap or adversarial training. "
                f"Received: {type(x).__name__}, workers={self.workers}, "
                f"bootstrap={self.bootstrap}, adversarial={self.adversarial}. "
                "Hint: keep the defaults of these settings, or read the data into arrays."
            )


def _warn_of_equal_starts(model: keras.Model, seeds: list[int]) -> None:
    """Warn if initial weights do not depend on the seed, because all initializers are constant."""
    trainable = {id(v) for v in model.trainable_variables}
    starts = (fresh_values(model, seed, own_seeds=False) for seed in seeds)
    both = zip(model.variables, *starts, strict=True)
    if all(np.array_equal(a, b) for v, a, b in both if id(v) in trainable):
        warnings.warn(
            f"Every member of the ensemble of {model.name!r} starts from the same weights, so "
            "members differ only in the order of the examples or in their bootstrap samples. "
            "Use a random initializer in at least one layer.",
            stacklevel=3,
        )
