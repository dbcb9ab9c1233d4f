"""The function `load`, which returns a `Dataset` for a name or a path."""

from pathlib import Path

from tfp_bayes._plumbing.dataset_names import as_path, unknown_name
from tfp_bayes.datasets import packaged, tfds
from tfp_bayes.datasets.arrays import load_npz
from tfp_bayes.datasets.dataset import Dataset
from tfp_bayes.datasets.folder import load_folder
from tfp_bayes.datasets.options import FileOptions
from tfp_bayes.datasets.tables import load_table

_OF_FILES = ("channels", "labels", "target", "task", "group", "skip_bad", "lazy")
_FILES = {
    ".npz": load_npz,
    ".csv": load_table,
    ".tsv": load_table,
    ".parquet": load_table,
}


def load(
    name: str | Path,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
    image_size: tuple[int, int] | None = None,
    *,
    channels: int | None = None,
    labels: str | Path | bool | None = None,
    target: str | None = None,
    task: str | None = None,
    group: str | None = None,
    skip_bad: bool = False,
    lazy: bool | None = None,
) -> Dataset:
    """Loads a data set: a packaged one, your own files, or one of TensorFlow Datasets.

    "mnist", "repeated_mnist" and "blood_cells" are packaged and need neither network nor
    TensorFlow. A path loads your own data. Any other name is one of TensorFlow Datasets, which
    downloads and prepares the data set the first time.

    A path can be:

    - a folder of images with one folder per class, such as `photos/cat/1.jpg`, or with such folders
      below `train` and `test` (and `validation`);
    - a folder of images with a CSV file: one column has the names of the files, one has the labels,
      and an optional column `split` has "train", "validation" or "test";
    - a folder of images without either: a pool without labels, all of it in `x_train`;
    - a `.npz` file with x_train, y_train, x_test, y_test (and x_val, y_val), or with the names of
      MedMNIST: train_images, train_labels and so on;
    - a table, `.csv`, `.tsv` or `.parquet`. Numbers are not changed, and each category of a text
      column becomes a column of zeros and ones. Scale the features before you train a network.

    Args:
        name: A path: a `Path`, or a string that begins with "/", "." or "~", ends with "/" or one
            of the endings above, or is the name of an existing folder. Or the name of a data set:
            "mnist"; "blood_cells", color crops of stained blood smears in three unequal classes,
            split by smear; "repeated_mnist", whose training images are those of MNIST three times
            in a row, with a little noise on each copy (Kirsch et al. 2019, section 4.1);
            "fashion_mnist", "cifar10", "svhn_cropped", "kmnist", "malaria" and so on.
        data_dir: Folder for the prepared data of TensorFlow Datasets. None uses its default. Not
            used for packaged data.
        manual_dir: Folder with manually downloaded files of the data set, under their original
            names. None uses `<data_dir>/downloads/manual`. Not used for packaged data. The four
            files of "fashion_mnist" and "kmnist" are read directly, even if repacked, as in
            Debian's package dataset-fashion-mnist.
        image_size: (H, W) to resize to, bilinearly with antialiasing and without keeping the aspect
            ratio. Required if images differ in size.
        channels: Number of channels, 1, 3 or 4, to convert image files to. Required if gray and
            color images, or transparent and opaque ones, are mixed.
        labels: CSV file with the labels of the images in a folder. None uses the only CSV file in
            the folder, if there is one. False reads all images as a pool without labels.
        target: Name of the column with labels. Required for a table.
        task: "classification" or "regression", the task for the target of a table. Required for
            integers. By default, text is classified, with classes in sorted order, and other
            numbers are regressed.
        group: Name of a column, such as the patient, whose values are never divided between sets.
        skip_bad: Whether to leave out unreadable files, and files or rows without a label or with
            an empty cell. A warning counts and lists them; see `Dataset.skipped`. Otherwise they
            raise an error that lists them.
        lazy: Whether to read image files on demand, as `ImageFiles`. None does so above 2 GiB of
            pixels.

    Returns:
        A `Dataset`. If a data set of TensorFlow Datasets has no "test" split, "validation" is used.
        With neither, a fifth of "train" is held out, stratified by class, with scikit-learn's
        `train_test_split(test_size=0.2, random_state=0)`, so it is the same at each call. For
        files, a fifth is held out in a similar way, by `group` if given. Files are in order of
        their names.

    Raises:
        ValueError: If the name is unknown; files are damaged, have no labels, or differ in size or
            channels (the message lists them); an option does not apply to the data; the data set
            has no uint8 images with class labels; its images differ in size and `image_size` is
            None; `manual_dir` is not a folder; or a packaged file is damaged.
        ConnectionError: If files are missing and their server cannot be reached. The message lists
            the files to download elsewhere and the folder to put them in.

    Example:

    >>> from tfp_bayes.datasets import load
    >>> data = load("mnist")
    >>> data.x_train.shape, data.y_test[:5]
    ((60000, 28, 28, 1), array([7, 2, 1, 0, 4]))
    >>> (x_train, y_train), (x_test, y_test) = data.splits
    >>> cells = load("blood_cells")
    >>> cells.x_train.shape, cells.class_names
    ((2804, 32, 32, 3), ('platelet', 'red blood cell', 'white blood cell'))
    """
    options = FileOptions(image_size, channels, labels, target, task, group, skip_bad, lazy)
    path = _as_path(name)
    if path is not None:
        return _load_path(path, options)
    name = str(name)
    options.refuse(f"the data set {name!r}", *_OF_FILES)
    if not name:
        raise unknown_name(name, ())
    # TensorFlow Datasets also accepts "MNIST" for "mnist".
    if name.lower() in packaged.LOADERS:
        return packaged.LOADERS[name.lower()](image_size)
    return tfds.from_tfds(name, data_dir, manual_dir, image_size)


def _as_path(name: str | Path) -> Path | None:
    """Returns the path that `name` denotes, or None for the name of a data set."""
    return name.expanduser() if isinstance(name, Path) else as_path(name)


def _load_path(path: Path, options: FileOptions) -> Dataset:
    if path.is_dir():
        return load_folder(path, options)
    reader = _FILES.get(path.suffix.lower())
    if not path.exists() or reader is None:
        raise ValueError(
            f"Expected a folder of images, or a file ending in {', '.join(_FILES)}. Received: "
            f"{path}, {'another kind of file' if path.exists() else 'which does not exist'}. "
            "Hint: paths are relative to the current folder."
        )
    return reader(path, options)
