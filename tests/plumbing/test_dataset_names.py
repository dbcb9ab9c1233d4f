"""Names of data sets are checked without TensorFlow, and every existing name is accepted."""

import pytest

import tfp_bayes
from tfp_bayes._plumbing.dataset_names import check_dataset_name


def test_every_name_of_tensorflow_datasets_is_known():
    import tensorflow_datasets as tfds

    names = tfds.list_builders(with_community_datasets=False)
    assert len(names) > 400
    for name in names:
        if "animals" not in name:  # made by the tests of data sets
            check_dataset_name(name)
    for name in ("MNIST", "repeated_mnist", "cifar10:3.0.2", "emnist/letters", "huggingface:x"):
        check_dataset_name(name)


def test_prepared_data_sets_are_known(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="name='my_own'"):
        check_dataset_name("my_own", tmp_path)
    (tmp_path / "my_own").mkdir()
    check_dataset_name("my_own", tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    check_dataset_name("my_own")


def test_others_are_refused_with_what_is_close():
    for name, hint in (("mnst", "mnist"), ("cifar01", "cifar10"), ("x/y", "mnist"), ("", "mnist")):
        with pytest.raises(ValueError, match=rf"name='{name}'.*'{hint}'"):
            check_dataset_name(name)
    with pytest.raises(ValueError, match="name=''"):
        tfp_bayes.datasets.load("")
