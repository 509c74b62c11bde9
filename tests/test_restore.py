"""A start from an old backup, at an exchange that has traded on: what is sent, and who is believed.

The bot goes on after the backup, the disk is lost, the backup is restored, and the next process
meets the exchange as it is now.  The exchange keeps its own books.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from test_live_account import CENT, entered, make  # noqa: F401  a fixture

from live import BTC, IDS
from perps_bot.backup import backup, restore
from perps_bot.model import TradingState


def the_stop_fires(rig):
    """While nobody looks: the process has died with the disk."""
    rig.end_process()
    rig.price(59300)
    assert rig.held() == 0


def the_stop_is_moved(rig):
    """By orders that the backup has never heard of."""
    for bid in (61500, 62500, 63500):
        rig.price(bid)
        rig.ticks(14)
    assert len({o["client_order_id"] for o in rig.orders()}) > 2 and rig.held() > 0


def it_closes(rig):
    rig.bot.protector.exit(BTC, "the averages turned")
    rig.ticks(4)
    assert rig.held() == 0


def it_turns_round(rig):
    """Out of the long and into a short, by orders that the backup has never heard of."""
    it_closes(rig)
    rig.sim.call("trade_by_owner", product_id=IDS[BTC], side="SELL", contracts="4")
    assert rig.held() == -4


def nothing(rig):
    pass


def a_lost_disk(rig, place, meanwhile):
    """What the exchange had been sent when the restored process came up."""
    done = backup(rig.folder, place, "prod", rig.now)
    meanwhile(rig)
    rig.end_process()
    rig.folder = rig.folder / "restored" / "perps_bot" / "prod"
    restore(done.path, rig.folder, "prod", rig.now)
    return list(rig.orders())


CASES = [
    # meanwhile,        a day later,  the symbol is left alone
    (nothing,           False,        False),
    (nothing,           True,         False),
    (the_stop_fires,    False,        False),
    (the_stop_fires,    True,         False),
    (the_stop_is_moved, False,        False),
    (the_stop_is_moved, True,         False),
    (it_turns_round,    False,        True),
    (it_closes,         False,        True),
]


@pytest.mark.parametrize("meanwhile, next_day, is_left_alone", CASES)
def test_an_old_backup_starts_halted_and_its_books_follow_the_venue(
        make, tmp_path_factory, meanwhile, next_day, is_left_alone):  # noqa: F811
    rig = entered(make())
    sent = a_lost_disk(rig, tmp_path_factory.mktemp("backups"), meanwhile)
    if next_day:
        rig.now = datetime.combine(rig.now.date() + timedelta(days=1), datetime.min.time(), UTC)
        rig.sim.advance(rig.now)
    held = rig.held()
    # The averages cross: whoever is not halted closes the long, and opens a short.
    rig.falling(63500 if meanwhile is the_stop_is_moved else 60000)
    rig.start()
    for _ in range(10):
        rig.tick(8)
        assert abs(rig.held()) <= abs(held) and rig.held() * held >= 0
    new = rig.orders()[len(sent):]
    assert {order["client_order_id"] for order in new}.isdisjoint(
        {order["client_order_id"] for order in sent})
    assert rig.bot.risk.state is TradingState.HALTED and "restored" in rig.bot.risk.holds
    assert rig.bot.store.day == rig.now.date()
    assert (BTC in rig.bot.untraded) is is_left_alone
    if is_left_alone:
        # A bracket is all that was tried: the venue takes none that exceeds what is held.
        assert "left alone" in rig.bot.message
        assert {kind for o in new for kind in o["order_configuration"]} <= {"trigger_bracket_gtc"}
        assert [o for o in rig.truth()["orders"] if o["status"] == "OPEN"] == []
        assert rig.held() == held
    else:
        assert rig.bot.tracker.get_position(BTC).quantity == rig.held() / 100
        assert held == 0 or rig.bot.protector.is_protected(BTC)
        truth, books = rig.truth(), rig.bot.tracker
        for ours in ("fees", "realized_pnl"):  # of funding, the hours that nobody saw are missing
            assert abs(books.total(ours) - Decimal(truth[ours])) < CENT


def test_no_id_is_ever_used_again_after_a_restore(make, tmp_path_factory):  # noqa: F811
    rig = entered(make())
    a_lost_disk(rig, tmp_path_factory.mktemp("backups"), it_closes)
    rig.start(adopt=(BTC,)).ticks(2)
    assert rig.bot.tracker.get_position(BTC).quantity == 0
    rig.bot.risk.resume("compared with the venue", rig.now.date())
    rig.falling(61000)  # the averages cross, and a short is wanted
    rig.start().ticks(4)
    ids = [order["client_order_id"] for order in rig.orders()]
    assert rig.held() < 0 and len(ids) == len(set(ids))
    assert len({each.split("-")[1] for each in ids}) == 2
