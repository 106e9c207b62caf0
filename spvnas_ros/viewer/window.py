"""Serves the viewer with viser. All browsers see the same picture of one recording, each with its own camera."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from io import StringIO
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Literal, ParamSpec

import numpy as np
import numpy.typing as npt
import viser

from spvnas_ros.errors import UserError
from spvnas_ros.palettes import Colour
from spvnas_ros.viewer.box_panel import BoxPanel
from spvnas_ros.viewer.colours import (
    CLASS,
    ERRORS,
    HEIGHT,
    TRUTH,
    Classes,
    accuracy,
    choices,
    colour,
    counts,
    ground,
    visible,
)
from spvnas_ros.viewer.frames import FrameError, Frames, ViewFrame
from spvnas_ros.viewer.panels import Actions, Controls, Legend
from spvnas_ros.viewer.picking import Vector, describe, under_pointer
from spvnas_ros.viewer.playback import Playback
from spvnas_ros.viewer.view_boxes import (
    TRUE_COLOUR,
    BoxSwitches,
    Lines,
    chosen,
    coloured,
    count_boxes,
    dashed_outlines,
    describe_boxes,
    first_score,
    outlines,
)

P = ParamSpec("P")
Key = Literal["space", "N", "P", "home", "1", "2", "3", "C", "T", "X", "B"]
"""Keys as viser names them. Arrow keys and W A S D Q E are left out because they also move viser's camera."""
_CLOUD, _GRID, _POINT = "/cloud", "/grid", "/point"
_BOXES, _TRUE_BOXES = "/boxes", "/true_boxes"
_POINT_SIZE = 0.08
_LINE_WIDTH, _TRUE_WIDTH = 2.5, 2.0
"""Pixels of the lines of boxes."""
_BACKGROUND, _LINE, _SECTION, _BRAND = (13, 16, 23), (30, 36, 47), (50, 60, 77), (70, 130, 230)
_LOOKED_AT = 5
"""How many frames are tried at the start until one can be shown."""
_LEGEND_WIDTH, _CONTROLS_WIDTH = 230.0, 330.0


class ViewError(UserError):
    """A viewer cannot start. The message says what to do."""


@dataclass(frozen=True)
class Camera:
    """A camera position in the sensor's frame: metres, x forward, y left, z up."""

    name: str
    key: Key
    position: tuple[float, float, float]
    look_at: tuple[float, float, float]


CAMERAS = (
    # Not exactly above: a camera that looks along its own up direction has no defined orientation.
    Camera("above", "1", (-0.5, 0.0, 62.0), (0.0, 0.0, 0.0)),
    # A little behind the sensor: seen from the sensor itself, each ring would be a line.
    Camera("driver", "2", (-4.0, 0.0, 0.9), (12.0, 0.0, -0.9)),
    Camera("behind", "3", (-13.0, 0.0, 9.0), (6.0, 0.0, -4.0)),
)
_FIRST_CAMERA = CAMERAS[2]


class _Server(viser.ViserServer):
    """viser's server without its share link, which would send the recording through a server on the internet."""

    def request_share_url(self, verbose: bool = True) -> str | None:
        """Returns None, always: no share link is made."""
        del verbose
        return None


class Window:
    """Shows frames until it is stopped.

    The thread that calls `run` draws everything. Actions of the browsers reach it through a queue.

    host, port: where the page is served; port 0 takes a free one

    Raises ViewError where the page cannot be served there, or where there are no frames.
    """

    _cloud: viser.PointCloudHandle
    _lines: viser.LineSegmentsHandle
    _true_lines: viser.LineSegmentsHandle
    _boxes: BoxPanel | None
    _legend: Legend
    _controls: Controls
    _point: viser.LabelHandle

    def __init__(self, frames: Frames, classes: Classes, *, host: str, port: int, rate: float = 10.0) -> None:
        if not len(frames):
            raise ViewError(f"{frames.source.path} holds no frames")
        _check_address(host, port)
        self._frames, self._classes = frames, classes
        self._playback = Playback(len(frames), rate)
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._stopped, self._due = False, True
        self._hidden: frozenset[int] = frozenset()
        self._size = _POINT_SIZE
        self._by = HEIGHT
        self._choice = BoxSwitches()
        self._shown: tuple[ViewFrame, npt.NDArray[np.bool_]] | None = None
        with redirect_stdout(StringIO()):  # viser introduces itself
            self._server = _Server(host, port, label="spvnas view", verbose=False)
        self._furnish()

    @property
    def url(self) -> str:
        """Address of the page."""
        host = self._server.get_host()
        host = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._server.get_port()}"

    def stop(self) -> None:
        """Ends `run`. It may be called from any thread and from a signal handler."""
        self._asked.put(self._stop)

    def run(self) -> None:
        """Shows frames until `stop` is called."""
        try:
            while not self._stopped:
                if self._due:
                    self._draw()
                self._answer()
        finally:
            with redirect_stdout(StringIO()):
                self._server.stop()

    def _answer(self) -> None:
        """Waits for an action of a browser or for the time of the next frame, and does what is asked."""
        try:
            ask = self._asked.get(timeout=self._playback.wait(monotonic()))
            while True:
                ask()
                ask = self._asked.get_nowait()
        except Empty:
            self._due |= self._playback.advance(monotonic())

    def _draw(self) -> None:
        self._due, self._shown = False, None
        self._read(None)
        index = self._playback.index
        try:
            frame = self._frames[index]
        except FrameError as error:
            self._cloud.visible = self._lines.visible = self._true_lines.visible = False
            self._legend.show(None)
            self._controls.show(index, self._title(index), "cannot be shown", str(error))
            return
        with self._server.atomic():
            self._draw_cloud(frame)
            self._draw_boxes(frame)
            self._legend.show(counts(frame, self._by, self._classes))
            self._controls.show(index, self._title(index), _detail(frame), frame.problem)

    def _draw_cloud(self, frame: ViewFrame) -> None:
        shown = visible(frame, self._hidden, self._classes, self._by)
        self._shown = frame, shown
        if not shown.any():
            # The page reports an error for a cloud without points.
            self._cloud.visible = False
            return
        self._cloud = self._server.scene.add_point_cloud(
            _CLOUD,
            frame.points[shown, :3],
            colour(frame, self._by, self._classes)[shown],
            point_size=self._size,
            point_shape="circle",
            point_shading="flat",
            precision="float32",
        )

    def _draw_boxes(self, frame: ViewFrame) -> None:
        if self._boxes is None:
            return
        found, true = chosen(frame.boxes, self._choice), chosen(frame.true_boxes, self._choice, true=True)
        if found is None or not len(found):
            self._lines.visible = False
        else:
            lines = outlines(found.boxes)
            self._lines = self._add_lines(_BOXES, lines, self._classes.of_boxes(found.kinds), _LINE_WIDTH)
        if true is None or not len(true):
            self._true_lines.visible = False
        else:
            lines = dashed_outlines(true.boxes)
            self._true_lines = self._add_lines(_TRUE_BOXES, lines, [TRUE_COLOUR] * len(true), _TRUE_WIDTH)
        kinds = [*self._frames.box_names]
        for boxes in (frame.boxes, frame.true_boxes):
            kinds += [] if boxes is None else boxes.kinds
        self._boxes.show(kinds, count_boxes(frame.boxes, frame.true_boxes, self._choice))

    def _add_lines(
        self, name: str, lines: Lines, colours: Sequence[Colour], width: float, *, visible: bool = True
    ) -> viser.LineSegmentsHandle:
        return self._server.scene.add_line_segments(
            name,
            lines.reshape(-1, 2, 3),
            coloured(lines, colours),
            thickness=width,
            thickness_units="screen",
            visible=visible,
        )

    def _pick(self, origin: Vector, direction: Vector) -> None:
        """Shows what is known of the point that a ray meets."""
        if self._shown is not None:
            frame, shown = self._shown
            self._read(under_pointer(frame.points, shown, origin, direction))

    def _read(self, index: int | None) -> None:
        """Shows what is known of a point of the frame, beside it and in the panel; None for no point."""
        if index is None or self._shown is None:
            self._point.visible = False
            self._controls.read(())
            return
        frame, _ = self._shown
        boxes, true_boxes = chosen(frame.boxes, self._choice), chosen(frame.true_boxes, self._choice, true=True)
        facts = [
            *describe(frame, index, self._classes),
            *describe_boxes(boxes, frame.points[index], "box"),
            *describe_boxes(true_boxes, frame.points[index], "true box"),
        ]
        self._controls.read(facts)
        words = dict(facts)
        name, true = words.get("class", f"{words['range']}"), words.get("true class")
        self._point.text = name if true in (None, name) else f"{name} (true: {true})"
        self._point.position = frame.points[index, :3].astype(np.float64)
        self._point.visible = True

    def _title(self, index: int) -> str:
        return f"frame {index + 1} of {self._playback.count}"

    def _furnish(self) -> None:
        """Builds everything except the frame."""
        scene, gui = self._server.scene, self._server.gui
        gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False, brand_color=_BRAND)
        scene.set_background_image(np.full((1, 1, 3), _BACKGROUND, np.uint8), format="png")
        # Points need no light, and light is slow in a browser without a GPU.
        scene.configure_environment_map(None)
        scene.configure_default_lights(False)
        self._cloud = scene.add_point_cloud(_CLOUD, np.zeros((1, 3), np.float32), (0, 0, 0), visible=False)
        none = np.zeros((1, 1, 2, 3), np.float32)
        self._lines = self._add_lines(_BOXES, none, [TRUE_COLOUR], _LINE_WIDTH, visible=False)
        self._true_lines = self._add_lines(_TRUE_BOXES, none, [TRUE_COLOUR], _TRUE_WIDTH, visible=False)
        self._point = scene.add_label(_POINT, "", visible=False, anchor="bottom-left")
        scene.on_click()(self._clicked)
        first = self._first_frame()
        available = (HEIGHT,) if first is None else choices(first)
        self._by = available[0]
        self._choice = BoxSwitches(score=first_score(None if first is None else first.boxes))
        self._add_grid(0.0 if first is None else ground(first))
        start = self._server.initial_camera
        start.position, start.look_at = _FIRST_CAMERA.position, _FIRST_CAMERA.look_at
        panel = gui.add_panel()
        with panel.add_tab("classes"):
            self._legend = Legend(gui, self._classes, self._later(self._set_hidden))
        self._boxes = None
        panel.dock_left()
        panel.set_width(_LEGEND_WIDTH)
        actions = Actions(
            toggle=self._later(lambda: self._playback.toggle(monotonic())),
            step=self._later(self._step),
            seek=self._later(self._seek),
            speed=self._later(lambda speed: self._playback.set_speed(speed, monotonic())),
            colour_by=self._later(self._set_colour),
            point_size=self._later(self._set_size),
            look=_look,
        )
        names = [camera.name for camera in CAMERAS]
        found, true = self._frames.boxed, self._frames.true_boxed
        boxed = found or true
        self._controls = Controls(gui, len(self._frames), available, names, self._size, actions, boxed=boxed)
        if boxed:
            on_change, colours = self._later(self._set_boxes), self._classes.of_boxes
            self._boxes = BoxPanel(gui, self._choice, found=found, true=true, colours=colours, on_change=on_change)
        gui.main_panel.dock_right()
        gui.main_panel.set_width(_CONTROLS_WIDTH)
        self._add_keys(actions, available)

    def _add_grid(self, height: float) -> None:
        """Adds a grid with squares of 10 m on the ground."""
        self._server.scene.add_grid(
            _GRID,
            200.0,
            200.0,
            cell_size=10.0,
            section_size=50.0,
            cell_color=_LINE,
            section_color=_SECTION,
            fade_distance=120.0,
            fade_from="origin",
            shadow_opacity=0.0,
            position=(0.0, 0.0, height),
        )

    def _add_keys(self, do: Actions, available: tuple[str, ...]) -> None:
        keys: tuple[tuple[Key, str, Callable[[], None]], ...] = (
            ("space", "play or pause", do.toggle),
            ("N", "next frame", lambda: do.step(1)),
            ("P", "previous frame", lambda: do.step(-1)),
            ("home", "first frame", lambda: do.seek(0)),
        )
        for key, label, action in keys:
            self._server.gui.add_command(label, hotkey=key).on_trigger(partial(_without_event, action))
        modes: tuple[tuple[Key, str], ...] = (("C", CLASS), ("T", TRUTH), ("X", ERRORS))
        for key, mode in modes if TRUTH in available else ():
            command = self._server.gui.add_command(f"show: {mode}", hotkey=key)
            command.on_trigger(partial(_without_event, partial(do.colour_by, mode)))
        if self._boxes is not None:
            command = self._server.gui.add_command("show or hide boxes", hotkey="B")
            command.on_trigger(partial(_without_event, self._boxes.toggle))
        for camera in CAMERAS:
            command = self._server.gui.add_command(f"camera: {camera.name}", hotkey=camera.key)
            command.on_trigger(partial(_look_on_command, camera.name))

    def _first_frame(self) -> ViewFrame | None:
        """Returns the first of a few frames that can be shown, or None."""
        for index in range(min(len(self._frames), _LOOKED_AT)):
            with suppress(FrameError):
                return self._frames[index]
        return None

    def _step(self, by: int) -> None:
        self._playback.step(by)
        self._due = True

    def _seek(self, index: int) -> None:
        self._playback.seek(index)
        self._due = True

    def _set_hidden(self, rows: frozenset[int]) -> None:
        self._hidden = rows
        self._due = True

    def _set_colour(self, by: str) -> None:
        self._by = by
        self._controls.select(by)
        self._due = True

    def _set_boxes(self, choice: BoxSwitches) -> None:
        again = choice.found and not self._choice.found
        self._choice = choice
        self._frames.want_boxes(choice.found)
        if again:
            self._due = True  # the frame was perhaps read without
        elif self._shown is not None:
            with self._server.atomic():
                self._draw_boxes(self._shown[0])

    def _set_size(self, size: float) -> None:
        self._size = self._cloud.point_size = size

    def _clicked(self, event: viser.SceneClickEvent) -> None:
        self._asked.put(partial(self._pick, event.ray_origin, event.ray_direction))

    def _stop(self) -> None:
        self._stopped = True

    def _later(self, action: Callable[P, None]) -> Callable[P, None]:
        """Returns a function that has the drawing thread run the action."""

        def ask(*args: P.args, **kwargs: P.kwargs) -> None:
            self._asked.put(partial(action, *args, **kwargs))

        return ask


def _detail(frame: ViewFrame) -> str:
    text = f"{frame.name}, {len(frame.points):,} points"
    boxes = [
        f"{len(each):,} {what}"
        for each, what in ((frame.boxes, "found"), (frame.true_boxes, "true"))
        if each is not None
    ]
    text += f", boxes: {', '.join(boxes)}" if boxes else ""
    right, known = accuracy(frame) or (0, 0)
    return f"{text}; {right / known:.1%} of {known:,} with a truth are right" if known else text


def _without_event(action: Callable[[], None], _: viser.CommandEvent) -> None:
    action()


def _look_on_command(name: str, event: viser.CommandEvent) -> None:
    if event.client is not None:
        _look(event.client, name)


def _look(client: viser.ClientHandle, name: str) -> None:
    camera = next(camera for camera in CAMERAS if camera.name == name)
    with client.atomic():
        client.camera.up_direction = (0.0, 0.0, 1.0)
        client.camera.position = camera.position
        client.camera.look_at = camera.look_at


def _check_address(host: str, port: int) -> None:
    """Raises ViewError where the page cannot be served at this address.

    viser itself would silently take the next free port, and would wait forever for a host that is not this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError) as error:
        raise ViewError(
            f"the page cannot be served at {host}:{port}: {error}; choose another --port (0 takes a free one) or --host"
        ) from error
