"""Builds the panels beside the picture with viser: the legend with its switches, and the controls.

Each panel reports the user's actions through callbacks and shows the values that it is given. It keeps no state of the
viewer.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import viser

from spvnas_ros.viewer.colours import CLASS, ERRORS, TRUTH, Classes

SPEEDS = (0.1, 4.0)
POINT_SIZES = (0.01, 0.3)
"""Metres."""
_ALL, _NONE = "all", "none"
_PREVIOUS, _PLAY, _NEXT = "◀ previous", "play / pause", "next ▶"
# Drawn over the next row, because a checkbox of viser has no colour and no second column.
_ROW = (
    '<div style="height:0;position:relative;pointer-events:none;font-size:0.8em">'
    '<span style="position:absolute;left:0.8em;top:0.3em;width:0.85em;height:0.85em;border-radius:3px;'
    'background:rgb({colour});box-shadow:0 0 0 1px #ffffff40"></span>'
    '<span style="position:absolute;right:1em;top:0.1em;opacity:{opacity};font-variant-numeric:tabular-nums">{count}'
    "</span></div>"
)
ROOM_FOR_SWATCH = "\u2003\u2009"
"""Before the label of a checkbox, for the colour that `swatch_row` draws there."""
_COMPARE = "<b>C</b> class · <b>T</b> truth · <b>X</b> errors only<br>"
_HIDE = " · <b>B</b> hide boxes"
_KEYS = (
    '<div style="padding:0.2em 0.9em 0.8em;font-size:0.78em;line-height:1.7;opacity:0.75">'
    "<b>space</b> play · <b>N</b> <b>P</b> next, previous · <b>Home</b> first<br>"
    "{compare}<b>1</b> from above · <b>2</b> driver's seat · <b>3</b> from behind<br>"
    "<b>W A S D Q E</b> and arrows move the camera<br>"
    "<b>click</b> a point to read it{boxes}</div>"
)


class Legend:
    """Shows a row for each class: its colour, a switch and its number of points in the frame.

    on_change: called with the rows that are switched off
    """

    def __init__(self, gui: viser.GuiApi, classes: Classes, on_change: Callable[[frozenset[int]], None]) -> None:
        self._classes, self._on_change = classes, on_change
        self._counts: list[int | None] = [None] * len(classes.rows)
        self._rows: list[viser.GuiHtmlHandle] = []
        self._switches: list[viser.GuiCheckboxHandle] = []
        both = gui.add_button_group("show", (_ALL, _NONE))
        both.on_click(lambda event: self._set_all(event.target.value == _ALL))
        for row, name in enumerate(classes.rows):
            self._rows.append(gui.add_html(self._row(row, None)))
            switch = gui.add_checkbox(ROOM_FOR_SWATCH + name, initial_value=True)
            switch.on_update(lambda event: self._tell() if event.client is not None else None)
            self._switches.append(switch)

    def show(self, counts: npt.NDArray[np.int64] | None) -> None:
        """Shows the number of points of each row, `[C + 1]`; None where the frame has no labels."""
        for row, handle in enumerate(self._rows):
            count = None if counts is None else int(counts[row])
            if count != self._counts[row]:
                self._counts[row] = count
                handle.content = self._row(row, count)

    def _set_all(self, shown: bool) -> None:
        for switch in self._switches:
            switch.value = shown  # type: ignore[misc]  # viser declares what can be set as read-only
        self._tell()

    def _tell(self) -> None:
        self._on_change(frozenset(row for row, switch in enumerate(self._switches) if not switch.value))

    def _row(self, row: int, count: int | None) -> str:
        colour = ",".join(map(str, self._classes.colours[row]))
        return swatch_row(colour, "" if count is None else f"{count:,}", dim=not count)


def swatch_row(colour: str, text: str, *, dim: bool) -> str:
    """Returns what is drawn over a checkbox: its colour, three numbers with commas, and a text at the right."""
    return _ROW.format(colour=colour, count=text, opacity=0.35 if dim else 0.9)


@dataclass(frozen=True)
class Actions:
    """The functions that the controls call."""

    toggle: Callable[[], None]
    step: Callable[[int], None]
    seek: Callable[[int], None]
    speed: Callable[[float], None]
    colour_by: Callable[[str], None]
    point_size: Callable[[float], None]
    look: Callable[[viser.ClientHandle, str], None]


class Controls:
    """Shows the controls of playback and view.

    choices: what frames can be coloured by; the first is selected at the start
    cameras: names of the camera positions
    boxed:   whether there are boxes to show
    """

    def __init__(
        self,
        gui: viser.GuiApi,
        frames: int,
        choices: Sequence[str],
        cameras: Sequence[str],
        size: float,
        do: Actions,
        *,
        boxed: bool = False,
    ) -> None:
        self._status = gui.add_html("")
        self._frame = gui.add_slider("frame", 1, max(frames, 2), step=1, initial_value=1, disabled=frames == 1)
        self._frame.on_update(lambda event: do.seek(event.target.value - 1) if event.client is not None else None)
        group = gui.add_button_group("", (_PREVIOUS, _PLAY, _NEXT), disabled=frames == 1)
        moves: dict[str, Callable[[], None]] = {
            _PREVIOUS: lambda: do.step(-1),
            _PLAY: do.toggle,
            _NEXT: lambda: do.step(1),
        }
        group.on_click(lambda event: moves[event.target.value]())
        speed = gui.add_slider("speed", *SPEEDS, step=0.1, initial_value=1.0, disabled=frames == 1)
        speed.on_update(lambda event: do.speed(event.target.value))
        compared = [choice for choice in (CLASS, TRUTH, ERRORS) if choice in choices]
        if TRUTH in compared:
            compare = gui.add_button_group("compare", compared)
            compare.on_click(lambda event: do.colour_by(event.target.value))
        self._by = gui.add_dropdown("colour by", choices, initial_value=choices[0])
        self._by.on_update(lambda event: do.colour_by(event.target.value) if event.client is not None else None)
        point = gui.add_slider("point size", *POINT_SIZES, step=0.01, initial_value=size)
        point.on_update(lambda event: do.point_size(event.target.value))
        camera = gui.add_button_group("camera", cameras)
        camera.on_click(lambda event: do.look(event.client, event.target.value) if event.client else None)
        self._point = gui.add_html("")
        gui.add_html(_KEYS.format(compare=_COMPARE if TRUTH in compared else "", boxes=_HIDE if boxed else ""))

    def select(self, by: str) -> None:
        """Shows what the frame is coloured by."""
        self._by.value = by  # type: ignore[misc]  # viser declares what can be set as read-only

    def read(self, facts: Sequence[tuple[str, str]]) -> None:
        """Shows what is known of a point, as names and values; without any, nothing."""
        rows = "".join(
            f'<tr><td style="opacity:0.7;padding-right:1em">{html.escape(name)}</td><td>{html.escape(value)}</td></tr>'
            for name, value in facts
        )
        self._point.content = (
            f'<div style="padding:0.2em 0.9em 0.6em;font-size:0.85em"><b>point</b><table>{rows}</table></div>'
            if facts
            else ""
        )

    def show(self, index: int, title: str, detail: str, problem: str = "") -> None:
        """Shows the frame's number, which counts from 0, and the texts about it. `problem` is highlighted."""
        self._frame.value = index + 1  # type: ignore[misc]  # viser declares what can be set as read-only
        shown = f'<div style="color:#ff8a80;padding-top:0.4em;overflow-wrap:anywhere">{html.escape(problem)}</div>'
        self._status.content = (
            f'<div style="padding:0.4em 0.9em 0.8em;font-size:0.85em;line-height:1.5"><b>{html.escape(title)}</b><br>'
            f'<span style="opacity:0.75">{html.escape(detail)}</span>{shown if problem else ""}</div>'
        )
