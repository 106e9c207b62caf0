"""Published models as data: their addresses, their kinds, their scores, and the terms of their use."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from spvnas_ros.errors import UserError


class UnknownModel(UserError):
    """The error for a name that is not in the zoo."""


@dataclass(frozen=True)
class Card:
    """A published model.

    name:          its name for `spvnas zoo fetch`
    upstream:      the name that its authors use
    project:       the project that published it
    kind:          "minkunet", "spvcnn" or "spvnas"
    urls:          the weights, on one host or on several that hold the same file
    sha256_prefix: first hex digits of the weights' sha256 where the authors publish them, else ""
    config:        file name of the network description beside the weights, "" where there is none
    parameters:    number of trainable parameters: exact, or the authors' figure with one decimal of a million
    gmacs:         billions of multiply-accumulates a scan, as the SPVNAS paper counts them for this architecture
    miou:          mean intersection over union on SemanticKITTI's sequence 08, percent, as published
    label_map:     the raw-label map that score was measured with; scores of different maps cannot be compared
    licence:       terms of the weights themselves; `DATA_TERMS` holds for all of them
    """

    name: str
    upstream: str
    project: str
    kind: str
    urls: tuple[str, ...]
    sha256_prefix: str
    config: str
    parameters: int
    gmacs: float
    miou: float
    label_map: str
    licence: str

    @property
    def file_name(self) -> str:
        """The name of the weights' file."""
        return self.urls[0].rsplit("/", 1)[-1]


DATA_TERMS = "trained on SemanticKITTI (CC BY-NC-SA), for non-commercial use"
"""The terms of the training data, which hold for everybody who uses one of these models."""

# The first host has been unreachable for long stretches. The authors then pointed to the second (issues 114, 115).
_MIT_HOSTS = ("https://hanlab.mit.edu", "https://hanlab18.mit.edu")


def _mit(name: str, model: str, folder: str, parameters: int, gmacs: float, miou: float) -> Card:
    upstream = f"SemanticKITTI_val_{model}"
    return Card(
        name=name,
        upstream=upstream,
        project="mit-han-lab/spvnas",
        kind=folder.removesuffix("_specialized"),
        urls=tuple(f"{host}/files/SPVNAS/{folder}/{upstream}/init" for host in _MIT_HOSTS),
        sha256_prefix="",
        config="net.config" if folder == "spvnas_specialized" else "",
        parameters=parameters,
        gmacs=gmacs,
        miou=miou,
        label_map="mit-han-lab",
        licence="MIT",
    )


def _mmdet3d(name: str, upstream: str, path: str, parameters: int, gmacs: float, miou: float) -> Card:
    return Card(
        name=name,
        upstream=upstream,
        project="open-mmlab/mmdetection3d",
        kind="spvcnn",
        urls=(f"https://download.openmmlab.com/mmdetection3d/v1.1.0_models/spvcnn/{path}.pth",),
        sha256_prefix=path.rsplit("-", 1)[-1],
        config="",
        parameters=parameters,
        gmacs=gmacs,
        miou=miou,
        label_map="semantic-kitti",
        licence="Apache-2.0",
    )


_W16, _W20, _W32 = 5_449_267, 8_793_617, 21_778_003

CARDS: tuple[Card, ...] = (
    _mit("minkunet-29g", "MinkUNet@29GMACs", "minkunet", 5_435_235, 28.5, 58.9),
    _mit("minkunet-46g", "MinkUNet@46GMACs", "minkunet", 8_771_298, 45.9, 60.3),
    _mit("minkunet-114g", "MinkUNet@114GMACs", "minkunet", 21_723_315, 113.9, 61.1),
    _mit("spvcnn-30g", "SPVCNN@30GMACs", "spvcnn", _W16, 30.0, 60.7),
    _mit("spvcnn-47g", "SPVCNN@47GMACs", "spvcnn", _W20, 47.4, 61.4),
    _mit("spvcnn-119g", "SPVCNN@119GMACs", "spvcnn", _W32, 118.6, 63.8),
    _mit("spvnas-20g", "SPVNAS@20GMACs", "spvnas_specialized", 3_300_000, 20.0, 61.5),
    _mit("spvnas-25g", "SPVNAS@25GMACs", "spvnas_specialized", 4_500_000, 24.6, 62.9),
    _mit("spvnas-35g", "SPVNAS@35GMACs", "spvnas_specialized", 7_000_000, 34.7, 63.5),
    _mit("spvnas-65g", "SPVNAS@65GMACs", "spvnas_specialized", 10_788_891, 64.5, 64.7),
    _mmdet3d(
        "mmdet3d-spvcnn-w16",
        "spvcnn_w16_8xb2-amp-15e_semantickitti",
        "spvcnn_w16_8xb2-15e_semantickitti/spvcnn_w16_8xb2-15e_semantickitti_20230321_011645-a2734d85",
        _W16,
        30.0,
        61.8,
    ),
    _mmdet3d(
        "mmdet3d-spvcnn-w20",
        "spvcnn_w20_8xb2-amp-15e_semantickitti",
        "spvcnn_w20_8xb2-15e_semantickitti/spvcnn_w20_8xb2-15e_semantickitti_20230321_011649-519e7eff",
        _W20,
        47.4,
        62.6,
    ),
    _mmdet3d(
        "mmdet3d-spvcnn-w32",
        "spvcnn_w32_8xb2-amp-15e_semantickitti",
        "spvcnn_w32_8xb2-15e_semantickitti/spvcnn_w32_8xb2-15e_semantickitti_20230308_113324-f7c0c5b4",
        _W32,
        118.6,
        64.3,
    ),
    _mmdet3d(
        "mmdet3d-spvcnn-w32-mix",
        "spvcnn_w32_8xb2-amp-laser-polar-mix-3x_semantickitti",
        "spvcnn_w32_8xb2-amp-laser-polar-mix-3x_semantickitti_20230425_125908-d68a68b7",
        _W32,
        118.6,
        68.7,
    ),
)
"""Ten models of mit-han-lab's `model_zoo.py`, and the four of mmdetection3d's `configs/spvcnn`."""


@dataclass(frozen=True)
class DetectorCard:
    """A published detector of boxes. Fields that are not here are those of `Card`.

    kind:       the convention of its `DetectorSpec`
    classes:    number of classes
    urls:       none where the authors' host hands its files to browsers only
    page:       where people find the file
    file_name:  name of the weights' file
    parameters: number of trainable parameters
    ap:         3D average precision on KITTI's validation frames, moderate, 11 recall positions, percent, as published:
                by class, or "mean" of all
    licence:    terms of the weights themselves; `DETECTOR_DATA_TERMS` holds for all of them
    """

    name: str
    upstream: str
    project: str
    kind: str
    classes: int
    urls: tuple[str, ...]
    page: str
    file_name: str
    sha256_prefix: str
    parameters: int
    ap: Mapping[str, float]
    licence: str
    config: str = ""


DETECTOR_DATA_TERMS = "trained on KITTI (CC BY-NC-SA), for non-commercial use"
"""The terms of the training data of published detectors."""


def _mmdet3d_second(name: str, kind: str, sha256_prefix: str, classes: int, parameters: int, ap: float) -> DetectorCard:
    upstream = f"second_hv_secfpn_8xb6-80e_kitti-3d-{kind}"
    file_name = f"{upstream}-{sha256_prefix}.pth"
    return DetectorCard(
        name=name,
        upstream=upstream,
        project="open-mmlab/mmdetection3d",
        kind="mmdet3d",
        classes=classes,
        urls=(f"https://download.openmmlab.com/mmdetection3d/v1.1.0_models/second/{upstream}/{file_name}",),
        page="https://github.com/open-mmlab/mmdetection3d/tree/v1.4.0/configs/second",
        file_name=file_name,
        sha256_prefix=sha256_prefix,
        parameters=parameters,
        ap=MappingProxyType({"Car" if classes == 1 else "mean": ap}),
        licence="Apache-2.0",
    )


DETECTOR_CARDS: tuple[DetectorCard, ...] = (
    DetectorCard(
        name="openpcdet-second",
        upstream="second_7862",
        project="open-mmlab/OpenPCDet",
        kind="openpcdet",
        classes=3,
        urls=(),
        page="https://drive.google.com/file/d/1-01zsPOsqanZQqIIyy7FpNXStL3y4jdR/view",
        file_name="second_7862.pth",
        sha256_prefix="",
        parameters=5_325_576,
        ap=MappingProxyType({"Car": 78.62, "Pedestrian": 52.98, "Cyclist": 67.15}),
        licence="Apache-2.0",
    ),
    _mmdet3d_second("mmdet3d-second", "3class", "b086d0a3", 3, 5_325_576, 65.3),
    _mmdet3d_second("mmdet3d-second-car", "car", "75d9305e", 1, 5_298_900, 78.2),
)
"""SECOND of OpenPCDet and of mmdetection3d. Models of before 2022, whose boxes have another frame, are not here."""


def find_card(name: str) -> Card | DetectorCard:
    """Returns the card of this name, which is our name or its authors' name.

    Raises UnknownModel with the names that come close.
    """
    everything: tuple[Card | DetectorCard, ...] = (*CARDS, *DETECTOR_CARDS)
    for card in everything:
        if name.lower() in (card.name, card.upstream.lower()):
            return card
    close = difflib.get_close_matches(name.lower(), [card.name for card in everything], n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise UnknownModel(f"the zoo has no model {name!r}{hint} (`spvnas zoo list` shows them all)")


def card_of_sha256(sha256: str) -> Card | None:
    """Returns the card whose file has this hash, None where no author published it."""
    return next((card for card in CARDS if card.sha256_prefix and sha256.startswith(card.sha256_prefix)), None)


def detector_card_of_sha256(sha256: str) -> DetectorCard | None:
    """Returns the detector's card whose file has this hash, None where no author published it."""
    return next((card for card in DETECTOR_CARDS if card.sha256_prefix and sha256.startswith(card.sha256_prefix)), None)
