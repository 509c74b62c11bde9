"""Wall: what time is it on this machine?

One look at its clock, for those who need no more of the time.  Nothing waits here, and nothing
that trades goes by this.
"""

from datetime import UTC, datetime


def now() -> datetime:
    return datetime.now(UTC)
