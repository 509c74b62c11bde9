"""A real headless Chromium that can reach nothing but files, driven over its DevTools protocol."""

import base64
import json
import shutil
import subprocess
import time
from contextlib import ExitStack

import websocket

PATIENCE_SECONDS = 60
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --mute-audio
    --disable-background-networking --disable-component-update --disable-sync --disable-extensions
    --disable-dev-shm-usage --no-default-browser-check --remote-debugging-port=0 --hide-scrollbars
    """.split()


def chromium():
    """Where it is, if it is there: asked anew, for it may be installed while other tests run."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page at a time; `messages` holds every event that the browser told since `open`."""

    def __init__(self, folder):
        self._process = subprocess.Popen(
            [chromium(), *FLAGS, "--host-resolver-rules=MAP * ~NOTFOUND", "--no-proxy-server",
             f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        with ExitStack() as undone:
            undone.callback(self.close)
            port, path = eventually(lambda: read_lines(folder / "DevToolsActivePort"))
            self.messages, self._number = [], 0
            self._socket = websocket.create_connection(
                f"ws://127.0.0.1:{port}{path}", timeout=PATIENCE_SECONDS, suppress_origin=True)
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = None
            self._session = self.call("Target.attachToTarget", targetId=target,
                                      flatten=True)["sessionId"]
            for domain in ("Page", "Network", "Runtime", "Log"):
                self.call(f"{domain}.enable")
            undone.pop_all()  # it is ready: whoever asked for it closes it

    def close(self):
        self._process.kill()
        self._process.wait()

    def call(self, method, **parameters):
        """Send one command and return its result; what else comes in is kept in `messages`."""
        self._number += 1
        session = {"sessionId": self._session} if getattr(self, "_session", None) else {}
        self._socket.send(json.dumps(
            {"id": self._number, "method": method, "params": parameters, **session}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self.messages.append(message)

    def open(self, path, width, height=900, scheme="light", is_phone=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=is_phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=is_phone)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.messages.clear()
        self.call("Page.navigate", url=path.as_uri())
        eventually(lambda: self.run("document.readyState === 'complete' && "
                                    "document.querySelectorAll('.main-svg').length > 0"))

    def run(self, script):
        """Return what a script of ours says in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, selector, which=0):
        """Press and release the mouse on the middle of an element, as a hand does."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelectorAll({json.dumps(selector)})[{which}];"
            f"e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();"
            f"return [r.x + r.width / 2, r.y + r.height / 2]; }})()")
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def complaints(self):
        """What the console, the log and uncaught errors said."""
        kinds = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}
        return [m["params"] for m in self.messages if m.get("method") in kinds]

    def requests(self):
        """The addresses that the page asked for, besides what it holds itself."""
        return [m["params"]["request"]["url"] for m in self.messages
                if m.get("method") == "Network.requestWillBeSent"
                and not m["params"]["request"]["url"].startswith(("data:", "blob:"))]

    def shoot(self, path, whole=True):
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


def read_lines(path):
    try:
        lines = path.read_text().split("\n")
    except FileNotFoundError:
        return None
    return lines if len(lines) == 2 else None


def eventually(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found
