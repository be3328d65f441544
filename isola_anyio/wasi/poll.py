"""``poll_oneoff``: waiting for clocks and descriptors.

Every descriptor is ready at once (files never block, standard input is read when asked), so a guest sleeps only when
it waits for nothing but clocks.
"""

from __future__ import annotations

__all__ = ["poll"]

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from isola_anyio.wasi.abi import EVENT, SUBSCRIPTION_BYTES, EventType, FileType
from isola_anyio.wasi.clock import read_clock
from isola_anyio.wasi.errno import Errno, WasiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.wasi.clock import Clock
    from isola_anyio.wasi.volumes.descriptors import DescriptorTable
    from isola_anyio.wasi.volumes.interfaces import Descriptor

_HEAD: Final = Struct("<QB7x")  # userdata, tag
_CLOCK: Final = Struct("<I4xQQH")  # id, timeout, precision, flags
_FD: Final = Struct("<I")
_ABSOLUTE: Final = 1
_HANGUP: Final = 1

_LONGEST_SLEEP_S: Final = 86_400.0
"""One call of ``sleep`` lasts a day at most: a guest may ask for centuries, and host waits overflow on those."""


class _Alarm(NamedTuple):
    """A clock subscription: when it is due, by its own clock."""

    userdata: int
    clock_id: int
    due_ns: int


def poll(
    subscriptions: bytes, table: DescriptorTable, clock: Clock, sleep: Callable[[float | None], None]
) -> list[bytes]:
    """Return the packed events of at least one subscription, sleeping until there is one.

    Clocks that are due are reported after descriptors and refused subscriptions.
    """
    events: list[bytes] = []
    alarms: list[_Alarm] = []
    for offset in range(0, len(subscriptions), SUBSCRIPTION_BYTES):
        userdata, tag = _HEAD.unpack_from(subscriptions, offset)
        try:
            if tag == EventType.CLOCK:
                clock_id, timeout, _precision, flags = _CLOCK.unpack_from(subscriptions, offset + 16)
                now = read_clock(clock, clock_id)
                alarms.append(_Alarm(userdata, clock_id, timeout if flags & _ABSOLUTE else now + timeout))
            elif tag in (EventType.FD_READ, EventType.FD_WRITE):
                descriptor = table.get(_FD.unpack_from(subscriptions, offset + 16)[0])
                ready, hangup = _ready(descriptor, tag)
                events.append(EVENT.pack(userdata, Errno.SUCCESS, tag, ready, hangup))
            else:
                raise WasiError(Errno.INVAL)
        except WasiError as exc:
            events.append(EVENT.pack(userdata, exc.errno, tag, 0, 0))
    due = _due(alarms, clock)
    while alarms and not events and not due:
        # In a loop: the wait is capped, and a sleep may end before the guest's clock says so.
        sleep(min(min(a.due_ns - read_clock(clock, a.clock_id) for a in alarms) / 1e9, _LONGEST_SLEEP_S))
        due = _due(alarms, clock)
    events.extend(EVENT.pack(alarm.userdata, Errno.SUCCESS, EventType.CLOCK, 0, 0) for alarm in due)
    return events


def _due(alarms: list[_Alarm], clock: Clock) -> list[_Alarm]:
    return [alarm for alarm in alarms if alarm.due_ns <= read_clock(clock, alarm.clock_id)]


def _ready(descriptor: Descriptor, tag: int) -> tuple[int, int]:
    """Return how many bytes can be read or written without waiting, as far as known, and the event's flags."""
    if descriptor.filetype is FileType.DIRECTORY:
        raise WasiError(Errno.BADF)
    if descriptor.filetype is FileType.REGULAR_FILE:
        if tag == EventType.FD_WRITE:
            return 0x1_0000, 0
        return max(descriptor.stat().size - descriptor.seek(0, 1), 0), 0
    return (0, _HANGUP) if tag == EventType.FD_READ else (0x1_0000, 0)
