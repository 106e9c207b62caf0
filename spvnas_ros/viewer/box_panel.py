"""Builds the part of the panel that is about boxes: switches, the least score, and a row for each class."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import viser

from spvnas_ros.palettes import Colour
from spvnas_ros.viewer.panels import ROOM_FOR_SWATCH, swatch_row
from spvnas_ros.viewer.view_boxes import TRUE_COLOUR, BoxCount, BoxSwitches, row_of

_FOUND, _TRUE, _SCORE = "boxes", "true boxes", "least score"
_NOTHING = BoxCount()


class BoxPanel:
    """Shows the switches of boxes, and how many the frame has of each class. A class gets its row when it first occurs.

    found, true: whether boxes are found, and whether true ones are known
    colours:     gives the colours of classes
    on_change:   called with what shall be shown
    """

    def __init__(
        self,
        gui: viser.GuiApi,
        choice: BoxSwitches,
        *,
        found: bool,
        true: bool,
        colours: Callable[[Sequence[str]], tuple[Colour, ...]],
        on_change: Callable[[BoxSwitches], None],
    ) -> None:
        self._gui, self._colours, self._on_change = gui, colours, on_change
        self._choice, self._found, self._true = choice, found, true
        self._rows: dict[str, tuple[str, viser.GuiHtmlHandle, viser.GuiCheckboxHandle]] = {}
        self._counts: dict[str, BoxCount] = {}
        self._switches: list[viser.GuiCheckboxHandle] = []
        self._folder = gui.add_folder("objects")
        with self._folder:
            if found:
                self._switch(_FOUND, lambda shown: replace(self._choice, found=shown))
                score = gui.add_slider(_SCORE, 0.0, 1.0, step=0.05, initial_value=choice.score)
                score.on_update(lambda event: self._tell(replace(self._choice, score=float(event.target.value))))
            if true:
                colour = ",".join(map(str, TRUE_COLOUR))
                self._gui.add_html(swatch_row(colour, "dashed", dim=True))
                self._switch(ROOM_FOR_SWATCH + _TRUE, lambda shown: replace(self._choice, true=shown))

    def toggle(self) -> None:
        """Shows boxes that are hidden, and hides those that are shown: the found ones and the true ones."""
        shown = not any(switch.value for switch in self._switches)
        for switch in self._switches:
            switch.value = shown  # type: ignore[misc]  # viser declares what can be set as read-only

    def show(self, kinds: Sequence[str], counts: Mapping[str, BoxCount]) -> None:
        """Shows the number of boxes of each class.

        kinds:  names of the classes, which get rows of their own; others that are the same by `row_of` share them
        counts: by row
        """
        for kind in kinds:
            if row_of(kind) not in self._rows:
                self._add(kind)
        for row, (kind, handle, _) in self._rows.items():
            count = counts.get(row, _NOTHING)
            if count != self._counts.get(row):
                self._counts[row] = count
                handle.content = self._html(kind, count)

    def _add(self, kind: str) -> None:
        with self._folder:
            handle = self._gui.add_html(self._html(kind, _NOTHING))
            switch = self._gui.add_checkbox(ROOM_FOR_SWATCH + kind, initial_value=True)
        switch.on_update(lambda event: self._hide() if event.client is not None else None)
        self._rows[row_of(kind)] = (kind, handle, switch)

    def _hide(self) -> None:
        hidden = frozenset(row for row, (_, _, switch) in self._rows.items() if not switch.value)
        self._tell(replace(self._choice, hidden=hidden))

    def _switch(self, label: str, chosen: Callable[[bool], BoxSwitches]) -> None:
        switch = self._gui.add_checkbox(label, initial_value=True)
        switch.on_update(lambda event: self._tell(chosen(event.target.value)))
        self._switches.append(switch)

    def _tell(self, choice: BoxSwitches) -> None:
        self._choice = choice
        self._on_change(choice)

    def _html(self, kind: str, count: BoxCount) -> str:
        texts = []
        if self._found:
            texts.append(f"{count.shown}" if count.shown == count.found else f"{count.shown} of {count.found}")
        if self._true:
            texts.append(f"{count.true} true")
        colour = ",".join(map(str, self._colours([kind])[0]))
        return swatch_row(colour, html.escape(" · ".join(texts)), dim=not (count.found or count.true))
