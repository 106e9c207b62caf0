"""Applies augmentations one after another, as a plain config lists them, to scans with labels or with boxes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from spvnas_ros.offline.augment.boxed_objects import Database, build_database, lowest, sample_objects
from spvnas_ros.offline.augment.boxed_scene import AnyScan, counted
from spvnas_ros.offline.augment.option_checks import AugmentationError, mapping, number
from spvnas_ros.offline.augment.registry import BOXED, LABELLED, Boxes, Known
from spvnas_ros.offline.datasets.boxed import BoxedScan
from spvnas_ros.offline.datasets.scan import LabelledScan
from spvnas_ros.recordings.object_tables import Objects

STEPS: Final = tuple(LABELLED)
"""Names that a config may use, besides `one_of`."""

BOXED_STEPS: Final = tuple(BOXED)
"""Names that a config for scans with boxes may use, besides `one_of`."""

_ONE_OF, _PROBABILITY, _LEAST = "one_of", "probability", "min_points"


@dataclass(frozen=True)
class _Step:
    """An augmentation with its options."""

    known: Known
    options: Mapping[str, Any]
    apply: Callable[..., Any]
    probability: float

    @property
    def name(self) -> str:
        return self.known.name

    def __call__(
        self, scan: AnyScan, rng: np.random.Generator, partner: Callable[[], AnyScan] | None, database: Database | None
    ) -> AnyScan:
        arguments: list[Any] = [scan, rng]
        if self.known.boxes is Boxes.MIXED:
            assert partner is not None
            arguments.insert(1, partner())
        if self.known.boxes is Boxes.ADDED:
            arguments.append(database)
        changed: AnyScan = self.apply(*arguments)
        return changed


_Groups = tuple[tuple[_Step, ...], ...]


@dataclass(frozen=True)
class Augmentation:
    """Steps in order. At most one step of each group is applied, with the probabilities of the steps.

    A step whose result would have no points is not applied.
    """

    groups: _Groups = ()

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> Augmentation:
        """Builds the augmentation that a config describes, in the config's order; None gives one without steps.

        config: name of a function of this package -> its options by name (None for its defaults) and `probability`,
                with which it is applied (1). `one_of` -> several of them, of which at most one is applied

        Example: `{"one_of": {"lasermix": {"probability": 0.5}, "polarmix": {"probability": 0.5}}, "rotate": None,
        "scale": {"factor": [0.95, 1.05]}}`, the recipe of mmdetection3d's best SPVCNN.

        Raises AugmentationError, which gives the name, for an unknown augmentation or option and for a wrong value.
        """
        return cls(_groups(config, boxed=False))

    def __call__(
        self, scan: LabelledScan, rng: np.random.Generator, partner: Callable[[], LabelledScan]
    ) -> LabelledScan:
        """Returns the augmented scan. Each mixing step that is applied calls `partner` once."""
        return _applied(self.groups, scan, rng, partner, None)[0]


@dataclass(frozen=True)
class BoxedAugmentation:
    """Steps on scans with boxes, in order; groups and steps without a result as in `Augmentation`.

    least: a database of objects with so many points is needed; None where none is
    kinds: of the objects that are wanted from it
    """

    groups: _Groups = ()
    least: int | None = None
    kinds: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> BoxedAugmentation:
        """Builds the augmentation that a config describes, in the config's order; see `Augmentation.from_config`.

        Example: `{"sample_objects": {"counts": {"Car": 15}}, "flip": None, "rotate": {"degrees": [-45, 45]}}`

        Raises AugmentationError, which gives the name, for an unknown augmentation or option and for a wrong value.
        """
        groups, least, kinds = _groups(config, boxed=True), None, ()
        for step in (step for group in groups for step in group):
            if step.known.boxes is Boxes.ADDED:
                fewest = lowest(step.options.get(_LEAST, _parameters(step.known)[_LEAST].default))
                least = fewest if least is None else min(least, fewest)
                kinds += tuple(kind for kind, count in step.options["counts"].items() if count and kind not in kinds)
        return cls(groups, least, kinds)

    @property
    def mixes(self) -> bool:
        """Whether a partner may be needed."""
        return any(step.known.boxes is Boxes.MIXED for group in self.groups for step in group)

    def __call__(
        self,
        scan: BoxedScan,
        rng: np.random.Generator,
        database: Database | None = None,
        partner: Callable[[], BoxedScan] | None = None,
    ) -> BoxedScan:
        """Returns the augmented scan, the points in its boxes counted again where they may be others.

        partner: draws another scan; each mixing step that is applied calls it once

        Raises ValueError where a database or a partner is needed and there is none.
        """
        if self.least is not None and database is None:
            raise ValueError(f"{sample_objects.__name__} needs a database of objects")
        if self.mixes and partner is None:
            raise ValueError("mixing needs a partner, another scan")
        changed, applied = _applied(self.groups, scan, rng, partner, database)
        return counted(changed) if applied & {Boxes.COUNTED, Boxes.MIXED} else changed


def _applied(
    groups: _Groups,
    scan: AnyScan,
    rng: np.random.Generator,
    partner: Callable[[], AnyScan] | None,
    database: Database | None,
) -> tuple[AnyScan, set[Boxes]]:
    """Returns the changed scan, and what the steps that were applied do to boxes."""
    applied = set[Boxes]()
    for group in groups:
        chance = rng.random()
        for step in group:
            chance -= step.probability
            if chance < 0:
                changed = step(scan, rng, partner, database)
                if len(changed):
                    scan = changed
                    applied.add(step.known.boxes)
                break
    return scan, applied


def _groups(config: Mapping[str, Any] | None, *, boxed: bool) -> _Groups:
    groups: list[tuple[_Step, ...]] = []
    for name, options in mapping("augmentation", config).items():
        if name != _ONE_OF:
            groups.append((_build(name, options, boxed=boxed),))
            continue
        group = tuple(_build(inner, given, boxed=boxed) for inner, given in mapping(name, options).items())
        if math.fsum(step.probability for step in group) > 1 + 1e-9:
            raise AugmentationError(
                f"the probabilities in {_ONE_OF} ({', '.join(step.name for step in group)}) add up to more than 1"
            )
        groups.append(group)
    return tuple(groups)


def _build(name: str, options: Any, *, boxed: bool) -> _Step:
    known = _find(name, boxed=boxed)
    given = dict(mapping(name, options))
    probability = number(f"{_PROBABILITY} of {name}", given.pop(_PROBABILITY, 1.0), most=1)
    parameters = _parameters(known)
    if unknown := sorted(set(map(str, given)) - set(parameters)):
        raise AugmentationError(
            f"{name} has no option {', '.join(unknown)}; expected {', '.join([*parameters, _PROBABILITY])}"
        )
    if missing := [key for key, p in parameters.items() if p.default is p.empty and key not in given]:
        raise AugmentationError(f"{name} needs the option {', '.join(missing)}")
    filled = {**known.defaults, **given} if boxed else given
    step = _Step(known, filled, partial(known.function, **filled), probability)
    try:
        # Each function checks its own options. A run on a scan of one point finds errors before training starts.
        if known.boxes is Boxes.ADDED:
            lowest(filled.get(_LEAST, parameters[_LEAST].default))
        if boxed:
            step(_BOXED_TRIAL, np.random.default_rng(0), lambda: _BOXED_TRIAL, _DATABASE)
        else:
            step(_TRIAL, np.random.default_rng(0), lambda: _TRIAL, None)
    except AugmentationError as error:
        raise AugmentationError(f"{name}: {error}") from error
    return step


def _find(name: str, *, boxed: bool) -> Known:
    if name in (there := BOXED if boxed else LABELLED):
        return there[name]
    expected = f"expected one of {', '.join(there)}, {_ONE_OF}"
    if name in BOXED:
        raise AugmentationError(f"augmentation {name!r} is for scans with boxes, these have labels alone; {expected}")
    of = " for scans with boxes" if boxed else ""
    raise AugmentationError(f"augmentation {name!r} is not known{of}, {expected}")


def _parameters(known: Known) -> dict[str, inspect.Parameter]:
    """Returns the options of an augmentation."""
    return {key: p for key, p in inspect.signature(known.function).parameters.items() if p.kind is p.KEYWORD_ONLY}


_TRIAL: Final = LabelledScan("trial", np.ones((1, 4), np.float32), np.zeros(1, np.uint8), np.zeros(1, np.uint16))
_BOXED_TRIAL: Final = BoxedScan(
    "trial",
    np.ones((1, 4), np.float32),
    Objects(("any",), np.ones((1, 7), np.float32), np.ones(1, np.int64), np.zeros(1, np.int64)),
    np.zeros(1, np.uint8),
)
_DATABASE: Final = build_database([_BOXED_TRIAL])
