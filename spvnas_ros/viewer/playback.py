"""Decides which frame is shown and when the next one is due. It plays, steps and seeks, without frames or a browser."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Playback:
    """The number of the frame that is shown, and the time at which the next frame is due.

    Times are seconds of any clock that does not go back.

    count: number of frames, 1 or more
    rate:  frames each second at speed 1
    """

    count: int
    rate: float = 10.0
    index: int = 0
    playing: bool = False
    speed: float = 1.0
    _due: float = 0.0

    @property
    def period(self) -> float:
        """Seconds between frames at the present speed."""
        return 1 / (self.rate * self.speed)

    def toggle(self, now: float) -> None:
        """Starts or pauses the playback."""
        self.playing = not self.playing
        self._due = now + self.period

    def set_speed(self, speed: float, now: float) -> None:
        """Changes the speed (1 = as recorded). The next frame is due one new period from now."""
        self.speed = speed
        self._due = now + self.period

    def step(self, by: int) -> None:
        """Pauses, and goes `by` frames forward or back. After the last frame comes the first one, and the reverse."""
        self.playing = False
        self.index = (self.index + by) % self.count

    def seek(self, index: int) -> None:
        """Goes to this frame, or to the nearest one that exists. A running playback goes on from there."""
        self.index = min(max(index, 0), self.count - 1)

    def wait(self, now: float) -> float | None:
        """Returns the seconds until the next frame is due, or None while the playback is paused."""
        return max(self._due - now, 0.0) if self.playing else None

    def advance(self, now: float) -> bool:
        """Goes to the next frame if it is due, and returns whether it did.

        No frame is left out: where frames take longer than a period, the playback is slower.
        """
        if not self.playing or now < self._due:
            return False
        self.index = (self.index + 1) % self.count
        # After a delay of more than a period the lost time is dropped: catching up would show many frames at once.
        self._due = max(self._due + self.period, now)
        return True
