"""Page: how is a report shown in a browser?

One file that asks the network for nothing: plotly.js, which the extra `report` brings, our own
script and the figures are all in it.  A policy in its head forbids everything else.  Nothing is
counted here, and no text of the events is ever markup: the script sets it as text.
"""

import base64
import hashlib
import json
import sys
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from perps_bot.errors import ConfigError
from perps_bot.outputs import private

TEMPLATE = Path(__file__).with_name("page.html")
# What would end the block of figures, or begin a comment in it; JSON reads it back as it was.
UNSAFE = {code: f"\\u{code:04x}" for code in map(ord, "<>&\u2028\u2029")}


def library() -> str:
    """Return plotly.js; ConfigError, with the way to get it, where the extra is missing."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as missing:
        raise ConfigError(
            f"--html needs the extra `report`: {sys.executable} -m pip install 'plotly>=6,<8'. "
            f"Text, --json and --csv need nothing") from missing
    return get_plotlyjs()


def write_page(path: Path, told: Mapping, script: str) -> None:
    """Write the page of what `report.summary` told; `script` is `library`'s.  Raises OSError."""
    template = TEMPLATE.read_text("utf-8")
    _, _, ours = template.partition("<script>/* ours */")
    hashes = " ".join(map(_hash, (script, "/* ours */" + ours.partition("</script>")[0])))
    figures = json.dumps(told, default=_plain, separators=(",", ":")).translate(UNSAFE)
    # Each mark stands once in the template; the figures come last, so no text of theirs is one.
    for mark, text in (("@HASHES@", hashes), ("@PLOTLY@", script), ("@FIGURES@", figures)):
        template = text.join(template.split(mark, 1))
    with open(path, "w", encoding="utf-8", opener=private) as file:
        file.write(template)


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _plain(value: Decimal | datetime) -> str:
    """Numbers exact; times as plotly reads them, in UTC and without an offset."""
    return (f"{value:f}" if isinstance(value, Decimal) else
            value.isoformat(" ").removesuffix("+00:00"))
