"""The exchange as a process: `python -m tests.exchange --log FILE`, run from the repository's root.

It prints one line of JSON, {"port": ..., "control": ...}, and serves until SIGTERM or SIGINT, with
`--until-eof` also until its standard input ends, so that it cannot outlive the test that began it.
"""

import argparse
import json
import secrets
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .core import Exchange
from .server import Server


def main(arguments=None):
    options = parsed(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    scenario = json.loads(Path(options.scenario).read_text("utf-8")) if options.scenario else {}
    if options.clock == "real":
        ahead = timedelta(seconds=scenario.pop("ahead_seconds", 0))
        scenario.setdefault("now", (datetime.now(UTC) + ahead).isoformat())
    control = secrets.token_hex(16)
    server = Server(Exchange(scenario), scenario, options.log, options.clock, options.tls,
                    options.port, control).start()
    print(json.dumps({"port": server.port, "control": control}), flush=True)
    try:
        if options.until_eof:
            sys.stdin.buffer.read()
        else:
            signal.pause()
    finally:
        server.stop()


def parsed(arguments):
    parser = argparse.ArgumentParser(prog="python -m tests.exchange", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes any free port")
    parser.add_argument("--scenario", help="a JSON file; see Exchange in core.py")
    parser.add_argument("--log", required=True, help="the wire log, appended to")
    parser.add_argument("--clock", choices=("real", "manual"), default="real")
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"), help="serve https, wss")
    parser.add_argument("--until-eof", action="store_true", help="end with standard input")
    return parser.parse_args(arguments)


def leave(number, frame):
    raise SystemExit(0)


if __name__ == "__main__":
    main()
