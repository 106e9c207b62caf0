"""The fetching of published models: download, check, conversion to the project's own format, and the cache."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spvnas_ros.recordings.files import sha256_of
from spvnas_ros.zoo.cache import FetchError, cached_path
from spvnas_ros.zoo.cards import Card, DetectorCard
from spvnas_ros.zoo.checkpoint import CheckpointError, save_checkpoint
from spvnas_ros.zoo.detector_checkpoint import save_detector
from spvnas_ros.zoo.download import Progress, download, forget
from spvnas_ros.zoo.importers.detectors import import_detector
from spvnas_ros.zoo.importers.projects import import_checkpoint


def fetch(card: Card | DetectorCard, folder: Path, *, url: str | None = None, progress: Progress | None = None) -> Path:
    """Downloads a published model, checks it, converts it and puts it into the cache. Returns its path there.

    folder:   the cache folder; made if it is not there
    url:      another address of the weights; the network description, if the model has one, is looked for beside it
    progress: called as the download of the weights proceeds

    A model that is in the cache is not fetched again, unless `url` is given. Processes that fetch the same model at
    once take turns. Raises FetchError or CheckpointError; the cache is then unchanged.
    """
    target = cached_path(card, folder)
    with _writing(card, folder) as downloads:
        if url is None and target.is_file():
            return target
        if url is None and not card.urls:
            raise FetchError(_by_hand(card))
        weights, config = (downloads / f"{card.name}.{name}.part" for name in ("weights", "config"))
        origin = _from_any(card, (url,) if url else card.urls, weights, config, progress)
        try:
            _install(card, weights, config if card.config else None, target, origin)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; what was downloaded has been removed") from error
        finally:
            # The files are whole from here on. Where they are not the model, a later call must not continue them.
            forget(weights)
            forget(config)
    return target


def adopt(card: Card | DetectorCard, folder: Path, source: Path, *, config: Path | None = None) -> Path:
    """Puts a file that the user brings into the cache as the published model it is. Returns its path there.

    source: the weights as their authors published them, or a folder that holds them and their network description
    config: the network description of an SPVNAS model (`net.config`)

    Raises FetchError for a file with another hash than the card's, CheckpointError for one that is not the model.
    """
    if source.is_dir():
        config = config or next(iter(source.glob(card.config)), None) if card.config else config
        source = source / card.file_name
    target = cached_path(card, folder)
    with _writing(card, folder):
        _install(card, source, config, target, str(source))
    return target


def _by_hand(card: Card | DetectorCard) -> str:
    page = card.page if isinstance(card, DetectorCard) else ""
    return (
        f"{card.file_name} of {card.project} lies where only a browser gets it: {page}\n"
        f"Save it, then: spvnas zoo fetch {card.name} --from {card.file_name}"
    )


def _from_any(
    card: Card | DetectorCard, urls: tuple[str, ...], weights: Path, config: Path, progress: Progress | None
) -> str:
    """Downloads from the first address that works, and returns it."""
    failures = []
    for url in urls:
        try:
            if card.config:
                download(f"{url.rsplit('/', 1)[0]}/{card.config}", config)
            download(url, weights, progress)
            return url
        except FetchError as error:
            failures.append(str(error))
    places = "\n  ".join(failures)
    raise FetchError(
        f"{card.name} cannot be fetched:\n  {places}\n"
        f"If you have the file from elsewhere: spvnas zoo fetch {card.name} --from FILE"
    )


def _install(card: Card | DetectorCard, weights: Path, config: Path | None, target: Path, origin: str) -> None:
    try:
        found = sha256_of(weights)
    except OSError as error:
        raise FetchError(f"cannot read {weights}: {error.strerror or error}") from error
    if not found.startswith(card.sha256_prefix):
        raise FetchError(
            f"{origin} is not the published {card.name}: its sha256 begins with {found[:8]}, expected "
            f"{card.sha256_prefix}. It is damaged or another file. Get it from {next(iter(card.urls), '')} and pass it "
            "with --from; "
            "or, if you trust it, convert it as what it is with `spvnas import`"
        )
    if isinstance(card, DetectorCard):
        save_detector(target, *import_detector(weights, card=card))
    else:
        save_checkpoint(target, *import_checkpoint(weights, config=config, card=card))


@contextmanager
def _writing(card: Card | DetectorCard, folder: Path) -> Iterator[Path]:
    """Yields the folder for unfinished downloads, while no other process works on this model."""
    downloads = folder / "downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        lock = (downloads / f"{card.name}.lock").open("w")
    except OSError as error:
        raise FetchError(
            f"cannot write the cache folder {folder}: {error.strerror or error}; choose another one with --cache or "
            "the environment variable SPVNAS_CACHE"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield downloads
