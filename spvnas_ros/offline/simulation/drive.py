"""Simulates many scenes into a folder, with several processes.

A sequence, its boxes or a bag appear whole or not at all; in the format kitti, a frame does. The files are the same to
the byte for any number of processes.

```
OUT/simulation.json                  the plan of the folder, so that a run can be continued
OUT/mounts/00.json                   how the sensor stood on the vehicle, where a range of mounts was asked for
OUT/sequences/00/                    format semantic-kitti: velodyne, labels, calib.txt, poses.txt, times.txt
OUT/kitti/training/                  format kitti: velodyne, label_2, calib
OUT/bags/00/                         format bag: mcap
OUT/boxes/00/000000.csv              format boxes: all that can move, all around, for each scan of sequences/00
```
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from multiprocessing import active_children, get_context
from pathlib import Path
from time import process_time

import numpy as np

from spvnas_ros.clouds.mount import Mount
from spvnas_ros.errors import UserError
from spvnas_ros.offline.simulation.cast import SimulationError, check_embree
from spvnas_ros.offline.simulation.lidar import Lidar, SimulatedScan
from spvnas_ros.offline.simulation.mounting import MountRange, on_sidewalk, write_mount
from spvnas_ros.offline.simulation.scene import KINDS, Scene, build_scene
from spvnas_ros.offline.simulation.sensors import find_sensor
from spvnas_ros.recordings.files import replacing
from spvnas_ros.workers import begin_worker

FORMATS = ("semantic-kitti", "kitti", "bag", "boxes")
CONFIGURATION = "simulation.json"
_VERSION = 3
"""Version of the simulator. A folder is continued only by the version that began it."""
_BOXES_VERSION = 4
"""Version of what it writes with boxes: since 2 these have ids; 3 goes with version 2 of the simulator, 4 with 3."""
_NO_MOUNTS: dict[str, object] = {"mount_height": None, "mount_tilt": 0.0, "mount_share": 1.0}
_MOUNTS = 0x6D6F756E74
"""Distinguishes the random numbers of mounts from those of scans."""


@dataclass(frozen=True)
class Plan:
    """The settings of a simulation.

    sensor:          name of a preset
    scans_per_scene: number of revolutions in each scene
    interval:        seconds between their beginnings
    seed:            all random numbers follow from it
    kind:            of the scenes, None for a mix
    formats:         some of `FORMATS`
    mount_height:    range of the sensor's height above the ground, metres; a height is drawn for each scene. None for
                     the preset's
    mount_tilt:      most degrees that it leans
    mount_share:     of the scenes that have such a mount; the others have the preset's

    Raises ValueError for invalid values.
    """

    sensor: str = "hdl64"
    scans_per_scene: int = 10
    interval: float = 1.0
    seed: int = 0
    kind: str | None = None
    formats: tuple[str, ...] = ("semantic-kitti",)
    mount_height: tuple[float, float] | None = None
    mount_tilt: float = 0.0
    mount_share: float = 1.0

    def __post_init__(self) -> None:
        sensor = find_sensor(self.sensor)
        _ = self.mounts
        if self.kind is not None and self.kind not in KINDS:
            raise UserError(f"there is no street of kind {self.kind!r}, expected one of {', '.join(KINDS)}")
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            found = ", ".join(self.formats) or "none"
            raise UserError(f"found formats {found}, expected some of {', '.join(FORMATS)}")
        if self.scans_per_scene < 1 or self.seed < 0:
            raise UserError(
                f"found {self.scans_per_scene} scans a scene and seed {self.seed}, expected 1 scan or more and a seed "
                "from 0"
            )
        if not self.interval >= sensor.sweep * 0.999:
            raise UserError(
                f"the interval is {self.interval} s, but {self.sensor} turns once in {sensor.sweep} s; "
                "expected that or more"
            )

    @property
    def mounts(self) -> MountRange:
        """The mounts that the scenes are driven with."""
        return MountRange(self.mount_height, self.mount_tilt, self.mount_share)


@dataclass(frozen=True)
class Done:
    """A finished scene: its number, the scans and points that this run made, and the processor time for them in
    seconds.
    """

    scene: int
    scans: int
    points: int
    seconds: float


def simulate(plan: Plan, scenes: int, out: Path, processes: int = 1) -> Iterator[Done]:
    """Writes `scenes` scenes into `out`, except for those that an earlier run has finished.

    Yields each scene as it is finished. Raises SimulationError where the folder holds something else, the disk is full
    or Embree is missing, and OSError where files cannot be written. Finished scenes stay.
    """
    check_embree()
    check_folder(plan, out)
    missing = [number for number in range(scenes) if not is_finished(plan, number, out)]
    yield from (Done(number, 0, 0, 0.0) for number in range(scenes) if number not in set(missing))
    out.mkdir(parents=True, exist_ok=True)
    if not (out / CONFIGURATION).exists():
        with replacing(out / CONFIGURATION) as file:
            file.write(_configuration(plan).encode())
    if processes == 1 or len(missing) <= 1:
        yield from (write_scene(plan, number, out) for number in missing)
    else:
        yield from _in_processes(plan, missing, out, min(processes, len(missing)))


def _in_processes(plan: Plan, scenes: Sequence[int], out: Path, processes: int) -> Iterator[Done]:
    others = set(active_children())
    with ProcessPoolExecutor(processes, get_context("spawn"), begin_worker, (os.getpid(),)) as pool:
        pending = {pool.submit(write_scene, plan, number, out) for number in scenes}
        try:
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        except BaseException:
            # A scene takes a while, and none that is half done is of use.
            for worker in set(active_children()) - others:
                worker.kill()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def write_scene(plan: Plan, number: int, out: Path) -> Done:
    """Simulates one scene and writes it in all formats. A sequence or a bag appears whole or not at all; of kitti, a
    frame.
    """
    begin = process_time()
    mount = _mount(plan, number)
    scene = _scene(plan, number)
    if mount is not None and on_sidewalk(mount, number) and scene.walk_pose:
        scene = replace(scene, ego_pose=scene.walk_pose)
    lidar = Lidar(scene, find_sensor(plan.sensor), np.random.default_rng((plan.seed, number)), mount)
    points = 0
    try:
        if mount is not None:
            write_mount(mount_path(out, number), mount)
        with ExitStack() as sinks:
            writers = [(name, sinks.enter_context(_SINKS[name](plan, number, out, lidar))) for name in plan.formats]
            for index in range(plan.scans_per_scene):
                t = index * plan.interval
                scan = lidar.scan(t, np.random.default_rng((plan.seed, number, index)))
                points += len(scan)
                level = lidar.levelled(scan)
                for name, write in writers:
                    write(t, scan if name == "bag" else level)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SimulationError(
            f"the disk of {out} is full at scene {number}; make room and give the same command again: finished scenes "
            "stay"
        ) from error
    return Done(number, plan.scans_per_scene, points, process_time() - begin)


def _mount(plan: Plan, number: int) -> Mount | None:
    """Returns how the sensor stands in a scene, None for as its preset says."""
    if not plan.mounts.moves:
        return None
    return plan.mounts.draw(find_sensor(plan.sensor), np.random.default_rng((plan.seed, number, _MOUNTS)))


def _scene(plan: Plan, number: int) -> Scene:
    seed = int(np.random.SeedSequence((plan.seed, number)).generate_state(1)[0])
    return build_scene(seed, plan.kind)


_Write = Callable[[float, SimulatedScan], None]


def _sequence_sink(_: Plan, number: int, out: Path, lidar: Lidar) -> AbstractContextManager[_Write]:
    from spvnas_ros.offline.simulation.semantic_kitti_writer import sequence_writer

    return sequence_writer(_sequence(out, number), lidar)


def _kitti_sink(plan: Plan, number: int, out: Path, lidar: Lidar) -> AbstractContextManager[_Write]:
    from spvnas_ros.offline.simulation.kitti_boxes import frame_writer

    return frame_writer(out / "kitti" / "training", number * plan.scans_per_scene, lidar)


def _bag_sink(_: Plan, number: int, out: Path, lidar: Lidar) -> AbstractContextManager[_Write]:
    from spvnas_ros.offline.simulation.bag_writer import drive_writer

    return drive_writer(bag_path(out, number), lidar)


def _table_sink(_: Plan, number: int, out: Path, lidar: Lidar) -> AbstractContextManager[_Write]:
    from spvnas_ros.offline.simulation.object_writer import table_writer

    return table_writer(_tables(out, number), lidar)


_SINKS = {"semantic-kitti": _sequence_sink, "kitti": _kitti_sink, "bag": _bag_sink, "boxes": _table_sink}


def is_finished(plan: Plan, number: int, out: Path) -> bool:
    """Tells whether a scene exists in all formats of the plan."""
    there = {
        "semantic-kitti": _sequence(out, number).is_dir(),
        "bag": bag_path(out, number).is_dir(),
        "boxes": _tables(out, number).is_dir(),
        "kitti": all(
            (out / "kitti" / "training" / "label_2" / f"{number * plan.scans_per_scene + index:06d}.txt").is_file()
            for index in range(plan.scans_per_scene)
        ),
    }
    return all(there[name] for name in plan.formats)


def _sequence(out: Path, number: int) -> Path:
    return out / "sequences" / f"{number:02d}"


def _tables(out: Path, number: int) -> Path:
    return out / "boxes" / f"{number:02d}"


def bag_path(out: Path, number: int) -> Path:
    """Returns the path of a scene's bag."""
    return out / "bags" / f"{number:02d}"


def mount_path(out: Path, number: int) -> Path:
    """Returns the path of the file that says how the sensor stood in a scene."""
    return out / "mounts" / f"{number:02d}.json"


def _configuration(plan: Plan) -> str:
    version = _BOXES_VERSION if "boxes" in plan.formats else _VERSION
    settings = asdict(plan)
    if not plan.mounts.moves:
        # Folders without a range of mounts are as they were before there were any.
        settings = {key: value for key, value in settings.items() if key not in _NO_MOUNTS}
    return json.dumps({"version": version, **settings}, indent=2) + "\n"


def check_folder(plan: Plan, out: Path, *, mounts_only: bool = False) -> None:
    """Raises SimulationError where `out` is not empty and does not belong to this plan.

    mounts_only: whether only its mounts must be the plan's, as for drives that are finished and only read
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise SimulationError(f"{out} is a file, expected a folder for the scans")
    file = out / CONFIGURATION
    if not file.exists():
        if not mounts_only and any(not item.name.endswith(".part") for item in out.iterdir()):
            raise SimulationError(f"{out} is not empty and holds no {CONFIGURATION}; name another folder")
        return
    wanted = json.loads(_configuration(plan))
    try:
        found = json.loads(file.read_text())
        found, wanted = ({**_NO_MOUNTS, **settings} for settings in (found, wanted))
        differ = [
            f"{key} {found.get(key)!r}, now {value!r}"
            for key, value in wanted.items()
            if value != found.get(key) and (key in _NO_MOUNTS or not mounts_only)
        ]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SimulationError(f"{file} cannot be read ({error}); name another folder") from error
    if differ:
        raise SimulationError(
            f"{out} holds a simulation with {'; '.join(differ)}; go on with the same options or name another folder"
        )
