"""Plants: which lines are changed, into what, and which rig must find it?

A plant is applied where `old` stands, which must be exactly once in its room.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plant:
    """One planted bug.

    rig   which one must find it: a name of hunt.RIGS
    with_ what that rig is told: for SIM the kinds of faults, "" for none
    """

    name: str
    room: str
    old: str
    new: str
    rig: str
    with_: str = ""


PLANTS = (
    # Orders: sent once, looked up, never believed too early
    Plant("an order of unknown outcome is sent again with a fresh id", "execution",
          "self._doubt(order, str(doubt))\n            return self.order(identity)",
          "return self._transmit(intent, reduces)", "sim", "answer lost"),
    Plant("a timeout is taken for a rejection", "rest",
          "raise (OutcomeUnknown if reply.may_have_happened else VenueUnavailable)(",
          "raise VenueUnavailable(", "sim", "answer lost"),
    Plant("a 500 is taken for a rejection", "rest",
          "DEFINITE = (400, 401, 403, 404, 422)", "DEFINITE = (400, 401, 403, 404, 422, 500)",
          "sim", "500 after accept"),
    Plant("only the first page of a list is read", "client",
          "            if not cursor:\n", "            if True:\n", "sim",
          "dripping fills,fills lag"),
    Plant("one look without the order proves that it is lost", "execution",
          "ABSENCE_OF_AN_INCREASE = timedelta(minutes=1)",
          "ABSENCE_OF_AN_INCREASE = ABSENCE_PROOF = timedelta()", "sim",
          "answer lost,listing lag,fills lag"),
    Plant("an unknown outcome does not count as live", "tracker",
          "and (purpose is None or ticket.order.intent.purpose is purpose)])",
          "and (purpose is None or ticket.order.intent.purpose is purpose)\n"
          "                and ticket.order.status is not OrderStatus.UNKNOWN])",
          "sim", "answer lost"),
    Plant("an order counts as cancelled once that was asked for", "wire",
          '"CANCEL_QUEUED":        OrderStatus.CANCEL_QUEUED',
          '"CANCEL_QUEUED":        OrderStatus.CANCELLED', "sim", "cancel slow"),
    Plant("a fill is booked as often as it is read", "tracker",
          "        self._seen[identity] = at\n        at = min", "        at = min", "sim",
          "dripping fills,partial fill"),
    Plant("of several partial fills the last one counts", "tracker",
          'ticket.recorded += Decimal(data["quantity"])',
          'ticket.recorded = Decimal(data["quantity"])', "sim", "dripping fills"),
    Plant("two symbols may be entered in one tick", "loop",
          "            raise failures[0]\n        return\n", "            raise failures[0]\n",
          "sim", ""),
    Plant("an entry is sent although its intent is not on disk", "execution",
          "required=not reduces", "required=False", "sim", "disk full"),
    Plant("an entry is sent after a signal", "transport",
          "return self._opens and self._interrupted()", "return False", "sim", "SIGTERM"),
    Plant("a resting entry has no end", "execution",
          "ends_at = self.store.now + timedelta(seconds=self.config.entry_gtd_seconds)",
          "ends_at = self.store.now + timedelta(days=self.config.entry_gtd_seconds)", "sim", ""),
    Plant("an answer about another order is believed", "wire",
          "if not isinstance(said, dict) or any(said.get(name) != sent[name] for name in ECHOED):",
          "if not isinstance(said, dict):", "fuzz", "create"),
    Plant("a product that takes no orders is ordered", "risk",
          "(not (product.tradable and product.is_session_open),", "(False,",
          "sim", "product flags"),
    Plant("twice as much is sent as was intended", "wire",
          'values = {"base_size": contracts(intent.quantity, product)}',
          'values = {"base_size": str(2 * int(contracts(intent.quantity, product)))}', "sim", ""),
    # Stops and exits
    Plant("the stop stays after the position is closed", "protection",
          "if not self.engine.orders.awaits_fills(symbol):", "if False:", "sim",
          "manual trade,liquidation"),
    Plant("no stop is placed", "protection",
          "if missing > 0 and level is not None and not has_to_wait:", "if False:", "sim", ""),
    Plant("an exit leaves the stop where it is", "protection",
          "        if in_the_way:\n            self._stop_not_before.pop(symbol, None)\n",
          "        if False:\n            self._stop_not_before.pop(symbol, None)\n", "sim", ""),
    Plant("a stop goes the way of the position", "stops",
          "side = position.side.opposite", "side = position.side", "sim", ""),
    # Signals, holds, and the end of a run
    Plant("a SIGINT records no halt", "shutdown",
          'if number == signal.SIGINT and bot.settings.profile != "dev":', "if False:",
          "sim", "SIGINT"),
    Plant("a halt is kept only in memory", "risk",
          "if self._store is None:\n            self._fold_change(None, data)",
          "if True:\n            self._fold_change(self._store.now, data)", "sim", "SIGINT"),
    Plant("a held state lets entries pass", "risk",
          "(state is not TradingState.TRADING,", "(False,", "sim", "SIGUSR1"),
    Plant("a new day forgets why it is halted", "risk",
          'self._holds = {\n            kind: Hold(',
          'self._holds = {} and {\n            kind: Hold(', "sim", "midnight,SIGUSR1,SIGINT"),
    Plant("the exit code is 0 whatever is left", "shutdown",
          "code = 3 if left or bare else 0", "code = 0", "sim",
          "outage,SIGTERM,SIGINT"),
    Plant("health is always ok", "ops", '"ok": ', '"ok": True or ', "sim", "liquidation,SIGUSR1"),
    Plant("a halt that was asked for is only answered", "control",
          'task.bot.risk.hold("operator", state, task.request.args["reason"])', "pass",
          "sim", "halt asked"),
    Plant("flat is said without a look", "control",
          "    is_flat = task.is_flat()\n", "    is_flat = True\n", "sim", "close-all asked"),
    # Books
    Plant("a short position is read as a long one", "wire",
          '"SHORT": -1}', '"SHORT": 1}', "sim", ""),
    Plant("a restart counts the day's loss from zero", "tracker",
          "        if self.start_equity is None:\n"
          "            self.day_start_equity = self.last_equity",
          "        if True:\n            self.day_start_equity = self.last_equity", "sim",
          "killed on the wire"),
    # The disk
    Plant("the intent is not synced", "store",
          "required or event.type in SYNCED))", "False))", "sim", ""),
    Plant("a torn tail stays, and the next event is appended to it", "store",
          "            _truncate(bad.fileno(), file.offset)", "            pass",
          "sim", "killed in a write"),
    Plant("after a failed fsync it goes on as if nothing were", "store",
          "self._syncs, self.poisoned = False, True", "pass", "errors",
          "entry with a stop"),
    Plant("what a full disk left of a line is not cut", "store",
          "            self._owed.appendleft(lambda: _truncate(self._fd, self._offset))\n", "",
          "sim", "short write"),
    Plant("the crc is not chained", "store",
          "        self._crc = crc\n", "", "sim", ""),
    Plant("the old day is not synced before the new one", "store",
          "            self._sync(_fsync, self._fd)  # else the new day could outlive the old "
          "one's end\n", "            pass\n", "crash", "midnight"),
    Plant("a new file's name is not synced", "store",
          "        self._sync(_fsync_folder, self._folder)\n", "        pass\n", "crash",
          "first start"),
    # Limits
    Plant("a position may be larger than allowed", "limits",
          "return max(abs(held + filled[Side.BUY]), abs(held - filled[Side.SELL]))",
          "return abs(held)", "intents"),
    Plant("one order may reverse a position", "risk",
          "(account.position(symbol).quantity * intent.side.sign < 0,", "(False,", "intents"),
    Plant("one order more may stand open", "risk",
          "(len(ours) >= limits.max_open_orders,", "(len(ours) > limits.max_open_orders,",
          "intents"),
    Plant("one unknown order more is let through", "risk",
          "(len(unknown) > limits.max_unknown_orders,",
          "(len(unknown) > limits.max_unknown_orders + 1,", "intents"),
    Plant("a contract too many", "risk",
          "(contracts > most,", "(contracts > most + 1,", "intents"),
    Plant("a mark may be a little too old", "risk",
          "(age > old,", "(age > old + 1,", "intents"),
    Plant("a limit may lie far beyond the mark", "risk",
          "(away > limits.price_collar_pct * mark.price,",
          "(away > 2 * limits.price_collar_pct * mark.price,", "intents"),
    Plant("a round trip that outlasts the day forgets what it has earned", "flow",
          '"trips": dict(self._trips),', '"trips": {},', "intents"),
    Plant("what was traded today is not remembered", "flow",
          "return self._traded.get(symbol, ZERO)", "return ZERO", "intents"),
    # What comes in
    Plant("NaN is a number", "wire",
          "if not isinstance(value, str) or not NUMBER.fullmatch(value):",
          "if not isinstance(value, str):", "fuzz", "body"),
    Plant("an answer that says yes and no is a yes", "wire",
          'if answer.get("success") is True and identity and not reasons:', "if identity:",
          "fuzz", "create"),
    Plant("an event's crc is not looked at", "store",
          "if line[-CRC_LENGTH:] != CRC_FORM % found or event.seq != seq + 1:",
          "if event.seq != seq + 1:", "fuzz", "events"),
    Plant("a body may be nested without end", "wire",
          "> DEPTH_MAX and _is_deeper(value, DEPTH_MAX):", "> DEPTH_MAX and False:", "fuzz",
          "body"),
    Plant("a state file may be anything", "store",
          "if not isinstance(value, dict):\n            raise ValueError(f\"no JSON object",
          "if value is None:\n            raise ValueError(f\"no JSON object", "fuzz", "state"),
    Plant("a setting may be no number", "settings",
          "is_ours = value.is_finite() and not value.is_signed()",
          "is_ours = not value.is_signed()",
          "fuzz", "settings"),
)
