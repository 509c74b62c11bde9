"""PROC: real processes, killed and interrupted, against the real exchange.

Each test runs many accounts beside each other, for a bot mostly waits for its rate budget.  What
must hold is in `proc.judge`; how often it is asked in the full run, in `proc.release`.  Every
process runs with LOG_LEVEL=DEBUG, and whatever an account left behind is searched for secrets.
"""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from proc.kills import ON_THE_WIRE, die_everywhere, has_strace, kill_again_and_again

KILLS, WORKERS = 50, 8
ORDER_TYPES = ("market", "limit")
# What the market, the clock and the load of the machine may keep from happening in time.
PLACES_MISSED_MAX = 3
# One of each system call of an order's path; every N of them is for the full run.
CALLS = [("write", "events", 9), ("fsync", "", 9), ("sendto", "", 26), ("rename", "", 3),
         ("ftruncate", "", 1)]


def beside_each_other(work, cases):
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(lambda case: work(*case), cases))


def test_a1_fifty_kills_at_random_instants_lose_nothing_and_send_nothing_twice():
    """A1 to A4, A7, A23, H3: 0 duplicate orders, 0 acknowledged events lost, books converge."""
    shares = [KILLS // WORKERS + (n < KILLS % WORKERS) for n in range(WORKERS)]
    lives = beside_each_other(kill_again_and_again, [
        (share, seed, ORDER_TYPES[seed % 2]) for seed, share in enumerate(shares)])
    assert sum(life.kills for life in lives) == KILLS
    happened = sum((Counter(life.events) for life in lives), Counter())
    assert happened["bot.started"] > KILLS / 2, "most died before they had begun"
    assert happened["order.intended"] > KILLS / 3 and happened["trade.executed"] > KILLS / 5


def test_a2_a3_a_death_at_each_place_of_an_orders_path_is_recovered_from():
    """Before it is booked, unanswered, half answered, answered; and at system calls of the bot."""
    places = [("wire", *row, 0) for row in ON_THE_WIRE]
    places += [("call", *row) for row in CALLS if has_strace()]
    shares = [places[n::WORKERS] for n in range(WORKERS)]
    lives = beside_each_other(die_everywhere, [(share, seed) for seed, share in enumerate(shares)])
    assert sum(life.struck for life in lives) >= len(places) - PLACES_MISSED_MAX
