"""When an engine on integers tries a frame in float32 at once, because the frames before did not fit integers."""

from __future__ import annotations

IN_A_ROW = 3
"""So many frames in a row that do not fit, and the next ones are not tried on integers."""

FIRST_REST, LONGEST_REST = 50, 6400
"""Frames until integers are tried again: at first, and at most. Twice as many each time that the trial fails."""


class Retreat:
    """Decides, frame by frame, whether integers are tried.

    A frame that does not fit is calculated twice. Of a stream that never fits, all but three frames and then fewer and
    fewer are calculated once.
    """

    def __init__(self) -> None:
        self._misfits, self._left, self._rest = 0, 0, FIRST_REST

    @property
    def resting(self) -> int:
        """For how many frames more integers are not tried."""
        return self._left

    def tries(self) -> bool:
        """Returns whether the next frame is tried on integers, and counts it where it is not."""
        if self._left == 0:
            return True
        self._left -= 1
        return False

    def tell(self, fitted: bool) -> bool:
        """Takes how a trial went. Returns whether a rest begins with it."""
        if fitted:
            self._misfits, self._rest = 0, FIRST_REST
            return False
        self._misfits += 1
        if self._misfits < IN_A_ROW:
            return False
        self._left, self._rest = self._rest, min(2 * self._rest, LONGEST_REST)
        return True
