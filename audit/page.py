"""What the pages have in common: their templates, their style, and that they load nothing.

Knows Jinja and where templates lie. It does not know what a page is about.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

import jinja2
from markupsafe import Markup


def environment(*, escape: bool = True) -> jinja2.Environment:
    """Templates of this folder, by their file's name. A name that is not given is an error."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style() -> dict[str, str]:
    """The style sheet, and the hash by which a page's policy admits it and nothing else."""
    text = _read("report.css")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"style": Markup(text), "style_hash": digest}


def _read(name: str) -> str:
    return (resources.files("evenhand.audit") / name).read_text(encoding="utf-8")
