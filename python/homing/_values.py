"""Values that Python has no type of its own for, and times as PyYAML reads them."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ("CloseReport", "Event", "Tagged")


@dataclasses.dataclass(frozen=True)
class Tagged:
    """A value with a tag of YAML's that is not known here. Nothing is ever constructed from a tag.

    Attributes
    ----------
    tag : str
        As YAML writes it: ``!uuid``, ``!!python/object:uuid.UUID``.
    value : object
        The value under it.
    """

    tag: str
    value: Any


@dataclasses.dataclass(frozen=True)
class CloseReport:
    """What a close has ended.

    Attributes
    ----------
    requests_ended : int
        How many callers were still waiting; each got ``CommunicatorClosed``.
    publishes_unconfirmed : int
        How many messages the broker had not confirmed when the time was up.
    tasks_returned : int
        How many tasks went back to their queue unfinished.
    calls_refused : int
        How many calls were in the hands of subscribers here; each caller got an exception.
    error : str or None
        What went wrong while closing, where something did.
    """

    requests_ended: int = 0
    publishes_unconfirmed: int = 0
    tasks_returned: int = 0
    calls_refused: int = 0
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class Event:
    """Something happened to a connection or to a subscriber.

    Attributes
    ----------
    name : str
        ``lost``, ``reconnecting``, ``restored``, ``gap``, ``blocked``, ``unblocked``, ``subscription_failed``,
        ``consumer_cancelled``, ``channel_closed``, ``ownership_lost``, ``task_adopted``, ``subscriber_gone``, ``lagged``,
        ``quarantined``, ``missed``, ``closed``.
    fields : dict
        What is known of it, by name: ``error``, ``attempt``, ``delay`` and ``away`` in seconds, ``identifier``, ``queue``.
    """

    name: str
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)


def timestamp(text: str) -> Any:
    """A date or a time of YAML 1.1, as PyYAML constructs it."""
    import datetime
    import re

    match = re.fullmatch(
        r"""(?P<year>\d{4})-(?P<month>\d\d?)-(?P<day>\d\d?)
            (?:(?:[Tt]|[ \t]+)(?P<hour>\d\d?):(?P<minute>\d\d):(?P<second>\d\d)
               (?:\.(?P<fraction>\d*))?
               (?:[ \t]*(?P<zone>Z|(?P<sign>[-+])(?P<zone_hour>\d\d?)(?::(?P<zone_minute>\d\d))?))?)?""",
        text,
        re.VERBOSE,
    )
    if match is None:
        raise ValueError(f"{text!r} is no timestamp")
    year, month, day = int(match["year"]), int(match["month"]), int(match["day"])
    if match["hour"] is None:
        return datetime.date(year, month, day)
    fraction = int((match["fraction"] or "")[:6].ljust(6, "0"))
    zone = None
    if match["sign"]:
        delta = datetime.timedelta(hours=int(match["zone_hour"]), minutes=int(match["zone_minute"] or 0))
        zone = datetime.timezone(-delta if match["sign"] == "-" else delta)
    elif match["zone"]:
        zone = datetime.timezone.utc
    time = (int(match["hour"]), int(match["minute"]), int(match["second"]))
    return datetime.datetime(year, month, day, *time, fraction, tzinfo=zone)


Tagged.__module__ = CloseReport.__module__ = Event.__module__ = "homing"
