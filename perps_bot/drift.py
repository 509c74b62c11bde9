"""Drift: did the paper bot do what the real one did?

Compares, day by day, what both wrote of the same days: decisions bar by bar, fills, and the day's
return.  A day that only one of them has is not measured, and said so.  Nothing is explained here.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

from perps_bot.errors import ConfigError, StoreDamaged
from perps_bot.history import History, fold
from perps_bot.model import Event
from perps_bot.store import read_events

DAYS_SHOWN = 14


def measure(folder: Path, other: Path | None, days: Sequence[date],
            is_paper: bool) -> dict[str, object]:
    """Compare the days that both have; `why` says what stands in the way of more."""
    if other is None:
        return {"days": [], "why": "only one kind of events is there"}
    live, paper = (other, folder) if is_paper else (folder, other)
    rows, unread = [], []
    for day in days:
        if not (other / f"{day}.jsonl").is_file():
            continue
        try:
            rows.append(_compared(day, _Day(live, day), _Day(paper, day)))
        except (StoreDamaged, ConfigError) as failure:
            unread.append(str(failure))
    why = "; ".join(unread) or ("" if rows else f"{other.name} have no day of this range")
    return {"days": rows, "why": why}


def drift_lines(drift: Mapping) -> Iterator[str]:
    """Say it for people."""
    rows = drift["days"]
    yield (f"paper versus live: {len(rows)} days measured, as live/paper" if rows else
           f"paper versus live: not measured: {drift['why']}")
    for row in rows[-DAYS_SHOWN:]:
        yield (f"  {row['day']}  same decisions {row['same']} of {row['compared']}, fills "
               f"{row['live_fills']}/{row['paper_fills']}, return "
               f"{_percent(row['live_return'])}/{_percent(row['paper_return'])}")
        if row["first_difference"]:
            yield f"    {row['first_difference']}"
    if rows and drift["why"]:
        yield f"  not measured: {drift['why']}"


class _Day:
    """What one of them wrote of one day."""

    def __init__(self, folder: Path, day: date) -> None:
        history, self.decisions, self.fills = History(), {}, 0
        fold(read_events(folder, day), folder, history.apply, self._note)
        history.close()
        figures = history.figures()
        self.gain = figures and figures.return_pct

    def _note(self, event: Event) -> None:
        data = event.data
        if event.type == "strategy.signal" and data["took_bar"]:
            key = (data["memory"]["bar_at"], data["symbol"])
            self.decisions[key] = data["action"], data["reason"]
        self.fills += event.type == "trade.executed"


def _compared(day: date, live: _Day, paper: _Day) -> dict[str, object]:
    both = sorted(live.decisions.keys() & paper.decisions.keys())
    differ = [key for key in both if live.decisions[key][0] != paper.decisions[key][0]]
    said = ""
    if differ:
        at, symbol = differ[0]
        said = (f"{at} {symbol}: live {': '.join(live.decisions[differ[0]])}; paper "
                f"{': '.join(paper.decisions[differ[0]])}")
    return {"day": str(day), "compared": len(both), "same": len(both) - len(differ),
            "live_decisions": len(live.decisions), "paper_decisions": len(paper.decisions),
            "first_difference": said, "live_fills": live.fills, "paper_fills": paper.fills,
            "live_return": live.gain, "paper_return": paper.gain}


def _percent(value) -> str:
    return "unknown" if value is None else f"{value:z.2%}"
