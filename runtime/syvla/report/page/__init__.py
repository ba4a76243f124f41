"""The page of a recording: one HTML file that needs nothing else, from the parts in this folder.

What was recorded, however hostile, is data in it: JSON in which no character can end a script, shown as text alone. A
content security policy lets only the page's own script run, and nothing be fetched.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

SCRIPTS = ("series.js", "lanes.js", "panel.js", "view.js")  # in the order in which they need each other


def page(data: Mapping[str, Any], mp4: bytes) -> str:
    """The page that shows ``data`` (see ``view_data``) beside the film ``mp4``; empty: there is none."""
    style = _part("view.css")
    script = "".join(_part(name) for name in SCRIPTS)
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; media-src blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(_part("view.html")).substitute(
        policy=policy,
        title=html.escape(str(data["title"])),
        style=style,
        data=embedded(data),
        film=base64.b64encode(mp4).decode(),
        script=script,
    )


def embedded(data: Mapping[str, Any]) -> str:
    """``data`` as JSON that is safe inside a script element, whatever its texts say."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _part(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
