"""Where trained networks lie: those that come with the program, and folders of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from models.axis import Axis
from models.card import ModelCard, read_card

SHIPPED: Final = Path(__file__).parent / "zoo"


def find_models(folders: Sequence[Path] = ()) -> list[tuple[Path, ModelCard | ValueError]]:
    """Return ONNX files with their cards, or what is wrong with them: those of the folders first, then the shipped."""
    found: list[tuple[Path, ModelCard | ValueError]] = []
    for folder in (*folders, SHIPPED):
        for path in sorted(folder.glob("*.onnx")):
            try:
                found.append((path, read_card(path)))
            except ValueError as error:
                found.append((path, error))
    return found


def find_model(name: str, folders: Sequence[Path] = ()) -> Path:
    """Return the ONNX file of a name, or of a path.

    Raises
    ------
    ValueError
        Where there is none; it says which there are.
    """
    if Path(name).is_file():
        return Path(name)
    known = {path.stem: path for path, _ in reversed(find_models(folders))}
    if name not in known:
        raise ValueError(f"no model {name!r}: neither a file nor one of {', '.join(sorted(known)) or '(none)'}")
    return known[name]


def fitting(technique: str, axis: Axis, folders: Sequence[Path] = ()) -> tuple[Path, ModelCard] | None:
    """Return the first network that fits a series of this technique and axis, None where none does."""
    for path, card in find_models(folders):
        if isinstance(card, ModelCard) and card.misfit(technique, axis) is None:
            return path, card
    return None
