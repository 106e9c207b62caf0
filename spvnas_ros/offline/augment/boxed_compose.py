"""Applies augmentations of scans with boxes one after another, as a plain config lists them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np

from spvnas_ros.offline.augment.boxed_objects import Database, build_database, lowest, object_noise, sample_objects
from spvnas_ros.offline.augment.boxed_scene import flip, rotate, scale
from spvnas_ros.offline.augment.option_checks import AugmentationError, mapping, number
from spvnas_ros.offline.datasets.boxed import BoxedScan
from spvnas_ros.recordings.object_tables import Objects

_FUNCTIONS: Final[Mapping[str, Callable[..., BoxedScan]]] = {
    f.__name__: f for f in (sample_objects, object_noise, rotate, scale, flip)
}
BOXED_STEPS: Final = tuple(_FUNCTIONS)
"""Names that a config may use."""

_PROBABILITY, _SAMPLES, _LEAST = "probability", sample_objects.__name__, "min_points"


@dataclass(frozen=True)
class _Step:
    name: str
    apply: Callable[..., BoxedScan]
    probability: float


@dataclass(frozen=True)
class BoxedAugmentation:
    """Steps in order.

    least: a database of objects with so many points is needed; None where none is
    kinds: of the objects that are wanted from it
    """

    steps: tuple[_Step, ...] = ()
    least: int | None = None
    kinds: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> BoxedAugmentation:
        """Builds the augmentation that a config describes, in the config's order.

        config: name of one of `BOXED_STEPS` -> its options by name (None for its defaults) and `probability`, with
                which it is applied (1)

        Example: `{"sample_objects": {"counts": {"Car": 15}}, "flip": None, "rotate": {"degrees": [-45, 45]}}`

        Raises AugmentationError, which gives the name, for an unknown augmentation or option and for a wrong value.
        """
        steps, least, kinds = [], None, ()
        for name, options in mapping("augmentation", config).items():
            steps.append(_build(name, options))
            if name == _SAMPLES:
                default = inspect.signature(sample_objects).parameters[_LEAST].default
                least = lowest(mapping(name, options).get(_LEAST, default))
                kinds = tuple(kind for kind, count in mapping(name, options)["counts"].items() if count)
        return cls(tuple(steps), least, kinds)

    def __call__(self, scan: BoxedScan, rng: np.random.Generator, database: Database | None = None) -> BoxedScan:
        """Returns the augmented scan. Raises ValueError where a database is needed and there is none."""
        if self.least is not None and database is None:
            raise ValueError(f"{_SAMPLES} needs a database of objects")
        for step in self.steps:
            if rng.random() < step.probability:
                scan = step.apply(scan, rng, database) if step.name == _SAMPLES else step.apply(scan, rng)
        return scan


def _build(name: str, options: Any) -> _Step:
    if name not in _FUNCTIONS:
        raise AugmentationError(
            f"augmentation {name!r} is not known for scans with boxes, expected one of {', '.join(BOXED_STEPS)}"
        )
    function, given = _FUNCTIONS[name], dict(mapping(name, options))
    probability = number(f"{_PROBABILITY} of {name}", given.pop(_PROBABILITY, 1.0), most=1)
    known = {key: p for key, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}
    if unknown := sorted(set(map(str, given)) - set(known)):
        raise AugmentationError(
            f"{name} has no option {', '.join(unknown)}; expected {', '.join([*known, _PROBABILITY])}"
        )
    if missing := [key for key, p in known.items() if p.default is p.empty and key not in given]:
        raise AugmentationError(f"{name} needs the option {', '.join(missing)}")
    step = _Step(name, partial(function, **given), probability)
    try:
        # Each function checks its own options. A run on a scan of one point finds errors before training starts.
        if name == _SAMPLES:
            lowest(given.get(_LEAST, known[_LEAST].default))
        always = BoxedAugmentation((replace(step, probability=1.0),))
        always(_TRIAL, np.random.default_rng(0), _DATABASE)
    except AugmentationError as error:
        raise AugmentationError(f"{name}: {error}") from error
    return step


_TRIAL: Final = BoxedScan(
    "trial",
    np.ones((1, 4), np.float32),
    Objects(("any",), np.ones((1, 7), np.float32), np.ones(1, np.int64), np.zeros(1, np.int64)),
)
_DATABASE: Final = build_database([_TRIAL])
