"""When the next frame is due: a clock that plays, steps and seeks, and knows neither frames nor browser."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Playback:
    """Which frame is shown, and when the next one is due. Times are seconds of any clock that does not go back.

    count: number of frames, 1 or more
    rate:  frames a second at speed 1
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
        """Play, or pause."""
        self.playing = not self.playing
        self._due = now + self.period

    def set_speed(self, speed: float, now: float) -> None:
        """Change the speed (1 = as recorded); the next frame is due by the new one from now on."""
        self.speed = speed
        self._due = now + self.period

    def step(self, by: int) -> None:
        """Pause and go on or back by some frames, around the end."""
        self.playing = False
        self.index = (self.index + by) % self.count

    def seek(self, index: int) -> None:
        """Show this frame, the nearest one where there is none; playing goes on from there."""
        self.index = min(max(index, 0), self.count - 1)

    def wait(self, now: float) -> float | None:
        """Seconds until the next frame is due, None while nothing plays."""
        return max(self._due - now, 0.0) if self.playing else None

    def advance(self, now: float) -> bool:
        """Go to the next frame if it is due, and say whether. None is left out: what takes longer plays slower."""
        if not self.playing or now < self._due:
            return False
        self.index = (self.index + 1) % self.count
        # Late by more than a period: catching up would be a burst.
        self._due = max(self._due + self.period, now)
        return True
