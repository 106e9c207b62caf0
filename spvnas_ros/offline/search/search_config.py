"""Reads the recipes of searches: YAML into frozen dataclasses, with every key known, as those of trainings are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from spvnas_ros.offline.training.config import AtLeastOne, ConfigError, Count, Names, Sequences, Share, SimulateConfig
from spvnas_ros.offline.training.recipe_files import read_settings

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=_STRICT)
class SupernetConfig:
    """The supernet whose subnets are the candidates: a checkpoint, or a recipe by which one is trained.

    checkpoint: a supernet's file
    recipe:     of a training, as seen from this recipe's folder or from the current one. It runs where `folder` holds
                no finished one, on the data of the search, see `DataSplit`
    folder:     of that training; "" = runs/train/NAME
    changes:    `key=value` for that recipe
    """

    checkpoint: str = ""
    recipe: str = ""
    folder: str = ""
    changes: Names = ()


@dataclass(frozen=True, config=_STRICT)
class DataSplit:
    """The training drives, and which of them candidates are scored on. Drives for validation have no place here.

    simulate: simulated drives; those for training are joined to `train`. Its `validation_scenes` go to the supernet's
              training alone
    train:    folders in SemanticKITTI's layout
    learn:    sequences that the supernet is trained on, and its subnets' BatchNorm statistics are estimated on
    score:    other sequences of the same folders, which the supernet never saw
    label_map: as in the recipes of trainings; "" = that of the supernet
    score_scans: of `score`, evenly spread; 0 = all
    statistics_batches, statistics_scans: batches for the statistics, and scans in each
    max_voxels: kept of each scan for the statistics; 0 = all
    """

    simulate: SimulateConfig = SimulateConfig()
    train: Names = ()
    learn: Sequences = ()
    score: Sequences = ()
    label_map: str = ""
    score_scans: Count = 0
    statistics_batches: AtLeastOne = 8
    statistics_scans: AtLeastOne = 2
    max_voxels: Count = 80_000


@dataclass(frozen=True, config=_STRICT)
class Limit:
    """What a network may cost at most, on a scan of `DataSplit.score`; 0 = no such limit.

    macs:         multiply-accumulates, the mean of a few scans
    parameters:   trainable ones
    milliseconds: predicted from layers measured on this machine, see `TimingConfig`
    """

    macs: _NotNegative = 0.0
    parameters: _NotNegative = 0.0
    milliseconds: _NotNegative = 0.0

    def words(self) -> str:
        """Returns the limit for people."""
        parts = [f"{self.macs / 1e9:.3g} GMACs"] if self.macs else []
        parts += [f"{self.parameters / 1e6:.3g} M parameters"] if self.parameters else []
        parts += [f"{self.milliseconds:.3g} ms"] if self.milliseconds else []
        return ", ".join(parts) or "no limit"


@dataclass(frozen=True, config=_STRICT)
class TimingConfig:
    """How layers are measured where milliseconds are limited.

    device:  "cpu", or "cuda" where there is one (measured by whole frames, not yet tried on a GPU)
    threads: of the CPU engine
    precision: of the CPU engine, "auto" being what a node takes; a CUDA engine has "auto" and "fp32"
    probes:  networks of the space that are measured; repeats: see `Stopwatch`
    """

    device: Literal["cpu", "cuda"] = "cpu"
    threads: AtLeastOne = 1
    precision: Literal["auto", "int16", "fp32"] = "auto"
    probes: Annotated[int, Field(ge=6)] = 16
    repeats: AtLeastOne = 5


@dataclass(frozen=True, config=_STRICT)
class StrategyConfig:
    """What is tried: `population` networks in each of `generations`, for each limit.

    kind:      "evolution", or "random", which draws as many networks as that would try
    parents:   the best networks so far, from which the next generation comes; all, while there are fewer
    mutated:   share of a generation that is changed from one parent; the others are crossed of two
    rate:      probability that a mutation changes a gene
    """

    kind: Literal["evolution", "random"] = "evolution"
    population: AtLeastOne = 50
    generations: AtLeastOne = 20
    parents: AtLeastOne = 12
    mutated: Share = 0.5
    rate: Share = 0.1


@dataclass(frozen=True, config=_STRICT)
class SearchRecipe:
    """The settings of a whole search.

    limits: for each, a network is searched; all that was tried makes one Pareto front
    """

    name: str
    seed: Count = 0
    supernet: SupernetConfig = SupernetConfig()
    data: DataSplit = DataSplit()
    limits: Annotated[tuple[Limit, ...], Field(min_length=1)] = (Limit(),)
    timing: TimingConfig = TimingConfig()
    strategy: StrategyConfig = StrategyConfig()

    def document(self) -> dict[str, Any]:
        """Returns all values as plain data for YAML."""
        document: dict[str, Any] = TypeAdapter(SearchRecipe).dump_python(self, mode="json")
        return document

    @property
    def timed(self) -> bool:
        """Whether milliseconds are limited."""
        return any(limit.milliseconds for limit in self.limits)


def load_search(path: Path, overrides: Sequence[str] = ()) -> SearchRecipe:
    """Reads the recipe of a search. Raises ConfigError, which names every wrong key, and OSError where there is none.

    overrides: `key=value` with dots in the key; the value as in YAML
    """
    recipe = read_settings(SearchRecipe, path, overrides)
    if bool(recipe.supernet.checkpoint) == bool(recipe.supernet.recipe):
        raise ConfigError(f"{path}: supernet has either a checkpoint or a recipe by which it is trained")
    if not (recipe.data.train or recipe.data.simulate.scenes):
        raise ConfigError(f"{path} names no drives; add data.train=FOLDER or data.simulate")
    if not (recipe.data.learn and recipe.data.score):
        raise ConfigError(
            f"{path}: candidates are scored on training drives that the supernet has not seen; name sequences for "
            "both, such as data.learn=00-23 data.score=24-29"
        )
    if len(set(recipe.limits)) < len(recipe.limits):
        raise ConfigError(f"{path} names a limit twice: {'; '.join(limit.words() for limit in recipe.limits)}")
    if recipe.supernet.checkpoint and (recipe.supernet.folder or recipe.supernet.changes):
        raise ConfigError(
            f"{path}: supernet.folder and supernet.changes are of a supernet that is trained by supernet.recipe, and "
            "supernet.checkpoint names one; leave them out"
        )
    strategy = recipe.strategy
    tried = strategy.population * (strategy.generations - 1)
    if strategy.kind == "evolution" and 0 < tried < strategy.parents:
        raise ConfigError(
            f"{path}: strategy.parents is {strategy.parents}, but before the last generation only {tried} networks "
            "have been tried, so that the worst would be parents like the best; lower it, or raise "
            "strategy.population or strategy.generations"
        )
    return recipe
