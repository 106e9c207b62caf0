"""How clouds come over a live topic: publishers, QoS, transport, losses. Pure: what is asked was observed before."""

from __future__ import annotations

from dataclasses import dataclass

from spvnas_ros.doctor.finding import BAD, OK, WARN, Finding, Findings

PROFILE_ADVICE = "start the driver with FASTDDS_DEFAULT_PROFILES_FILE={}"


@dataclass(frozen=True)
class Endpoint:
    """A publisher or subscriber of the topic.

    node:  its full name
    qos:   in words, such as "reliable, volatile"
    local: whether it is on this machine; None where the middleware does not say
    """

    node: str
    qos: str
    local: bool | None = None


@dataclass(frozen=True)
class Mismatch:
    """A subscriber that a publisher cannot serve, and why."""

    publisher: str
    subscriber: str
    reason: str


@dataclass(frozen=True)
class Link:
    """What was seen of a topic in some seconds, by a subscriber that asks for what the node asks for.

    received:     clouds that came, with `cloud_bytes` each (mean)
    lost:         clouds that were published between the first and the last that came, and did not come; None where
                  the middleware does not number them
    subscribers:  all but the one that looked
    mismatches:   by QoS, also of the others
    segments:     bytes of other processes' shared memory through which this process is sent things
    overflows:    datagrams that this process' sockets had no room for
    buffer_limit: bytes that a socket may buffer at most (net.core.rmem_max); None where unknown
    profile:      the project's transport profile for Fast DDS; "" where it is not installed
    middleware:   its name, as rmw_fastrtps_cpp
    """

    topic: str
    seconds: float
    received: int
    cloud_bytes: int
    lost: int | None
    publishers: tuple[Endpoint, ...]
    subscribers: tuple[Endpoint, ...] = ()
    mismatches: tuple[Mismatch, ...] = ()
    segments: tuple[int, ...] = ()
    overflows: int = 0
    buffer_limit: int | None = None
    profile: str = ""
    middleware: str = "rmw_fastrtps_cpp"

    @property
    def fast_dds(self) -> bool:
        """Whether it is the middleware that the profile is for, and whose shared memory is known."""
        return "fastrtps" in self.middleware

    @property
    def remote(self) -> bool:
        """Whether a publisher is known to be on another machine."""
        return any(publisher.local is False for publisher in self.publishers)

    @property
    def in_shared_memory(self) -> bool:
        """Whether somebody on this machine sends through shared memory that holds a cloud."""
        return not self.remote and max(self.segments, default=0) > self.cloud_bytes


def examine_link(link: Link) -> list[Finding]:
    """Everything there is to say about the way of the clouds."""
    findings: list[Finding] = []
    for check in (check_publishers, check_qos, check_arrival, check_transport, check_subscribers):
        findings += check(link)
    return findings


def check_publishers(link: Link) -> Findings:
    """Who publishes."""
    found = "; ".join(f"{each.node} ({each.qos})" for each in link.publishers)
    if len(link.publishers) > 1:
        yield Finding(WARN, "publishers", found, "several sensors on one topic mix; give each a topic of its own")
    else:
        yield Finding(OK, "publishers", found or "gone meanwhile")


def check_qos(link: Link) -> Findings:
    """Whether publishers serve the node, and the others that listen."""
    for each in link.mismatches:
        found = f"{each.publisher} cannot serve {each.subscriber}: {each.reason}"
        advice = (
            f"have {each.subscriber} ask for best effort and volatile, or the driver offer reliable (for the node: "
            f"qos_overrides.{link.topic}.subscription.reliability: best_effort)"
        )
        yield Finding(BAD, "qos", found, advice)
    if not link.mismatches:
        yield Finding(OK, "qos", "the publisher serves the node (best effort, volatile) and all who listen")


def check_arrival(link: Link) -> Findings:
    """Whether clouds are lost on the way."""
    if not link.received:
        found = f"none came in {link.seconds:g} s, though the topic has a publisher"
        yield Finding(BAD, "arrival", found, _against_loss(link))
    elif link.lost is None:
        found = f"{link.received} came in {link.seconds:g} s; {link.middleware} does not number them"
        yield Finding(OK, "arrival", found, "the rate tells what is missing")
    elif link.lost:
        found = f"{link.lost} of {link.lost + link.received} clouds were lost on the way"
        yield Finding(WARN, "arrival", found, _against_loss(link))
    else:
        yield Finding(OK, "arrival", f"all {link.received} clouds of {link.seconds:g} s came")


def check_transport(link: Link) -> Findings:
    """Which way clouds come."""
    if not link.received or not link.fast_dds:
        return
    size = _bytes(link.cloud_bytes)
    largest = max(link.segments, default=0)
    if link.remote:
        found = "network (UDP): the publisher is on another machine"
        if link.buffer_limit is not None and link.buffer_limit < 2 * link.cloud_bytes:
            found += f"; buffers of {_bytes(link.buffer_limit)} at most, a cloud is {size}"
            yield Finding(WARN, "transport", found, _larger_buffers(link))
        else:
            yield Finding(OK, "transport", found)
    elif link.in_shared_memory:
        yield Finding(OK, "transport", f"shared memory of {_bytes(largest)}, a cloud is {size}")
    else:
        memory = f"the largest shared memory has {_bytes(largest)}" if largest else "there is no shared memory"
        found = f"{memory}, but a cloud {size}: it comes in pieces, or by UDP"
        yield Finding(WARN, "transport", found, _use_profile(link))


def check_subscribers(link: Link) -> Findings:
    """Who else listens: each costs the publisher a copy, over UDP."""
    names = ", ".join(each.node for each in link.subscribers)
    yield Finding(OK, "listeners", f"{len(link.subscribers)}: {names}" if names else "none besides this one")


def _against_loss(link: Link) -> str:
    if link.mismatches:
        return "mend the QoS first"
    if link.overflows:
        return f"{link.overflows} datagrams met full buffers; {_larger_buffers(link)}"
    if not link.received:
        return f"does the driver have data? If so: {_use_profile(link)}"
    if link.fast_dds and not link.in_shared_memory and not link.remote:
        return _use_profile(link)
    return "this machine or the driver is too busy, or the driver's queue too short: a depth of 5 or more"


def _use_profile(link: Link) -> str:
    if link.profile and link.fast_dds:
        return f"{PROFILE_ADVICE.format(link.profile)}, or include segment.launch.py in its launch file"
    return "give the middleware shared memory for several clouds"


def _larger_buffers(link: Link) -> str:
    wanted = max(1 << 25, 8 * link.cloud_bytes)
    return f"sudo sysctl -w net.core.rmem_max={wanted}, and for good in /etc/sysctl.d/"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
