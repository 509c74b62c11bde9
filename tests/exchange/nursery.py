"""Nursery: an exchange is a process of its own; need it read all its modules anew?

`python -m exchange.nursery FD` has read them and waits at that socket for arguments, and for four
descriptors: input, output, errors, and a pipe for the exit code.  Each such message is answered
with the id of a fork that is the exchange.  It ends with the other end of the socket.
"""

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
MESSAGE_BYTES_MAX = 65_536
DESCRIPTORS = 4
BROKEN = 1


class Exchange:
    """One exchange, with those parts of subprocess.Popen that a harness needs."""

    def __init__(self, arguments, errors):
        theirs, self._to = os.pipe()
        self._from, answers = os.pipe()
        self._end, code = os.pipe()
        self.returncode, passed = None, [theirs, answers, errors.fileno(), code]
        self.pid = _nursery().bear(arguments, passed)
        for descriptor in (theirs, answers, code):
            os.close(descriptor)
        self.stdin, self.stdout = os.fdopen(self._to, "wb", 0), os.fdopen(self._from, "rb")

    def wait(self, timeout=None):
        """Return the exit code; raises subprocess.TimeoutExpired as Popen does."""
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("the exchange", timeout)
            self.returncode = int(os.read(self._end, 16) or -signal.SIGKILL)
            os.close(self._end)
        return self.returncode

    def kill(self):
        if self.returncode is None and not select.select([self._end], [], [], 0)[0]:
            os.kill(self.pid, signal.SIGKILL)


class Nursery:
    """The process at the other end, from the first exchange to the end of ours."""

    def __init__(self):
        self._line, theirs = socket.socketpair()
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{PACKAGE.name}.nursery", str(theirs.fileno())],
                cwd=PACKAGE.parent, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def bear(self, arguments, descriptors):
        with self._lock:
            socket.send_fds(self._line, [json.dumps(arguments).encode()], descriptors)
            return int(self._line.recv(16))


_made, _making = [], threading.Lock()


def _nursery():
    with _making:
        if not _made:
            _made.append(Nursery())
        return _made[0]


# The process itself


def serve(line, main):
    """Bear one exchange after the other, and tell how each of them ended."""
    bell, rings = socket.socketpair()
    bell.setblocking(False)
    rings.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(bell.fileno())
    codes = {}
    gc.freeze()
    while True:
        ready, _, _ = select.select([line, rings], [], [])
        if rings in ready:
            rings.recv(4096)
            bury(codes)
        if line in ready:
            message, passed, _, _ = socket.recv_fds(line, MESSAGE_BYTES_MAX, DESCRIPTORS)
            if not message:
                return
            if (pid := os.fork()) == 0:
                for each in (line, bell, rings):
                    each.close()
                for descriptor in codes.values():
                    os.close(descriptor)
                live(json.loads(message), passed, main)
            codes[pid] = passed.pop()
            for descriptor in passed:
                os.close(descriptor)
            line.send(str(pid).encode())


def bury(codes):
    while codes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        code = codes.pop(pid)
        os.write(code, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(code)


def live(arguments, descriptors, main):
    """Be the exchange, to its end."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, code = descriptors
    os.close(code)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    ended = BROKEN
    try:
        main(arguments)
        ended = 0
    except SystemExit as left:
        ended = left.code or 0
    finally:
        if sys.exc_info()[0]:  # what nobody caught; the parent's stack is no place for it
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended)


if __name__ == "__main__":
    from .__main__ import main

    serve(socket.socket(fileno=int(sys.argv[1])), main)
