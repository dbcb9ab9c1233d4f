"""NumPy `.npz` files: those of `keras.datasets`, of MedMNIST, and your own."""

from pathlib import Path

import numpy as np

from tfp_bayes.datasets.assemble import divide
from tfp_bayes.datasets.dataset import SPLITS, Dataset
from tfp_bayes.datasets.options import FileOptions
from tfp_bayes.datasets.resize import resize_all

# The names of inputs and labels of each set, in the different kinds of files.
_NAMES = {
    "train": [("x_train", "y_train"), ("train_images", "train_labels"), ("x", "y")],
    "validation": [
        ("x_validation", "y_validation"),
        ("x_val", "y_val"),
        ("val_images", "val_labels"),
    ],
    "test": [("x_test", "y_test"), ("test_images", "test_labels")],
}

_LARGEST_CLASS = 10**6  # larger numbers are taken for identifiers, not for classes


def load_npz(path: Path, options: FileOptions) -> Dataset:
    """Loads a `.npz` file into memory. See `datasets.load`."""
    refused = ("channels", "labels", "target", "task", "group", "skip_bad", "lazy")
    options.refuse("a .npz file", *refused)
    arrays = _read(path)
    x, given = {}, {}
    for split in SPLITS:
        for names in _NAMES[split]:
            if names[0] in arrays:
                x[split], given[split] = _inputs(arrays[names[0]], names[0]), arrays.get(names[1])
                break
    if "train" not in x:
        raise ValueError(
            f"Expected x_train and y_train, or train_images and train_labels, in {path}. "
            f"Received: {sorted(arrays)}. Hint: np.savez(path, x_train=x, y_train=y)."
        )
    if options.image_size is not None:
        for each in x.values():
            if each.ndim != 4 or each.dtype != np.uint8:
                raise ValueError(
                    "Expected uint8 images (N, H, W, C) to resize. Received: "
                    f"{each.dtype} of shape {each.shape}. Hint: leave out image_size."
                )
        x = {split: resize_all(each, options.image_size) for split, each in x.items()}
    if given["train"] is None and len(x) == 1:
        return Dataset(x["train"], np.zeros(0, "int64"), x["train"][:0], np.zeros(0, "int64"), ())
    y = {split: _labels(each, len(x[split]), split, path) for split, each in given.items()}
    forms = {each.shape[1:] for each in y.values()}
    if len(forms) > 1 or not len(x["train"]):
        shapes = {split: each.shape for split, each in y.items()}
        raise ValueError(
            f"Expected training examples, and labels of the same form in all sets, in {path}. "
            f"Received: labels of shape {shapes}. Hint: save class numbers (N,), or zeros and ones "
            "(N, K), everywhere."
        )
    return _dataset(x, y, _class_names(arrays.get("class_names"), y, path))


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # of zipfile, zlib, OSError or ValueError, depending on the damage
        raise ValueError(
            f"Expected a .npz file of plain arrays in {path}. "
            f"Received: {str(error) or type(error).__name__}. "
            "Hint: write it again with np.savez; arrays of objects are not supported."
        ) from None


def _inputs(x: np.ndarray, name: str) -> np.ndarray:
    """Returns images (N, H, W, C) or features (N, F)."""
    if x.ndim == 3:
        x = x[..., np.newaxis]
    if x.dtype.kind not in "uifb" or x.ndim not in (2, 4) or (x.ndim == 4 and x.shape[-1] > 4):
        raise ValueError(
            "Expected images (N, H, W) or (N, H, W, C) with C up to 4, or features (N, F), for "
            f"{name}. Received: {x.dtype} of shape {x.shape}. "
            "Hint: the channel axis comes last; cut volumes into slices."
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ValueError(
            f"Expected finite numbers in {name}. Received: NaN or infinity. Hint: remove the rows."
        )
    return x if x.dtype == np.uint8 or x.dtype.kind == "f" else x.astype("float32")


def _labels(y: np.ndarray | None, size: int, split: str, path: Path) -> np.ndarray:
    """Returns class numbers (N,), or zeros and ones (N, K) for several labels per example."""
    if y is not None and y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]  # as in MedMNIST
    if y is None or len(y) != size or y.ndim not in (1, 2) or y.dtype.kind not in "uib":
        received = "none" if y is None else f"{y.dtype} of shape {y.shape}"
        raise ValueError(
            f"Expected integer labels of the {size} examples for {split} in {path}. "
            f"Received: {received}. Hint: save class numbers (N,), or zeros and ones (N, K)."
        )
    largest = _LARGEST_CLASS if y.ndim == 1 else 1
    if y.size and not 0 <= y.min() <= y.max() <= largest:
        raise ValueError(
            f"Expected class numbers from 0, or zeros and ones (N, K), for {split} in {path}. "
            f"Received: numbers from {y.min()} to {y.max()}. Hint: 0 is the first class."
        )
    return y.astype("int64")


def _class_names(names: np.ndarray | None, y: dict[str, np.ndarray], path: Path) -> tuple[str, ...]:
    train = y["train"]
    if train.ndim == 2:
        num_classes = train.shape[1]
    else:
        num_classes = max(int(each.max()) for each in y.values() if each.size) + 1
    if names is None:
        if train.ndim == 1 and all(each.all() for each in y.values()):
            raise ValueError(
                f"Expected class numbers from 0 in {path}. Received: numbers from 1 to "
                f"{num_classes - 1}, so class 0 would have no examples. "
                "Hint: subtract 1, or save class_names with a name for class 0."
            )
        return tuple(map(str, range(num_classes)))
    if names.shape != (len(names),) or len(names) < num_classes:
        raise ValueError(
            f"Expected {num_classes} strings for class_names in {path}. Received: {names.shape}. "
            "Hint: without class_names, classes are named by their numbers."
        )
    return tuple(map(str, names.tolist()))


def _dataset(
    x: dict[str, np.ndarray], y: dict[str, np.ndarray], class_names: tuple[str, ...]
) -> Dataset:
    if "test" not in x and "validation" in x:
        x["test"], y["test"] = x.pop("validation"), y.pop("validation")
    if "test" not in x:
        numbers = y["train"] if y["train"].ndim == 1 else np.zeros(len(y["train"]), "int64")
        rows = divide(numbers, None, None, classes=True)
        x, y = (
            {split: each["train"][rows[split]] for split in ("train", "test")} for each in (x, y)
        )
    shapes = {each.shape[1:] for each in x.values()}
    if len(shapes) > 1:
        raise ValueError(
            f"Expected inputs of the same shape in all sets. Received: {sorted(shapes)}. "
            "Hint: image_size resizes images."
        )
    return Dataset(
        x["train"],
        y["train"],
        x["test"],
        y["test"],
        class_names,
        x.get("validation"),
        y.get("validation"),
    )
