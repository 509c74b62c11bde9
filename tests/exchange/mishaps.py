"""Mishaps: what should go wrong, and how often?

Pure.  A fault is a name of the table with arguments.  Four arguments mean the same everywhere:
`times` counts uses down to none; `product_id`, `kind` (an order type) and `side` narrow it.  A
fault without `times` replaces the one of the same name that concerns the same things.
"""

ABOUT = ("product_id", "kind", "side", "path", "match", "listing")

MISHAPS = {
    # name                   what it does to the answers or the books
    "reject": "creates answer success false with `reason`",
    "order_404": "the first `reads` reads of a new order by id find nothing",
    "lag_fills": "fills are listed `seconds` late",
    "lag_positions": "positions are `seconds` behind",
    "lag_balance": "the balance summary is `seconds` behind",
    "lag_orders": "the order listing shows new orders `seconds` late",
    "cancel_slow": "a cancel settles after `seconds` or after `reads` reads of the order",
    "cancel_fills": "a cancelled order fills while its cancel is queued",
    "cancel_refused": "cancels answer success false with `reason`",
    "cancel_lost": "a cancel is accepted and nothing comes of it",
    "old_cancel_reasons": "a filled order cannot be cancelled as UNKNOWN_CANCEL_ORDER",
    "empty_positions": "the positions are an empty list whatever is held",
    "partial_page": "half a page, has_next true, `cursor` empty or repeated",
    "has_next_lies": "a cut page says that nothing follows",
    "last_page_cursor": "the last page of fills carries a cursor too",
    "zero_rows_linger": "closed positions stay listed with zero contracts for `seconds`",
    "echo_other_order": "creates answer with the oldest order; `placed` says if one is made",
    "contradiction": "`shape` failure_with_id or success_without_id; `placed` as above",
    "accepted_then_cancelled": "a new order is cancelled at once without a fill",
    "partial_fill": "a taking order fills only `fraction` of its size",
    "no_fill_yet": "a taking order rests for `seconds` before it executes",
    "status_unknown": "the next `reads` readings of orders show UNKNOWN_ORDER_STATUS",
    "bracket_refused": "bracket orders are refused with `reason`",
    "stop_refused": "stop-limit orders are refused with `reason`",
    "profit_out_of_bounds": "brackets whose profit leg is beyond `pct` of last are refused",
    "attached_refused": "attached brackets are refused: the create, or `late` when it fills",
    "bracket_left_behind": "a bracket stays when its position is gone",
    "stops_reserve": "resting stop-limits reserve the position as brackets do",
    "cancel_session_refused": "cancels while closed are refused instead of queued",
    "future_end_refused": "candles up to a time after now are refused",
    "no_dedup": "a repeated client_order_id makes another order, once the first is `after` old",
    "duplicate_error": "a repeated client_order_id is refused by name",
    "close_refused": "close_position is refused with `reason`",
    "summary_null": "there is no balance summary",
    "fields_missing": "`path` (dots; lists are walked) is removed, or set to `value`",
    "funding_hidden": "the balance summary shows no accrued funding until it is booked",
    "partial_ends_filled": "a taking order that filled in part ends FILLED instead of CANCELLED",
    "close_oversize": "a close larger than the position is clipped, or flips it (`mode` flip)",
    "close_ignores_brackets": "a close goes through although a bracket reserves the position",
    "flat_position_empty": "the single position of a flat product is an empty object, not a 404",
    "ticker_fields": "tickers of the stream carry `values` instead of theirs",
    "halt": "the product's orders are managed and nothing matches",
    "price_band": "limit prices more than `ticks` from last are refused",
    "transient_403": "the next reads whose path contains `match` answer 403",
}


class Mishaps:
    """Which faults are on."""

    def __init__(self):
        self._on = []

    def set(self, name: str, **arguments) -> None:
        if name not in MISHAPS:
            raise ValueError(f"no fault {name!r}: one of {', '.join(sorted(MISHAPS))}")
        # Never empty, so that a fault without arguments is still true.
        arguments = {"fault": name, **arguments}
        if "times" not in arguments:
            about = [arguments.get(key) for key in ABOUT]
            self._on = [one for one in self._on if one[0] != name
                        or [one[1].get(key) for key in ABOUT] != about]
        self._on.append((name, arguments))

    def clear(self, name: str = "") -> None:
        self._on = [one for one in self._on if name and one[0] != name]

    def get(self, name: str, **about) -> dict | None:
        """The first fault of that name that is about this, and is not used up."""
        for one, arguments in self._on:
            if one == name and self._concerns(arguments, about):
                return arguments
        return None

    def all(self, name: str) -> list[dict]:
        return [arguments for one, arguments in self._on
                if one == name and arguments.get("times", 1) > 0]

    def use(self, name: str, **about) -> dict | None:
        """As `get`, and count one use."""
        arguments = self.get(name, **about)
        if arguments is not None and "times" in arguments:
            arguments["times"] -= 1
        return arguments

    def seconds(self, name: str) -> float:
        return (self.get(name) or {}).get("seconds", 0)

    def names(self) -> list[str]:
        return [name for name, arguments in self._on if arguments.get("times", 1) > 0]

    @staticmethod
    def _concerns(arguments: dict, about: dict) -> bool:
        return arguments.get("times", 1) > 0 and all(
            arguments.get(key) in (None, value) for key, value in about.items())
