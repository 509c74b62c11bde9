"""Rooms: what is loaded, and when?

A room that not every command needs is named `rooms.ledger` where it is used, and imported when
that is first asked for, so that `--help` and `status` start at once.  Nothing else stands here.
"""

from importlib import import_module


class _Rooms:
    def __getattr__(self, name: str):
        return import_module(f"perps_bot.{name}")


rooms = _Rooms()
