"""How programs spell a text; without pytest, because children of tests import it."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import subprocess
import urllib.parse
from collections.abc import Callable

FORMS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "json": lambda text: json.dumps(text)[1:-1],
    "json utf-8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "json of go": lambda text: (
        json.dumps(text)[1:-1].replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    ),
    "json in json": lambda text: json.dumps(json.dumps(text)[1:-1])[1:-1],
    "url": lambda text: urllib.parse.quote(text, safe=""),
    "url lower": lambda text: re.sub("%..", lambda sign: sign[0].lower(), urllib.parse.quote(text)),
    "form": urllib.parse.quote_plus,
    "shlex": lambda text: shlex.quote(text).strip("'"),
    "printf %q": lambda text: (
        subprocess.run(
            ["bash", "-c", 'LC_ALL=C.UTF-8; printf %q "$1"', "-", text], capture_output=True, text=True, check=True
        ).stdout
    ),
    "set -x": lambda text: text.replace("'", "'\\''"),
    "html": html.escape,
    "repr": lambda text: repr(text)[1:-1],
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 url": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "colours": lambda text: f"{text[:4]}\x1b[1;31m{text[4:8]}\x1b[0m{text[8:]}",
}
