"""The cache of fetched models, and the file that a name of a model means."""

from __future__ import annotations

import os
from pathlib import Path

from spvnas_ros.zoo.cards import Card, DetectorCard, UnknownModel, find_card

DEFAULT = "default"
"""Name of the network that comes with the package."""

_DEFAULT_FILE = Path(__file__).with_name("default.safetensors")


class FetchError(OSError):
    """The error for a model that is not fetched yet, cannot be reached, or is not the expected file."""


def cache_folder() -> Path:
    """Returns `$SPVNAS_CACHE`, else `$XDG_CACHE_HOME/spvnas_ros`, else `~/.cache/spvnas_ros`."""
    if chosen := os.environ.get("SPVNAS_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "spvnas_ros"


def cached_path(card: Card | DetectorCard, folder: Path) -> Path:
    """Returns the path that the model has in this cache folder once it is fetched."""
    return folder / f"{card.name}.safetensors"


def shipped_path() -> Path:
    """Returns the file of `default`. Raises FetchError where the package was installed without it."""
    if not _DEFAULT_FILE.is_file():
        raise FetchError(
            f"this installation lacks the default network ({_DEFAULT_FILE} is not there); install the package again, "
            "or name a .safetensors file or a fetched model (spvnas zoo list)"
        )
    return _DEFAULT_FILE


def resolve_weights(weights: str | Path) -> Path:
    """Returns the file that `weights` means: a path, the name of a fetched model of the zoo, or "default".

    A file of that name goes first. "default" is the network that comes with the package. A name with a suffix or a
    folder in it counts as a path. Raises FetchError, with a remedy, where there is neither file nor model.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if str(weights) == DEFAULT:
        return shipped_path()
    try:
        card = find_card(str(weights))
    except UnknownModel as error:
        if path.is_dir():
            raise FetchError(
                f"{path} is a folder, expected a .safetensors file or the name of a fetched model"
            ) from error
        if path.suffix or path.name != str(weights):
            raise FetchError(f"there is no file {path} (weights are a .safetensors file or a fetched model)") from error
        raise FetchError(f"there is no file {path}, and {error}") from error
    cached = cached_path(card, cache_folder())
    if not cached.is_file():
        raise FetchError(f"{card.name} has not been fetched yet; run: spvnas zoo fetch {card.name}")
    return cached
