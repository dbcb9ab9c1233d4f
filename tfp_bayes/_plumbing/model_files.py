"""Paths of saved models, with or without a posterior, checked without TensorFlow."""

from pathlib import Path

_SEPARATOR = ".keras+"  # between the path of a model and that of its posterior


def model_files(path: str | Path) -> list[Path]:
    """Return the file of a model, or both files of "MODEL.keras+POSTERIOR.npz".

    Raises:
        ValueError: If the path has neither form, or a file does not exist.
    """
    model, separator, posterior = str(path).partition(_SEPARATOR)
    files = [Path(f"{model}.keras"), Path(posterior)] if separator else [Path(path)]
    missing = [str(each) for each in files if not each.is_file()]
    if files[0].suffix != ".keras" or missing:
        raise ValueError(
            "Expected a saved model, MODEL.keras, or MODEL.keras+POSTERIOR.npz. Received: "
            f"{path}" + (f"; {missing[0]} does not exist" if missing else "") + ". "
            'Hint: call model.save("model.keras") and posterior.save("posterior.npz").'
        )
    return files


def model_name(path: str | Path) -> str:
    """Return the name of a model for tables, from its path, see `model_files`."""
    return "+".join(each.stem for each in model_files(path))
