"""The one door to data: a name or a path in, a `Dataset` out."""

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
    """Loads a data set: a packaged one, one's own files, or one of TensorFlow Datasets.

    "mnist" and "blood_cells" come with the package and need neither network nor TensorFlow. A path
    is data of one's own. Any other name but "repeated_mnist" is one of TensorFlow Datasets, which
    downloads and prepares it the first time.

    What a path may be:

    - a folder of images in one folder for each class, `photos/cat/1.jpg`; or so below `train` and
      `test` (and `validation`);
    - a folder of images with a CSV file: one column names the files, one holds the labels, and
      one called `split`, if there is one, says "train", "validation" or "test";
    - a folder of images without either: a pool without labels, all of it in `x_train`;
    - `.npz` with x_train, y_train, x_test, y_test (and x_val, y_val), or MedMNIST's train_images,
      train_labels and so on;
    - a table, `.csv` or `.parquet`: numbers stay as they are, each category of a column of text
      becomes a column of zeros and ones. Scale them before a network.

    Args:
        name: A path: a `Path`, or a string that begins with "/", "." or "~", ends in "/" or one
            of these endings, or names a folder that exists. Or "mnist"; "blood_cells", color crops
            of stained blood smears in three unequal classes, split by smear; "fashion_mnist",
            "cifar10", "svhn_cropped", "kmnist", "malaria" ...; or "repeated_mnist", whose training
            images are those of MNIST three times in a row, each copy with a little noise of its
            own (Kirsch et al. 2019, section 4.1).
        data_dir: Where TensorFlow Datasets keeps prepared data; None is its default. Not used
            for what is packaged.
        manual_dir: Folder with the data set's files as downloaded by hand, under their original
            names; None is `<data_dir>/downloads/manual`. Not used for what is packaged. The four
            files of "fashion_mnist" and "kmnist" are read as they are, repacked or not, such as
            those of Debian's package dataset-fashion-mnist.
        image_size: (H, W) to resize to, bilinear with antialiasing, without regard to the aspect
            ratio; needed where the images differ in size.
        channels: 1, 3 or 4 to convert image files to; needed where gray and color, or transparent
            and opaque images, are mixed.
        labels: CSV file with the labels of a folder's images; None takes the only one in the
            folder, False takes all images as a pool without labels.
        target: The column with labels. Needed for a table.
        task: "classification" or "regression": what the target of a table is. Needed for
            integers; text numbers classes, sorted, and other numbers are regressed on.
        group: A column, such as the patient, whose values are never divided between sets.
        skip_bad: Leave out files that cannot be read, and what has no label or an empty cell, with
            a warning that counts and names them; see `Dataset.skipped`. Otherwise they are an
            error that names them.
        lazy: Whether image files are read when they are asked for, as `ImageFiles`; None does so
            above 2 GiB of pixels.

    Returns:
        A `Dataset`. Where TensorFlow Datasets knows no "test" split, "validation" is taken. With
        neither, a fifth of "train" is held out: stratified by class with scikit-learn's
        `train_test_split(test_size=0.2, random_state=0)`, so it is the same at each call. Of files
        likewise, by `group` if given; their order is that of their names.

    Raises:
        ValueError: If the name is unknown, files are damaged, unlabelled or differ in size or
            channels (they are named), an option has no meaning for the data, the data set has no
            uint8 images with class labels, its images differ in size and `image_size` is None,
            `manual_dir` is no folder, or a packaged file is damaged.
        ConnectionError: If files are missing and their server cannot be reached. It lists the
            files to download elsewhere and the folder to put them in.

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
    # TensorFlow Datasets takes "MNIST" for "mnist" too.
    if name.lower() in packaged.LOADERS:
        return packaged.LOADERS[name.lower()](image_size)
    return tfds.from_tfds(name, data_dir, manual_dir, image_size)


def _as_path(name: str | Path) -> Path | None:
    """Returns what is meant as a path; a name of TensorFlow Datasets stays one."""
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
