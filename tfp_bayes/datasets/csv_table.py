"""Reading of CSV files, in the dialects that spreadsheets write, as columns of text."""

import csv
import io
from pathlib import Path

_DELIMITERS = ",;\t"
MISSING = frozenset(["", "na", "n/a", "nan", "null", "none", "?"])
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def read_columns(path: Path) -> dict[str, list[str]]:
    """Returns the columns of a table by name, with surrounding spaces removed from cells.

    The first line has the names of the columns. Commas, semicolons or tabs separate cells.

    Raises:
        ValueError: If the file is not such a table; the message has the line number.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Expected UTF-8 text in {path}. Received: {error}. "
            "Hint: save it as 'CSV UTF-8' in the spreadsheet program."
        ) from None
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    header = [name.strip() for name in rows[0]] if rows else []
    check_named(header, path)
    if len(set(header)) < len(header):
        raise ValueError(
            f"Expected unique column names in the first line of {path}. "
            f"Received: {header}. Hint: such as file,label"
        )
    numbered = [(i, row) for i, row in enumerate(rows[1:], start=2) if any(map(str.strip, row))]
    for number, row in numbered:
        if len(row) != len(header):
            raise ValueError(
                f"Expected {len(header)} cells in line {number} of {path}. Received: {len(row)}. "
                f"Hint: put text that contains {delimiter!r} in quotation marks."
            )
    return {name: [row[place].strip() for _, row in numbered] for place, name in enumerate(header)}


def check_named(header: list[str], path: Path) -> None:
    """Raises ValueError if a column has no name, as that of the row numbers of pandas.

    Row numbers would become a feature that tells the classes of a sorted table.
    """
    unnamed = [name for name in header if not name or name.startswith("__index_level_")]
    if unnamed or not header:
        raise ValueError(
            f"Expected a name for each column in the first line of {path}. Received: {header}. "
            "Hint: such as file,label; index=False leaves out the row numbers of pandas."
        )


def column(table: dict[str, list[str]], name: str, argument: str, path: Path) -> list[str]:
    """Returns the column that the user named in an argument.

    Raises:
        ValueError: If the table has no such column.
    """
    if name not in table:
        raise ValueError(
            f"Expected a column of {path} for `{argument}`. Received: {argument}={name!r}. "
            f"Hint: its columns are {list(table)}."
        )
    return table[name]


def read_splits(words: list[str], path: Path) -> list[str]:
    """Returns "train", "validation" or "test" for each row of a column `split`.

    Raises:
        ValueError: If a word does not name one of these sets.
    """
    unknown = sorted({word for word in words if word.lower() not in SPLIT_WORDS})
    if unknown:
        raise ValueError(
            f"Expected 'train', 'validation' or 'test' in the column 'split' of {path}. "
            f"Received: {unknown[:5]}. Hint: rename the column if it means something else."
        )
    return [SPLIT_WORDS[word.lower()] for word in words]
