"""Courier: how does a post get out, and what became of it?

A thread for each address: the loop puts a job on a bounded queue and later takes back what became
of it.  What a post says is decided elsewhere, and no address is ever shown.
"""

import json
import queue
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from urllib.parse import urlsplit

import requests

from perps_bot.secret import Secret, conceal
from perps_bot.transport import Answer, Lane, Origin, Until

# Jobs that wait for the thread; one post, how often it is tried, and the pauses between.
WAITING_MAX = 16
POST_SECONDS_MAX, PAUSES_SECONDS = 5, (1, 5)
HEADERS = {"User-Agent": "perps-bot", "Accept-Encoding": "identity"}


class Courier:
    """One address, the thread that posts there, and what waits for it.

    counts  how many posts were taken there, were not, and found the queue full
    trouble why the last one was not taken; empty when it was
    """

    def __init__(self, name: str, url: Secret) -> None:
        conceal(url.reveal().partition("://")[2].partition("/")[2])
        self._url, self.trouble = url, ""
        self.counts = dict.fromkeys(("sent", "failed", "dropped"), 0)
        self._jobs: queue.Queue = queue.Queue(maxsize=WAITING_MAX)
        # Twice what can wait: the thread may finish a queue while the loop fills the next.
        self._results: deque[tuple[str, str]] = deque(maxlen=2 * WAITING_MAX)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"post-{name}", daemon=True)
        self._thread.start()

    def put(self, code: str, body: Mapping | None) -> bool:
        """Have `body` posted, or the address fetched; False where too much waits already."""
        try:
            self._jobs.put_nowait((code, body))
        except queue.Full:
            self.counts["dropped"] += 1
            return False
        return True

    def results(self) -> Iterator[tuple[str, str, bool]]:
        """Yield what was done since the last call: code, why not, and whether that is new."""
        while self._results:
            code, trouble = self._results.popleft()
            self.counts["failed" if trouble else "sent"] += 1
            is_news, self.trouble = trouble != self.trouble, trouble
            yield code, trouble, is_news

    def figures(self) -> dict[str, object]:
        ended = "" if self._thread.is_alive() or self._closing.is_set() else "its thread ended"
        trouble = ended or self.trouble
        return {"ok": not trouble, "error": trouble, "waiting": self._jobs.qsize(), **self.counts}

    def close(self, seconds_max: float) -> None:
        """Post what waits, each once, and end the thread; one that hangs is left behind."""
        until = Until(seconds_max)
        self._closing.set()
        with suppress(queue.Full):
            self._jobs.put(None, timeout=max(until.left(), 0))
            self._thread.join(max(until.left(), 0))

    def _run(self) -> None:
        lane = _lane(self._url)
        while (job := self._jobs.get()) is not None:
            code, body = job
            self._results.append((code, self._delivered(lane, body)))

    def _delivered(self, lane: Lane, body: Mapping | None) -> str:
        """Try it a few times; return why it was not taken, or nothing."""
        for pause in (*PAUSES_SECONDS, None):
            answer = _asked(lane, self._url, body)
            trouble = _trouble(answer)
            may_help = answer.status == 0 or answer.status == 429 or answer.status >= 500
            if not trouble or not may_help or pause is None or self._closing.wait(pause):
                return trouble
        return trouble


def post(url: Secret, body: Mapping) -> str:
    """Post once, and wait for the answer; return what went wrong, without the address."""
    return _trouble(_asked(_lane(url), url, body))


def _lane(url: Secret) -> Lane:
    parts = urlsplit(url.reveal())
    return Lane("post", Origin(f"{parts.scheme}://{parts.netloc}".lower(), hosts=None))


def _asked(lane: Lane, url: Secret, body: Mapping | None) -> Answer:
    made = requests.Request("GET" if body is None else "POST", url.reveal(), HEADERS).prepare()
    if body is not None:
        made.headers["Content-Type"] = "application/json"
        made.prepare_body(json.dumps(body), None)
    answer = lane.ask(made, Until(POST_SECONDS_MAX))
    lane.close()  # the next one comes much later, when this connection would be stale
    return answer


def _trouble(answer: Answer) -> str:
    if answer.status:
        return "" if 200 <= answer.status < 300 else f"HTTP {answer.status}"
    # Only the kind of error: its words could tell the host.
    return f"not delivered: {answer.trouble.partition(':')[0]}"
