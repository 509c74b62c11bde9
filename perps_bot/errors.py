"""Errors: what must the caller do next?

Each class names the next step of whoever catches it, not the place where it was raised.  The
message gives the numbers, then the way out.  Nothing here decides, formats or logs.
"""


class PerpsBotError(Exception):
    """Everything that this package raises on purpose."""


class ConfigError(PerpsBotError):
    """The operator must change a setting or an argument; nothing was sent."""


class InUse(ConfigError):
    """Another instance works in this folder, or with this key: let it end, or end it."""


class VenueUnavailable(PerpsBotError):
    """Nothing happened at the venue; the next tick may ask again."""


class OutcomeUnknown(PerpsBotError):
    """It may have happened; look it up by `client_order_id` before sending anything."""


class OrderRejected(PerpsBotError):
    """The answer was no; the order does not exist.

    code  stable and searchable: a refusal code of ours or the venue's own reason
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class BelowMinimum(OrderRejected):
    """The quantity is too small to be traded; a bigger size or another symbol is needed."""

    def __init__(self, message: str):
        super().__init__("BELOW_MINIMUM", message)


class StoreDamaged(PerpsBotError):
    """The events on disk cannot be read or written; increase nothing until a person looked."""


class StateDiverged(PerpsBotError):
    """Our books and the venue's differ; the venue wins and entries pause."""
