"""Checks how clouds arrive over a live topic: publishers, QoS, transport and losses.

The checks only use what was observed before; they do not touch the topic.
"""

from __future__ import annotations

from dataclasses import dataclass

from spvnas_ros.doctor.finding import BAD, OK, WARN, Finding, Findings

PROFILE_ADVICE = "start the driver with FASTDDS_DEFAULT_PROFILES_FILE={}"


@dataclass(frozen=True)
class Endpoint:
    """A publisher or subscriber of the topic.

    node:  full name of its node
    qos:   its QoS in words, such as "reliable, volatile"
    local: whether it is on this machine; None where the middleware does not tell
    """

    node: str
    qos: str
    local: bool | None = None


@dataclass(frozen=True)
class Mismatch:
    """A subscriber whose QoS a publisher cannot serve, and the reason."""

    publisher: str
    subscriber: str
    reason: str


@dataclass(frozen=True)
class Link:
    """What a subscriber observed of a topic over some seconds. It asked for the same QoS as the node.

    received:     clouds that arrived; `cloud_bytes` is their mean size
    lost:         clouds that were published between the first and the last that arrived, but did not arrive; None where
                  the middleware does not number them
    subscribers:  all subscribers except the observing one
    mismatches:   pairs with incompatible QoS, including pairs of other nodes
    segments:     sizes in bytes of the shared memory of other processes through which this process receives data
    overflows:    datagrams that were dropped because the buffers of this process' sockets were full
    buffer_limit: largest buffer of a socket in bytes (net.core.rmem_max); None where unknown
    profile:      path of the package's transport profile for Fast DDS; "" where it is not installed
    middleware:   name of the middleware, such as rmw_fastrtps_cpp
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
        """Whether the middleware is Fast DDS: the profile is for it, and only its shared memory is recognised."""
        return "fastrtps" in self.middleware

    @property
    def remote(self) -> bool:
        """Whether a publisher is known to be on another machine."""
        return any(publisher.local is False for publisher in self.publishers)

    @property
    def in_shared_memory(self) -> bool:
        """Whether no publisher is remote and this process receives through shared memory that can hold a cloud."""
        return not self.remote and max(self.segments, default=0) > self.cloud_bytes


def examine_link(link: Link) -> list[Finding]:
    """Returns all findings about how the clouds arrive."""
    findings: list[Finding] = []
    for check in (check_publishers, check_qos, check_arrival, check_transport, check_subscribers):
        findings += check(link)
    return findings


def check_publishers(link: Link) -> Findings:
    """Checks who publishes, and that there is only one publisher."""
    found = "; ".join(f"{each.node} ({each.qos})" for each in link.publishers)
    if len(link.publishers) > 1:
        yield Finding(WARN, "publishers", found, "several sensors on one topic mix; give each a topic of its own")
    else:
        yield Finding(OK, "publishers", found or "gone meanwhile")


def check_qos(link: Link) -> Findings:
    """Checks whether the publishers serve the node and all other subscribers."""
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
    """Checks whether clouds are lost on the way."""
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
    """Checks which transport the clouds take, and whether it has room for them."""
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
    """Lists the other subscribers. Over UDP, each of them costs the publisher one more copy."""
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
