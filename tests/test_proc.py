"""PROC: real processes, killed, interrupted and starved, against the real exchange.

Each test runs many accounts beside each other, for a bot mostly waits for its rate budget.  What
must hold is in `proc.judge`; how often it is asked in the full run, in `proc.release`.  Bounds are
wide here, because the machine does other things as well; in the full run they are those that were
promised.  Every process runs with LOG_LEVEL=DEBUG, and whatever an account left behind is searched
for secrets (I-46).
"""

import copy
import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from proc.account import account
from proc.interrupts import NEEDS_ROOT, SURROUNDINGS, interrupt, may_mount
from proc.judge import Broken, Judge, positions
from proc.kills import ON_THE_WIRE, die_everywhere, has_strace, kill_again_and_again
from proc.signals import signal_again_and_again
from proc.silence import an_exchange, seconds_until_noticed
from proc.starved import STARVED, starve

KILLS, SIGNALS, WORKERS = 50, 16, 16
ORDER_TYPES = ("market", "limit")
# What the market and the clock may keep from happening, however often it is tried.
PLACES_MISSED_MAX = 4
# One of each system call of an order's path; every N of them is for the full run.
CALLS = [("write", "events", 9), ("fsync", "", 9), ("sendto", "", 26), ("rename", "", 3),
         ("ftruncate", "", 1)]
# Seconds to the first cancel, and until all are confirmed gone.
FIRST_SECONDS_MAX, ALL_SECONDS_MAX = 2, 5
FIRST_IN_TROUBLE_SECONDS_MAX, ALL_IN_TROUBLE_SECONDS_MAX = 4, 10
AS_USUAL = 5


def beside_each_other(work, cases):
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(lambda case: work(*case), cases))


def shares(count):
    return [count // WORKERS + (n < count % WORKERS) for n in range(WORKERS)]


def test_a1_fifty_kills_at_random_instants_lose_nothing_and_send_nothing_twice():
    """A1 to A4, A7, A23, H3: 0 duplicate orders, 0 acknowledged events lost, books converge."""
    lives = beside_each_other(kill_again_and_again, [
        (share, seed, ORDER_TYPES[seed % 2]) for seed, share in enumerate(shares(KILLS))])
    assert sum(life.kills for life in lives) == KILLS
    happened = sum((Counter(life.events) for life in lives), Counter())
    assert happened["bot.started"] > KILLS / 2, "most died before they had begun"
    assert happened["order.intended"] > KILLS / 3 and happened["trade.executed"] > KILLS / 5


def test_a2_a3_a_death_at_each_place_of_an_orders_path_is_recovered_from():
    """Before it is booked, unanswered, half answered, answered; and at system calls of the bot."""
    places = [("wire", *row, 0) for row in ON_THE_WIRE]
    places += [("call", *row) for row in CALLS if has_strace()]
    lives = beside_each_other(die_everywhere, [
        (places[seed::WORKERS], seed) for seed in range(WORKERS)])
    assert sum(life.struck for life in lives) >= len(places) - PLACES_MISSED_MAX


def test_h1_h2_an_interrupt_cancels_a_hundred_orders_on_two_pages_whatever_fails_around_it():
    """H1, H2, A10, A20, C1, C3, I-10, I-14: hung and dripping calls, a full disk, no descriptors
    and, where this machine lets us, a file system without room and a dead name server."""
    names = [name for name in SURROUNDINGS if may_mount() or name not in NEEDS_ROOT]
    with ThreadPoolExecutor(WORKERS) as pool:
        usual = [pool.submit(interrupt, "", seed) for seed in range(AS_USUAL)]
        trouble = {name: pool.submit(interrupt, name, 1) for name in names if name}
        for found in (each.result() for each in usual):
            assert found.first < FIRST_SECONDS_MAX and found.all < ALL_SECONDS_MAX, found
        for name, found in ((name, each.result()) for name, each in trouble.items()):
            assert found.first < FIRST_IN_TROUBLE_SECONDS_MAX, (name, found)
            assert found.all < ALL_IN_TROUBLE_SECONDS_MAX, (name, found)


def test_h1_h3_h5_h6_a_signal_at_a_random_instant_is_obeyed_and_a_halt_lasts_until_resumed():
    found = beside_each_other(signal_again_and_again, [
        (share, seed, ORDER_TYPES[seed % 2]) for seed, share in enumerate(shares(SIGNALS))])
    assert sum(each.at_work for each in found) > SIGNALS / 3


def test_a10_a20_a_bot_that_may_write_or_open_nothing_opens_nothing_new_and_goes_on_afterwards():
    """On a full disk, on a file system without room (where this machine lets us), and without
    descriptors: the exchange's books and the bot's are equal in the end."""
    beside_each_other(starve, [
        (name,) for name in STARVED if may_mount() or name not in NEEDS_ROOT])


def test_f1_a_silent_feed_is_noticed_within_five_seconds():
    with an_exchange() as exchange:
        assert max(seconds_until_noticed(exchange, feeds=10)) < 6


# The judge itself


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What a bot that holds something behind its stops left: wire log, events, the exchange's books
    of it."""
    folder = tmp_path_factory.mktemp("left")
    with account(symbols=("BTC-PERP",)) as one:
        one.begin().holds_something().converge()
        one.kill()
        # It may have done something in that very moment.
        while not positions(truth := one.truth()) or one.judge.differs(truth):
            one.begin().holds_something().converge()
            one.kill()
        shutil.copy(one.sim.log_file, folder / "wire.jsonl")
        shutil.copytree(one.data / "events", folder / "events")
        return folder, one.truth()


@pytest.fixture
def evidence(left, tmp_path):
    """A copy that can be spoiled, the judge that has seen it whole, and the books."""
    shutil.copytree(left[0], tmp_path / "left")
    judge = Judge(tmp_path / "left" / "wire.jsonl", tmp_path / "left" / "events")
    judge.look()
    judge.books(left[1])
    assert judge.differs(left[1]) == ""
    return tmp_path / "left", judge, copy.deepcopy(left[1])


def a_create(folder, **changes):
    """Write the newest create into the wire log once more, changed."""
    rows = [json.loads(line) for line in (folder / "wire.jsonl").read_text().splitlines()]
    row = [row for row in rows if row["kind"] == "request" and row["method"] == "POST"
           and "order_configuration" in row["body"]][-1]
    row["body"].update(changes)
    with open(folder / "wire.jsonl", "a") as log:
        log.write(json.dumps(row) + "\n")


def lose_the_last_event(folder):
    path = max((folder / "events").glob("*.jsonl"))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def change_an_event(folder):
    (path,) = (folder / "events").glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"purpose":"entry"', b'"purpose":"ENTRY"', 1))


@pytest.mark.parametrize("spoil, words", [
    (a_create,                                                  "I-1: .* was sent twice"),
    (lambda folder: a_create(folder, client_order_id="pb-0-1"),  "I-3: .* is not on disk"),
    (lose_the_last_event,                                       "I-16: .* lost"),
    (change_an_event,                                           "I-16: .* lost"),
])
def test_the_judge_sees_what_is_lost_changed_or_sent_twice(evidence, spoil, words):
    folder, judge, _ = evidence
    spoil(folder)
    with pytest.raises(Broken, match=words):
        judge.look()


def test_the_judge_sees_a_chain_that_does_not_fit_at_first_sight(evidence):
    folder, _, _ = evidence
    change_an_event(folder)
    with pytest.raises(Broken, match="I-17"):
        Judge(folder / "wire.jsonl", folder / "events").look()


def test_the_judge_sees_an_order_that_is_not_the_one_on_disk(evidence):
    folder, judge, _ = evidence
    path = folder / "wire.jsonl"
    assert (text := path.read_text()) != (other := text.replace('"base_size": "3"',
                                                                '"base_size": "4"'))
    path.write_text(other)
    with pytest.raises(Broken, match="I-3: on disk"):
        Judge(path, folder / "events").look()


def twice_the_position(truth):
    truth["fills"].append({**truth["fills"][0], "order_id": "another"})


def a_flip(truth):
    truth["fills"].append({**truth["fills"][0], "order_id": "another", "size": "100",
                           "side": "SELL" if truth["fills"][0]["side"] == "BUY" else "BUY"})


@pytest.mark.parametrize("spoil, words", [
    (lambda truth: truth["orders"].append(truth["orders"][0]),  "I-1: placed twice"),
    (twice_the_position,                                        "a second entry"),
    (a_flip,                                                    "D11"),
])
def test_the_judge_sees_books_that_must_not_be(evidence, spoil, words):
    _, judge, truth = evidence
    spoil(truth)
    with pytest.raises(Broken, match=words):
        judge.books(truth)


def the_order(truth, status):
    """One that is FILLED, or the stop: whatever the market made of an account, there is one."""
    return next(order for order in truth["orders"] if order["status"] == status)


@pytest.mark.parametrize("spoil, words", [
    (lambda truth: truth["positions"].clear(),                            "we hold"),
    (lambda truth: the_order(truth, "OPEN").update(status="CANCELLED"),   "only here"),
    (lambda truth: the_order(truth, "FILLED").update(status="OPEN"),      "only there"),
    (lambda truth: the_order(truth, "OPEN").update(size="1"),             "has stops for"),
])
def test_the_judge_sees_where_the_books_differ(evidence, spoil, words):
    _, judge, truth = evidence
    spoil(truth)
    assert words in judge.differs(truth)
