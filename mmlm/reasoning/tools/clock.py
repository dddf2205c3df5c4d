"""A clock: what day and time it is."""

from __future__ import annotations

import datetime
import zoneinfo
from collections.abc import Callable

from mmlm.reasoning.tools.tool import Tool, ToolError


def clock(now: Callable[[], datetime.datetime] | datetime.datetime | None = None) -> Tool:
    """The tool `clock(zone)`: date, weekday and time in a time zone, by default that of this machine.

    now: a time, or what gives one; it has a time zone. None takes this machine's clock.
    """
    if isinstance(now, datetime.datetime) and now.tzinfo is None:
        raise ValueError("the time of a clock has a time zone: datetime.datetime(…, tzinfo=datetime.UTC)")

    def told(zone: str | None = None) -> str:
        time = now if isinstance(now, datetime.datetime) else now() if now else datetime.datetime.now().astimezone()
        if zone:
            try:
                time = time.astimezone(zoneinfo.ZoneInfo(zone))
            except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
                raise ToolError(f"there is no time zone {zone[:60]!r}; one is Europe/Berlin") from None
        day = f"{_DAYS[time.weekday()]}, {time.day} {_MONTHS[time.month - 1]} {time.year}"
        return f"{day}, {time:%H:%M:%S} (UTC{time:%z})"

    return Tool(
        "clock",
        "Tells the date, the day of the week and the time.",
        {
            "type": "object",
            "properties": {"zone": {"type": "string", "description": 'A time zone such as "Asia/Tokyo".'}},
            "additionalProperties": False,
        },
        told,
    )


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
