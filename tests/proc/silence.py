"""Silence: how soon is it noticed that a WebSocket says nothing any more?

Real feeds on real sockets and in real time, many beside each other: the exchange goes on counting
its messages and sends none of them.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from exchange.harness import Simulator, wait_until
from helpers import BTC, a_product
from live import IDS
from pace import Stopwatch

from perps_bot.feed import MarkFeed

NOTICED_SECONDS_MAX = 5
FEEDS = 100
POLL_SECONDS = 0.01
PATIENCE_SECONDS = 90


@contextmanager
def an_exchange():
    with TemporaryDirectory(prefix="proc-") as folder, Simulator(folder=Path(folder)) as exchange:
        yield exchange


def seconds_until_noticed(exchange, feeds=FEEDS):
    """Silence that many feeds at once; return how long each of them took to notice."""
    made = [MarkFeed(exchange.ws_url, exchange.ws_url, None, lambda: datetime.now(UTC),
                     lambda: None) for _ in range(feeds)]
    try:
        for feed in made:
            feed.follow([replace(a_product(), product_id=IDS[BTC])])
        wait_until(lambda: not any(is_stale(feed) for feed in made), "messages for every feed",
                   PATIENCE_SECONDS)
        exchange.network("ws_silence")
        return noticed(made)
    finally:
        exchange.network("ws_clear")
        with ThreadPoolExecutor(feeds) as pool:  # each waits for its own thread
            list(pool.map(MarkFeed.stop, made))


def noticed(feeds):
    waiting, took = list(feeds), []
    with Stopwatch() as watch:
        while waiting and watch.real < PATIENCE_SECONDS:
            now = [feed for feed in waiting if is_stale(feed)]
            took += [watch.seconds] * len(now)
            waiting = [feed for feed in waiting if feed not in now]
            time.sleep(POLL_SECONDS)
    return took + [PATIENCE_SECONDS] * len(waiting)


def is_stale(feed):
    return feed.figures()["market"]["stale"]
