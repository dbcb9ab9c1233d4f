"""Paths of saved models, with a posterior beside them or not, checked without TensorFlow."""

from pathlib import Path

_BESIDE = ".keras+"  # between the file of a model and that of its posterior


def model_files(path: str | Path) -> list[Path]:
    """Returns the file of a model, and of "MODEL.keras+POSTERIOR.npz" also the second one.

    Raises:
        ValueError: If it is neither, or a file does not exist.
    """
    model, beside, posterior = str(path).partition(_BESIDE)
    files = [Path(f"{model}.keras"), Path(posterior)] if beside else [Path(path)]
    missing = [str(each) for each in files if not each.is_file()]
    if files[0].suffix != ".keras" or missing:
        raise ValueError(
            "Expected a saved model, MODEL.keras, or MODEL.keras+POSTERIOR.npz. Received: "
            f"{path}" + (f", of which {missing[0]} is no file" if missing else "") + ". "
            'Hint: model.save("model.keras"), posterior.save("posterior.npz").'
        )
    return files


def model_name(path: str | Path) -> str:
    """Returns what a table calls the model of a path, see `model_files`."""
    return "+".join(each.stem for each in model_files(path))
