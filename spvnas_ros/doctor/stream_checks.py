"""Checks the messages: fields, frames, stamps and rate, and whether the network is fast enough for the rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spvnas_ros.doctor.finding import BAD, OK, WARN, Finding, Findings
from spvnas_ros.doctor.observe import Clouds
from spvnas_ros.doctor.timing import Rate

_SKEW = 2 * 10**9


@dataclass(frozen=True)
class Timing:
    """Times of the network on some clouds.

    ms:      milliseconds for each cloud, without boxes where there are labels; empty where the network could not
             label them
    where:   device and engine that ran the network
    boxed_ms: the same with labels and boxes; empty where the network does not give both
    failure: why the network could not label the clouds; "" where it could
    """

    ms: tuple[float, ...]
    where: str
    failure: str = ""
    boxed_ms: tuple[float, ...] = ()


def check_clouds(clouds: Clouds) -> Findings:
    """Checks how many clouds there are, and why other clouds cannot be read."""
    where = f" on {clouds.topic}" if clouds.topic else ""
    if clouds.count and not any(clouds.sizes):
        found = f"{clouds.count} can be read{where}, but none has a point"
        yield Finding(BAD, "clouds", found, "is the sensor covered, or does a filter drop them all?")
    elif clouds.count:
        yield Finding(OK, "clouds", f"{clouds.count} can be read{where}, {_spread(clouds.sizes)} points each")
    elif not clouds.problems:
        again = "try again" if clouds.kind == "topic" else "record again"
        yield Finding(BAD, "clouds", f"there are none{where}", f"{again} while the sensor publishes")
    for remark in clouds.remarks:
        yield Finding(WARN, "recording", remark, "what is missing cannot be labelled; copy or record it again")
    for kind, (count, first) in clouds.problems.items():
        yield Finding(BAD, "clouds", f"{count} cannot be read ({kind}): {first}", _CURES.get(kind, _DAMAGED))


_DRIVER = "the driver publishes a message that contradicts itself; update it, or report it there"
_DAMAGED = "the file is damaged or of another format; copy or record it again"
_CURES = {
    "no-xyz": "the node needs fields x, y and z, one number each; have the driver publish points, not ranges",
    "no-intensity": "name the field with intensity_field, its scale with intensity, or use intensity: none",
    **dict.fromkeys(
        ("bad-datatype", "bad-point-step", "bad-row-step", "field-outside", "short-data", "long-data"), _DRIVER
    ),
}


def check_fields(clouds: Clouds) -> Findings:
    """Checks the names and types of the fields, and whether is_dense is true."""
    kinds = sorted({header.fields for header in clouds.headers if header.fields})
    if len(kinds) > 1:
        yield Finding(
            WARN, "fields", f"{len(kinds)} layouts on one topic", "two drivers may publish; give each a topic"
        )
    for fields in kinds[:1]:
        yield Finding(OK, "fields", ", ".join(f"{name} {kind}" for name, kind in fields))
    if any(header.dense and header.has_nan for header in clouds.headers):
        yield Finding(
            WARN,
            "is_dense",
            "true, but there are NaN points",
            "harmless here (label 255); other nodes may trust it",
        )


def check_frame_id(clouds: Clouds) -> Findings:
    """Checks whether TF can place the clouds."""
    names = sorted({header.frame_id for header in clouds.headers})
    found = ", ".join(repr(name) for name in names)
    if len(names) > 1:
        yield Finding(WARN, "frame_id", found, "one topic should have one frame; give each sensor a topic of its own")
    elif not names[0]:
        yield Finding(WARN, "frame_id", "empty", "TF and RViz cannot place the cloud; set frame_id in the driver")
    elif names[0].startswith("/"):
        yield Finding(WARN, "frame_id", found, "tf2 knows no frames that begin with a slash; drop it in the driver")
    else:
        yield Finding(OK, "frame_id", found)


def check_stamps(clouds: Clouds) -> Findings:
    """Checks whether the stamps run forward and agree with the recorder's clock."""
    stamps = np.array([header.stamp for header in clouds.headers])
    recorded = np.array([header.recorded for header in clouds.headers])
    if not stamps.any():
        yield Finding(BAD, "stamps", "all zero", "TF and synchronisation need stamps; have the driver set them")
        return
    back = int((np.diff(stamps) < 0).sum())
    same = int((np.diff(stamps) == 0).sum())
    if back:
        advice = "two publishers on one topic, a bag that looped, or a clock that was set; TF drops what is behind"
        yield Finding(BAD, "stamps", f"jump back {back} time(s)", advice)
    if same:
        yield Finding(WARN, "stamps", f"{same} repeated", "the driver stamps packets, not clouds; check its settings")
    skew = int(np.median(recorded - stamps))
    if abs(skew) > _SKEW:
        advice = "sensor and computer have different clocks; synchronise them (PTP or NTP), or let the driver stamp"
        yield Finding(WARN, "stamps", f"{skew / 1e9:+.1f} s between stamp and recording", advice)
    if not (back or same or abs(skew) > _SKEW):
        yield Finding(OK, "stamps", f"run forward, {skew / 1e6:.0f} ms before the recording")


def check_rate(rate: Rate | None) -> Findings:
    """Reports how many clouds arrive each second, and how many were lost on the way."""
    if rate is None:
        return
    found = f"{rate.hertz:.1f} Hz"
    if rate.lost:
        advice = (
            "clouds are lost between sensor and recorder; use the shared-memory profile config/fastdds_shm.xml, a QoS "
            "of depth 1 or more, and look at the network's buffers"
        )
        yield Finding(WARN, "rate", f"{found}, but about {rate.lost} of {rate.expected} clouds are missing", advice)
    else:
        yield Finding(OK, "rate", found)


def check_speed(timing: Timing, rate: Rate | None) -> Findings:
    """Checks whether the network keeps up with the rate."""
    if timing.failure:
        yield Finding(BAD, "network", timing.failure, "the node would skip such clouds; crop them, or mend the sensor")
        return
    yield _speed("network", timing.ms, timing.where, rate)
    if timing.boxed_ms:
        yield _speed("with boxes", timing.boxed_ms, timing.where, rate)


def _speed(about: str, ms: tuple[float, ...], where: str, rate: Rate | None) -> Finding:
    p50, p95 = (float(value) for value in np.percentile(ms, (50, 95)))
    found = f"{p50:.1f} ms a cloud (p50), {p95:.1f} ms (p95) on {where}, {len(ms)} measured"
    if rate is None:
        return Finding(OK, about, found)
    period = 1e3 / rate.hertz
    against = f"{found}, a cloud every {period:.1f} ms"
    if p50 > period:
        every = int(np.ceil(p50 / period))
        advice = f"only about every {_ordinal(every)} cloud will be labelled; use smaller weights, a GPU or a crop"
        return Finding(WARN, about, against, advice)
    if p95 > period:
        return Finding(WARN, about, against, "slow clouds will cost the next one; leave the machine more room")
    return Finding(OK, about, against)


def _ordinal(number: int) -> str:
    return {1: "first", 2: "2nd", 3: "3rd"}.get(number, f"{number}th")


def _spread(sizes: list[int]) -> str:
    low, high = min(sizes), max(sizes)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
