"""What recipes may say, as frozen dataclasses. Defaults are set only here; `recipe_files` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, TypeAdapter
from pydantic.dataclasses import dataclass

from spvnas_ros.clouds.point_cloud2 import LABEL_FIELD
from spvnas_ros.errors import UserError
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.nets.box_spec import BoxBranchSpec, BoxClass
from spvnas_ros.nets.detector_spec import KITTI_RANGE, DetectorSpec
from spvnas_ros.nets.space import PAPER_HIGHEST, PAPER_LOWEST, Candidate, Space
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.zoo.net_form import form_of, read_form

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
"""Several names, or a single name without a list."""


def _words(value: Any) -> Any:
    items = value if isinstance(value, list | tuple) else [value]
    return [str(each) if isinstance(each, int) and not isinstance(each, bool) else each for each in items]


Sequences = Annotated[tuple[str, ...], BeforeValidator(_words)]
"""Of a folder: numbers, or ranges such as 00-23."""


def _file_or_content(value: Any) -> Any:
    if not isinstance(value, str | dict):
        raise ValueError("a file, or the content of one")
    return value


FileOrContent = Annotated[str | dict[str, Any], PlainValidator(_file_or_content)]

_WIDTH, VOXEL_SIZE, _IN_CHANNELS = 16, 0.05, 4


class ConfigError(UserError):
    """Raised where a recipe cannot be used. The message names the file and every wrong key."""


@dataclass(frozen=True, config=_STRICT)
class NetConfig:
    """The network: a published one, given by `width`, a custom one, given by `widths` and `depths` (see `NetSpec.of`),
    or the one that a file describes, without its weights.

    width:  0 = 16, or that of the recipe's `start`
    like:   the file, see `zoo.net_form.read_form`; a recipe that has been read has its content here, in the form of
            `Candidate.to_dict`. Classes and box branch are the recipe's own, and so are voxels if it says them
    number: of several networks in that file the one that is meant, from 1 on; 0 = the only one
    """

    width: Count = 0
    widths: tuple[AtLeastOne, ...] = ()
    depths: tuple[AtLeastOne, ...] = ()
    point_branch: bool = True
    like: FileOrContent = ""
    number: Count = 0

    def form(self) -> Candidate | None:
        """Returns the network of the file, and the voxels that it is for; None where no file is named.

        Raises SpecError, CheckpointError and FetchError where the file describes none.
        """
        if self.like == "":
            return None
        form = read_form(self.like, self.number) if isinstance(self.like, str) else form_of(self.like)
        if form.spec.in_channels != _IN_CHANNELS:
            raise SpecError(
                f"the network takes {form.spec.in_channels} features of a voxel, and trainings give {_IN_CHANNELS}: "
                "x, y, z and intensity"
            )
        return form

    def spec(self, num_classes: int) -> NetSpec:
        """Returns the network's description. Raises SpecError where no network fits it."""
        if form := self.form():
            return replace(form.spec, num_classes=num_classes, boxes=None)
        if self.widths:
            depths = (self.depths,) if self.depths else ()
            return NetSpec.of(self.widths, *depths, point_branch=self.point_branch, num_classes=num_classes)
        if self.point_branch:
            return NetSpec.spvcnn(self.width or _WIDTH, num_classes=num_classes)
        return NetSpec.minkunet(self.width or _WIDTH, num_classes=num_classes)


@dataclass(frozen=True, config=_STRICT)
class BoxClassConfig:
    """A class of boxes, see `BoxClass`.

    kinds: the data's words for it, beside its name
    """

    name: str
    size: tuple[Positive, Positive, Positive]
    bottom: float
    positive: Share = 0.6
    negative: Share = 0.45
    kinds: Names = ()

    def anchors(self) -> BoxClass:
        """Returns the class and its anchors."""
        return BoxClass(self.name, self.size, self.bottom, self.positive, self.negative)

    @classmethod
    def of(cls, known: BoxClass) -> BoxClassConfig:
        """Returns the config of a class; KITTI's three also have the word that simulated drives use."""
        kinds = (_SIMULATED[known.name],) if known.name in _SIMULATED else ()
        return cls(known.name, known.size, known.bottom, known.positive, known.negative, kinds)


@dataclass(frozen=True, config=_STRICT)
class DetectorConfig:
    """A detector of boxes: SECOND, or SPV-SECOND with `point_branch`. A recipe with one trains it, and no `net`.

    With a `start`, what is left at its default is the start's; see `start.begin` for what must agree.

    convention, width, point_range, voxel_size: see `DetectorSpec.second`
    max_voxels: voxels of a scan while training, and else
    classes:    none = KITTI's three, which simulated drives call car, person and bicyclist
    min_points: objects with fewer points in their box are not learnt, and in validation neither right nor wrong
    norm_momentum: of every BatchNorm: what is published needs thousands of steps to follow, short trainings need more
    """

    convention: Literal["openpcdet", "mmdet3d"] = "openpcdet"
    width: AtLeastOne = 16
    point_branch: bool = False
    point_range: tuple[float, float, float, float, float, float] = KITTI_RANGE
    voxel_size: tuple[Positive, Positive, Positive] = (0.05, 0.05, 0.1)
    max_voxels: tuple[AtLeastOne, AtLeastOne] = (16_000, 40_000)
    classes: tuple[BoxClassConfig, ...] = ()
    min_points: Count = 0
    norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.01

    def spec(self) -> DetectorSpec:
        """Returns the detector's description. Raises SpecError where no network fits it."""
        spec = DetectorSpec.second(
            self.convention,
            self.width,
            point_branch=self.point_branch,
            point_range=self.point_range,
            voxel_size=self.voxel_size,
        )
        head = spec.head
        if self.classes:
            head = replace(head, classes=tuple(each.anchors() for each in self.classes))
        return replace(spec, max_voxels=self.max_voxels, head=head, momentum=self.norm_momentum)

    def classes_of_kinds(self) -> dict[str, int]:
        """Returns the class index of each of the data's words, in lower case."""
        if not self.classes:
            names = enumerate(self.spec().head.names)
            return {word: index for index, name in names for word in (name.lower(), _SIMULATED[name])}
        return _classes_of_kinds(self.classes)


@dataclass(frozen=True, config=_STRICT)
class BoxBranchConfig:
    """A branch for boxes on the network that labels points, see `BoxBranchSpec.around`. Both are learnt at once.

    classes:    with anchors and the data's words, as in `DetectorConfig`
    only:       the branch alone is learnt, and what labels stays that of the recipe's `start`, bit by bit
    start:      the branch begins with that of this network, which learnt behind other features: a .safetensors file or
                `default`; "" = that of the recipe's `start` where it has the same, else random weights
    min_points: objects with fewer points in their box are not learnt, and in validation neither right nor wrong
    label_weight, box_weight: of the losses of the two tasks; with `only` the first counts for nothing
    norm_momentum: of every BatchNorm of the branch
    """

    classes: Annotated[tuple[BoxClassConfig, ...], Field(min_length=1)]
    width: AtLeastOne = 16
    reach: Positive = 51.2
    bottom: float = -3.2
    top: float = 3.2
    level: Annotated[int, Field(ge=0, le=4)] = 2
    merged: AtLeastOne = 1
    only: bool = False
    start: str = ""
    min_points: Count = 0
    label_weight: Annotated[float, Field(ge=0)] = 1.0
    box_weight: Annotated[float, Field(ge=0)] = 1.0
    norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1

    def spec(self, voxel_size: float) -> BoxBranchSpec:
        """Returns the branch's description for voxels of this edge, metres. Raises SpecError where none fits."""
        return BoxBranchSpec.around(
            voxel_size,
            [each.anchors() for each in self.classes],
            width=self.width,
            reach=self.reach,
            bottom=self.bottom,
            top=self.top,
            level=self.level,
            merged=self.merged,
            momentum=self.norm_momentum,
        )

    def classes_of_kinds(self) -> dict[str, int]:
        """Returns the class index of each of the data's words, in lower case."""
        return _classes_of_kinds(self.classes)


@dataclass(frozen=True, config=_STRICT)
class SupernetConfig:
    """A supernet: the weights of all networks of a design space (`nets.space.Space`), learnt at once. A recipe with one
    has no `net`.

    around:         widths of the stem and the eight stages; the space reaches from `low` to `high` times these, see
                    `Space.around`. None: from `lowest` to `highest`, which are the paper's where they are left out
    ratio, depths, divisor, point_branches, optional_points: as in `Space`; `least` is the divisor
    sampling:       of the networks that learn at a step. "uniform": one, drawn as the paper does. "sandwich": the
                    largest, which learns the labels, and the smallest and `drawn` others, which learn what the largest
                    says of each voxel (in-place distillation: Yu and Huang, "Universally Slimmable Networks", ICCV
                    2019)
    whole_until:    share of the steps in which the largest network alone learns; then its channels are put into the
                    order of their size, and shrinking begins. 0 = it begins at once
    widths_until:   share of the steps until which widths alone vary; then depths do, too (progressive shrinking)
    validated:      drawn networks, always the same, that are validated beside the largest and the smallest
    calibration:    training scans on which BatchNorm statistics are estimated anew before a network is scored
    """

    around: tuple[AtLeastOne, ...] = ()
    low: Positive = 0.5
    high: Positive = 1.5
    lowest: tuple[AtLeastOne, ...] = PAPER_LOWEST
    highest: tuple[AtLeastOne, ...] = PAPER_HIGHEST
    ratio: tuple[Share, Share] = (0.125, 1.0)
    depths: tuple[AtLeastOne, AtLeastOne] = (1, 2)
    divisor: AtLeastOne = 4
    point_branches: tuple[bool, ...] = (True,)
    optional_points: tuple[int, ...] = ()
    sampling: Literal["uniform", "sandwich"] = "uniform"
    drawn: AtLeastOne = 2
    whole_until: Share = 0.0
    widths_until: Share = 0.5
    validated: Count = 3
    calibration: AtLeastOne = 16

    def space(self, num_classes: int, voxel_size: float) -> Space:
        """Returns the design space. Raises SpecError where no network lies in it.

        voxel_size: metres; all networks of a supernet learn with the same voxels
        """
        shared: dict[str, Any] = {
            "ratio": self.ratio,
            "depths": self.depths,
            "divisor": self.divisor,
            "least": self.divisor,
            "num_classes": num_classes,
            "voxel_sizes": (voxel_size,),
            "point_branches": self.point_branches,
            "optional_points": self.optional_points,
        }
        if not self.around:
            return Space(self.lowest, self.highest, **shared)
        return Space.around(self.around, self.low, self.high, **shared)


@dataclass(frozen=True, config=_STRICT)
class AdaptConfig:
    """Adapts the recipe's `start` to recordings without labels, beside the labelled scans of `data`; see `AdaptTask`.

    target:    the recordings: whatever `spvnas segment` reads. Labels beside them are not read
    topic:     of the clouds, where a target is a bag with several topics
    intensity, intensity_field, origin, mount: of the targets' sensor, as in `spvnas segment`
    share:     of the teacher's labels of every class, the most confident ones, that the student learns
    memory:    scans by which the thresholds of that are estimated: at first evenly spread ones, then about the last
               ones that the teacher has labelled
    norm:      which voxels BatchNorm takes its statistics from: of a step's scans "together"; of the labelled scans and
               of the others "apart"; or "kept", those of the start
    calibration: labelled scans by which confidences are put right at the end, of the validation or, where there is
               none, of the training; 0 = they stay
    """

    target: Names = ()
    topic: str = ""
    intensity: str = "auto"
    intensity_field: str = ""
    origin: str = ""
    mount: str = ""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    memory: AtLeastOne = 16
    norm: Literal["together", "apart", "kept"] = "together"
    calibration: Count = 16


def _classes_of_kinds(classes: Sequence[BoxClassConfig]) -> dict[str, int]:
    return {word.lower(): index for index, each in enumerate(classes) for word in (each.name, *each.kinds)}


_SIMULATED = {"Car": "car", "Pedestrian": "person", "Cyclist": "bicyclist"}
"""What simulated drives call KITTI's classes."""


@dataclass(frozen=True, config=_STRICT)
class SimulateConfig:
    """The simulated drives. They are made where they do not exist yet; `scenes` 0 = none.

    folder:   folder of the drives, with a subfolder for each sensor
    sensors:  presets of `spvnas simulate`; all of them drive through the same streets
    scenes:   streets for training; `validation_scenes` are other streets, which are never trained on
    scans:    number of scans of each street, `interval` seconds apart
    seed:     of the streets: those for training are made as by `spvnas simulate --seed` 2 x seed, those for validation
              as by 2 x seed + 1
    mount_height, mount_tilt: heights of the sensor above the ground, metres, of which one is drawn for each street, and
              how many degrees it leans at most; () = the sensor's preset
    mount_share: of the streets with such a mount; the others have the preset's
    boxes:    whether the drives have boxes even where this recipe learns none, for another one of the same drives
    """

    folder: str = "data/simulated"
    sensors: Names = ("hdl64",)
    scenes: Count = 0
    validation_scenes: Count = 0
    scans: AtLeastOne = 10
    interval: Positive = 1.0
    seed: Count = 0
    mount_height: tuple[()] | tuple[Positive, Positive] = ()
    mount_tilt: Annotated[float, Field(ge=0)] = 0.0
    mount_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    boxes: bool = False


@dataclass(frozen=True, config=_STRICT)
class DataConfig:
    """The scans for training and for validation.

    train, validation: any source that `spvnas evaluate` takes, in addition to the simulated drives; several sources are
                       joined
    sequences, validation_sequences: of a SemanticKITTI folder; none = all
    label_map:        the map from raw ids to classes; "" = semantic-kitti, or that of the recipe's `start`
    topic, labels_field, label_ids: of sources that are bags: the clouds' topic ("" = the only one), the field with
                      their labels, and the meaning of its numbers ("raw", "class" or "auto", see `LabelField`)
    network_labels:   also learn from labels that a network wrote into a bag
    intensity:        scale of the sources' intensities, as in `spvnas segment`; "" = as `spvnas evaluate` guesses it
    intensity_field:  the field that holds it; "" = a known name
    origin, mount:    where the sensor is, as in `spvnas segment`; "" = at the clouds' origin, as the network knows it
    voxel_size:       metres; 0 = 0.05, or that of the recipe's `start`
    max_voxels:       number of randomly chosen voxels that are kept of a training scan; 0 = all
    validation_scans: number of scans to use, evenly spread; 0 = all
    workers:          processes that read, augment and voxelise; 0 = the training process does it
    """

    train: Names = ()
    sequences: Sequences = ()
    validation: Names = ()
    validation_sequences: Sequences = ()
    label_map: str = ""
    topic: str = ""
    labels_field: str = LABEL_FIELD
    label_ids: Literal["auto", "raw", "class"] = "auto"
    network_labels: bool = False
    intensity: str = ""
    intensity_field: str = ""
    origin: str = ""
    mount: str = ""
    voxel_size: Annotated[float, Field(ge=0)] = 0.0
    max_voxels: Count = 80_000
    validation_scans: Count = 0
    workers: Count = 2
    simulate: SimulateConfig = SimulateConfig()


@dataclass(frozen=True, config=_STRICT)
class OptimiserConfig:
    """The optimiser: SGD with Nesterov momentum ("sgd") or AdamW ("adamw").

    momentum, second_momentum: AdamW's two betas; the second is none of SGD's
    clip: bounds the gradient's norm, 0 = none
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive = 0.24
    momentum: Share = 0.9
    second_momentum: Share = 0.999
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip: Annotated[float, Field(ge=0)] = 0.0


@dataclass(frozen=True, config=_STRICT)
class ScheduleConfig:
    """The learning rate over the steps, see `schedules.rate_factor`; `milestones` are shares of the training.

    rise:         of "one-cycle": the share of the training in which the rate rises
    low_momentum: of "one-cycle": the momentum at the highest rate; it begins and ends with the optimiser's
    """

    kind: Literal["cosine", "steps", "constant", "one-cycle"] = "cosine"
    warmup_steps: Count = 125
    warmup_start: Share = 0.008
    floor: Share = 0.0
    milestones: tuple[Share, ...] = ()
    gamma: Positive = 0.1
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.4
    low_momentum: Share = 0.85

    def never_warm(self, steps: int) -> str:
        """Returns what is wrong where a training of so many steps ends within its warm-up; "" where it does not."""
        if self.kind == "one-cycle" or self.warmup_steps <= steps:
            return ""
        return (
            f"schedule.warmup_steps is {self.warmup_steps}, but the training has {steps} steps, so the learning rate "
            f"would never be reached; schedule.warmup_steps={steps // 10} is a tenth of them"
        )

    def without_effect(self) -> list[str]:
        """Returns the keys that are set and that this kind of schedule does not read."""
        read = {"floor": ("cosine", "one-cycle"), "milestones": ("steps",), "gamma": ("steps",)}
        read |= {"rise": ("one-cycle",), "low_momentum": ("one-cycle",)}
        plain = ScheduleConfig()
        return [
            key for key, kinds in read.items() if self.kind not in kinds and getattr(self, key) != getattr(plain, key)
        ]


@dataclass(frozen=True, config=_STRICT)
class LossConfig:
    """The loss: cross-entropy plus `lovasz` times the Lovász-softmax loss.

    class_weights: "none", or "inverse-sqrt" of how often a class occurs in `class_weight_scans` training scans
    """

    class_weights: Literal["none", "inverse-sqrt"] = "none"
    class_weight_scans: AtLeastOne = 50
    lovasz: Annotated[float, Field(ge=0)] = 0.0


@dataclass(frozen=True, config=_STRICT)
class TrainerConfig:
    """Length of the training, its hardware, and what it keeps.

    epochs:           passes over the training scans; `steps`, where it is not 0, counts instead
    batch_size:       scans per step, over all processes
    precision:        "fp32"; "bf16": products of bfloat16 (on CUDA bf16-mixed, on a CPU with AVX512-BF16 those of the
                      sparse convolutions, else fp32); "auto" = 16-mixed on CUDA, bf16 on a CPU; or one of PyTorch
                      Lightning's, such as "32-true"
    device:           "auto", "cpu" or "cuda"
    validate_every, save_every, log_every: steps; `validate_every` 0 = 10 times in all
    max_minutes:      stop after this time and leave the rest to `--resume`; 0 = no limit
    ema:              decay of the average of the weights that is validated and kept; 0 = the last weights
    shared_norm:      BatchNorm over the scans of all processes, not of each process alone
    half:             keep networks in half precision
    """

    epochs: Positive = 15.0
    steps: Count = 0
    batch_size: AtLeastOne = 16
    precision: str = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    validate_every: Count = 0
    save_every: AtLeastOne = 200
    log_every: AtLeastOne = 10
    max_minutes: Annotated[float, Field(ge=0)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shared_norm: bool = True
    half: bool = False


@dataclass(frozen=True, config=_STRICT)
class Recipe:
    """The settings of a whole training. `spvnas_ros.offline.augment.Augmentation.from_config` reads `augment`.

    detector:     trains a network that finds boxes; None: one that labels points. With it, `BoxedAugmentation` reads
                  `augment`, and what is about labels alone must be left out
    boxes:        a branch for boxes on the network that labels points; then, too, `BoxedAugmentation` reads `augment`
    supernet:     trains the weights of all networks of a design space; it has neither `net` nor `boxes` nor `start`
    adapt:        learns from recordings without labels, too; it needs a `start`, and has neither `net` nor `boxes`
    start:        weights to begin from: a .safetensors file, a fetched model's name, or `default`; "" = random weights
    start_sha256: sha256 of the start's weights, as `spvnas inspect` shows it; other weights are refused; "" = any
    """

    name: str
    seed: Count = 0
    start: str = ""
    start_sha256: str = ""
    net: NetConfig = NetConfig()
    detector: DetectorConfig | None = None
    boxes: BoxBranchConfig | None = None
    supernet: SupernetConfig | None = None
    adapt: AdaptConfig | None = None
    data: DataConfig = DataConfig()
    augment: dict[str, Any] = Field(default_factory=dict)
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    trainer: TrainerConfig = TrainerConfig()

    def document(self) -> dict[str, Any]:
        """Returns all values as plain data for YAML."""
        document: dict[str, Any] = TypeAdapter(Recipe).dump_python(self, mode="json")
        return document

    def settled(self, voxel_size: float = VOXEL_SIZE, label_map: str = SEMANTIC_KITTI.name) -> Recipe:
        """Returns the recipe with these values where it leaves them open. It also sets the network's width, unless a
        start, `widths` or `like` gives it.
        """
        data = replace(
            self.data, voxel_size=self.data.voxel_size or voxel_size, label_map=self.data.label_map or label_map
        )
        if self.detector:
            return replace(self, data=replace(data, voxel_size=0.0))
        net = (
            self.net
            if self.start or self.supernet or self.net.widths or self.net.like
            else replace(self.net, width=self.net.width or _WIDTH)
        )
        return replace(self, data=data, net=net)
