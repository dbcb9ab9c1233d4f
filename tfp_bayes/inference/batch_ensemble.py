"""BatchEnsemble: an ensemble whose members share their kernels up to rank-1 factors."""

from pathlib import Path
from typing import Any

import keras

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.configured import Configured, check_positive
from tfp_bayes._plumbing.fresh import assign_values
from tfp_bayes.inference.batch_ensemble_posterior import BatchEnsemblePosterior
from tfp_bayes.inference.materialize import check_finite_draws
from tfp_bayes.inference.member_training import Members, MemberSteps, trained_together
from tfp_bayes.inference.training import check_compiled, train
from tfp_bayes.layers import variational_layers


class BatchEnsemble(Configured):
    """An ensemble whose members share each kernel up to a rank-1 factor.

    Use it if the weights of a `DeepEnsemble` take too much memory or disk space. Member m has the
    kernels W * r_m s_m^T, which a dense layer computes as ((x * r_m) W) * s_m, with one W for all
    members. Biases, all other weights and the statistics of `BatchNormalization` belong to each
    member. Prediction takes as many passes as with a `DeepEnsemble`, and training to the same
    quality takes more epochs, so prefer `DeepEnsemble` if you can afford its memory.

    This method has no layer class. A layer sees rows and would have to infer the member of each
    row from its position, which fails if a layer such as `TimeDistributed` reshapes the batch
    axis. Instead, the model runs once per member, with the weights of that member, in training
    and in prediction. This works with all layers of Keras.

    Args:
        num_members: Number of members M.
        factor_scale: Standard deviation of the initial factors r and s, whose mean is 1.
            Smaller values speed training up and make members more alike.
        split_batches: False trains each member on the whole batch, with M times the computation
            and the activations of the network. True gives each member every M-th row of the batch
            (if M does not divide the batch size, some rows are used twice), so a step processes
            about as many rows as the network alone would, and each member learns from 1/M of the
            rows per epoch. Shuffle the data then; otherwise each member always sees the same rows.
        seed: Integer, for the initial factors and the order of the examples.
        directory: Folder for a checkpoint, from which a killed `fit` resumes with bit-identical
            results. None saves no checkpoint.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Wen, Tran and Ba 2020, "BatchEnsemble: An Alternative Approach to Efficient Ensemble and
        Lifelong Learning", equations 1 and 5, arXiv:2002.06715. Initial factors and whole batches
        follow Uncertainty Baselines.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> x, y = np.random.normal(size=(64, 2)), np.random.randint(0, 3, 64)
    >>> posterior = BatchEnsemble(4).fit(model, x, y, epochs=2, verbose=0)
    >>> Predictor(model, posterior=posterior).sample(x).shape
    (4, 64, 3)
    """

    def __init__(
        self,
        num_members: int = 4,
        *,
        factor_scale: float = 0.5,
        split_batches: bool = False,
        seed: int = 0,
        directory: str | Path | None = None,
    ):
        check_integers(1, num_members=num_members)
        check_integers(0, seed=seed)
        check_positive(factor_scale=factor_scale)
        self.num_members = num_members
        self.factor_scale = factor_scale
        self.split_batches = bool(split_batches)
        self.seed = seed
        self.directory = None if directory is None else str(directory)

    def fit(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        *,
        epochs: int,
        batch_size: int = 32,
        **fit_arguments: Any,
    ) -> BatchEnsemblePosterior:
        """Train all members together, starting from the current weights of the model.

        Training minimizes the mean loss of the members. Priors and regularizers apply to the
        kernels of the members, W * r_m s_m^T. Displayed losses and metrics, including those of
        `validation_data`, are means over members; the ensemble itself scores better.

        The optimizer is a new one with the configuration of the model's; weight decay does not
        apply to factors. Frozen layers keep their weights, which all members share. Afterwards,
        the model has the weights of the first member and its own optimizer, unchanged.

        Args:
            model: Compiled Keras model with plain weights, trained or not.
            x: Arrays (N, ...), a structure of them, or a dataset with targets.
            y: Targets (N, ...), if `x` holds arrays.
            epochs: Number of epochs.
            batch_size: Rows in a batch, if `x` holds arrays.
            **fit_arguments: Further arguments of Keras' `fit`.

        Returns:
            Posterior with M draws, bound to `model`.

        Raises:
            ValueError: If the model is not compiled or cannot be trained this way, a callback
                saves or restores weights, or training diverged.
        """
        check_integers(1, epochs=epochs)
        check_compiled(model)
        _check_model(model)
        _check_callbacks(fit_arguments.get("callbacks"))
        members = Members(model, self.num_members, self.factor_scale, self.seed)
        settings = self.get_config()
        path = settings.pop("directory")
        steps = MemberSteps(model, members, self.split_batches)
        with trained_together(steps, _new_optimizer(model, members)):
            train(
                model,
                x,
                y,
                epochs=epochs,
                seed=self.seed,
                batch_size=batch_size,
                recorder=members,
                path=None if path is None else Path(path) / "batch_ensemble.npz",
                settings={"method": "BatchEnsemble", **settings},
                **fit_arguments,
            )
        parts = [{name: each.numpy() for name, each in of.items()} for of in members.parts]
        for name in {name for of in parts for name in of}:
            found = [(of[name], v) for of, v in zip(parts, members.replaced) if name in of]
            check_finite_draws(*zip(*found))
        posterior = BatchEnsemblePosterior(model, parts, members.replaced)
        assign_values(members.replaced, posterior.draw(0, None))
        return posterior


def _new_optimizer(model: keras.Model, members: Members) -> keras.optimizers.Optimizer:
    """Return an optimizer for the members, with the configuration of the model's optimizer."""
    with model.distribute_strategy.scope():
        optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if inner.use_ema:
            raise ValueError(
                "Expected an optimizer without use_ema, which averages the weights of the model. "
                f"Received: {inner.name!r} with use_ema=True. Hint: compile the model without it."
            )
        inner.exclude_from_weight_decay(var_list=members.factors)
        optimizer.build(members.trainable_variables)
    return optimizer


def _check_model(model: keras.Model) -> None:
    """Raise ValueError if a model cannot be trained with the weights of members."""
    received, hint = None, "use DeepEnsemble, which trains any model"
    owner = next(each for each in type(model).__mro__ if "train_step" in vars(each))
    constrained = [v.path for v in model.trainable_variables if v.constraint is not None]
    if not model.trainable_variables:
        received, hint = "no trainable weights", "set layer.trainable = True"
    elif owner.__module__.split(".")[0] not in ("keras", "tfp_bayes"):
        received = f"a custom train_step in {owner.__name__}"
    elif variational_layers(model):
        received = f"random weights in layer {variational_layers(model)[0].name!r}"
        hint = "use to_deterministic(model), or DeepEnsemble"
    elif constrained:
        received = f"constraints on {', '.join(constrained)}, which members would violate"
    if received is not None:
        raise ValueError(
            "Expected a model with plain trainable weights and the training step of Keras. "
            f"Received: model={model.name!r} with {received}. Hint: {hint}."
        )


def _check_callbacks(callbacks: Any) -> None:
    """Raise ValueError for callbacks that save or restore the weights of the model."""
    for each in keras.tree.flatten(callbacks):
        restores = getattr(each, "restore_best_weights", False)
        kinds = keras.callbacks.ModelCheckpoint | keras.callbacks.BackupAndRestore
        if restores or isinstance(each, kinds):
            raise ValueError(
                "Expected callbacks that do not save or restore weights: during training the model "
                f"does not hold those of the members. Received: {type(each).__name__}"
                f"{' with restore_best_weights=True' if restores else ''}. "
                "Hint: BatchEnsemble(directory=...) saves checkpoints."
            )
