"""Applies augmentations one after another, as a plain config lists them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from spvnas_ros.offline.augment.geometric import flip, jitter, rotate, scale, shift
from spvnas_ros.offline.augment.mixing import lasermix, polarmix
from spvnas_ros.offline.augment.option_checks import AugmentationError, mapping, number
from spvnas_ros.offline.augment.sensor import (
    beam_drop,
    intensity_drop,
    intensity_gamma,
    intensity_noise,
    intensity_scale,
    point_drop,
    range_crop,
)
from spvnas_ros.offline.datasets.scan import LabelledScan

Partner = Callable[[], LabelledScan]
"""A function that draws another scan of the data set."""

_SINGLE = (
    *(rotate, scale, flip, shift, jitter, beam_drop, point_drop, range_crop),
    *(intensity_scale, intensity_gamma, intensity_noise, intensity_drop),
)
_MIXING = (lasermix, polarmix)
_FUNCTIONS: Final[Mapping[str, Callable[..., LabelledScan]]] = {f.__name__: f for f in (*_SINGLE, *_MIXING)}

STEPS: Final = tuple(_FUNCTIONS)
"""Names that a config may use, besides `one_of`."""

_ONE_OF, _PROBABILITY = "one_of", "probability"


@dataclass(frozen=True)
class _Step:
    """An augmentation with its options; `mixes` is true where it also takes a partner scan."""

    name: str
    apply: Callable[..., LabelledScan]
    probability: float
    mixes: bool

    def __call__(self, scan: LabelledScan, rng: np.random.Generator, partner: Partner) -> LabelledScan:
        return self.apply(scan, partner(), rng) if self.mixes else self.apply(scan, rng)


@dataclass(frozen=True)
class Augmentation:
    """Steps in order. At most one step of each group is applied, with the probabilities of the steps.

    A step whose result would have no points is not applied.
    """

    groups: tuple[tuple[_Step, ...], ...] = ()

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> Augmentation:
        """Builds the augmentation that a config describes, in the config's order; None gives one without steps.

        config: name of a function of this package -> its options by name (None for its defaults) and `probability`,
                with which it is applied (1). `one_of` -> several of them, of which at most one is applied

        Example: `{"one_of": {"lasermix": {"probability": 0.5}, "polarmix": {"probability": 0.5}}, "rotate": None,
        "scale": {"factor": [0.95, 1.05]}}`, the recipe of mmdetection3d's best SPVCNN.

        Raises AugmentationError, which gives the name, for an unknown augmentation or option and for a wrong value.
        """
        groups: list[tuple[_Step, ...]] = []
        for name, options in mapping("augmentation", config).items():
            if name != _ONE_OF:
                groups.append((_build(name, options),))
                continue
            group = tuple(_build(inner, inner_options) for inner, inner_options in mapping(name, options).items())
            if math.fsum(step.probability for step in group) > 1 + 1e-9:
                raise AugmentationError(
                    f"the probabilities in {_ONE_OF} ({', '.join(step.name for step in group)}) add up to more than 1"
                )
            groups.append(group)
        return cls(tuple(groups))

    def __call__(self, scan: LabelledScan, rng: np.random.Generator, partner: Partner) -> LabelledScan:
        """Returns the augmented scan. Each mixing step that is applied calls `partner` once."""
        for group in self.groups:
            chance = rng.random()
            for step in group:
                chance -= step.probability
                if chance < 0:
                    changed = step(scan, rng, partner)
                    scan = changed if len(changed) else scan
                    break
        return scan


def _build(name: str, options: Any) -> _Step:
    if name not in _FUNCTIONS:
        raise AugmentationError(f"augmentation {name!r} is not known, expected one of {', '.join(STEPS)}, {_ONE_OF}")
    function, given = _FUNCTIONS[name], dict(mapping(name, options))
    probability = number(f"{_PROBABILITY} of {name}", given.pop(_PROBABILITY, 1.0), most=1)
    known = [key for key, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY]
    if unknown := sorted(set(map(str, given)) - set(known)):
        raise AugmentationError(
            f"{name} has no option {', '.join(unknown)}; expected {', '.join([*known, _PROBABILITY])}"
        )
    step = _Step(name, partial(function, **given), probability, function in _MIXING)
    try:
        # Each function checks its own options. A run on a scan of one point finds errors before training starts.
        step(_TRIAL, np.random.default_rng(0), lambda: _TRIAL)
    except AugmentationError as error:
        raise AugmentationError(f"{name}: {error}") from error
    return step


_TRIAL: Final = LabelledScan("trial", np.ones((1, 4), np.float32), np.zeros(1, np.uint8), np.zeros(1, np.uint16))
