"""The one door to data: a name or a path in, a `Dataset` out."""

from pathlib import Path

from tfp_bayes._plumbing.dataset_names import unknown_name
from tfp_bayes.datasets import packaged, tfds
from tfp_bayes.datasets.dataset import Dataset


def load(
    name: str,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
    image_size: tuple[int, int] | None = None,
) -> Dataset:
    """Loads an image-classification data set into memory.

    "mnist" and "blood_cells" come with the package and need neither network nor TensorFlow. Any
    other name but "repeated_mnist" is one of TensorFlow Datasets, which downloads and prepares it
    the first time.

    Args:
        name: "mnist"; "blood_cells", color crops of stained blood smears in three unequal
            classes, split by smear; "fashion_mnist", "cifar10", "svhn_cropped", "kmnist",
            "malaria" ...; or "repeated_mnist", whose training images are those of MNIST three
            times in a row, each copy with a little noise of its own (Kirsch et al. 2019, section
            4.1).
        data_dir: Where TensorFlow Datasets keeps prepared data; None is its default. Not used
            for what is packaged.
        manual_dir: Folder with the data set's files as downloaded by hand, under their original
            names; None is `<data_dir>/downloads/manual`. Not used for what is packaged. The four
            files of "fashion_mnist" and "kmnist" are read as they are, repacked or not, such as
            those of Debian's package dataset-fashion-mnist.
        image_size: (H, W) to resize to, bilinear with antialiasing, without regard to the aspect
            ratio; needed where the images differ in size.

    Returns:
        A `Dataset`. Where TensorFlow Datasets knows no "test" split, "validation" is taken. With
        neither, a fifth of "train" is held out: stratified by class with scikit-learn's
        `train_test_split(test_size=0.2, random_state=0)`, so it is the same at each call.

    Raises:
        ValueError: If the name is unknown, the data set has no uint8 images with class labels, its
            images differ in size and `image_size` is None, `manual_dir` is no folder, or a
            packaged file is damaged.
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
    if not name:
        raise unknown_name(name, ())
    # TensorFlow Datasets takes "MNIST" for "mnist" too.
    if name.lower() in packaged.LOADERS:
        return packaged.LOADERS[name.lower()](image_size)
    return tfds.from_tfds(name, data_dir, manual_dir, image_size)
