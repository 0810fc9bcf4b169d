"""A report as one HTML file that needs no network: the document, the plotting library and what draws them.

Only the page's own scripts run, by their hashes, and nothing of it reaches another host (Content-Security-Policy). The
plotting library, Vega-Lite, is bundled by ``vl-convert-python`` once for each version and kept in the user's cache.
"""

import base64
import hashlib
import html
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

from sparklet.errors import SettingsError
from sparklet.local.state import user_folder

VEGA_LITE = "6.4"
_FOLDER = Path(__file__).parent


def page(report: Mapping[str, Any] | None, title: str) -> str:
    """The page of a report; without one, a page that asks its server for it (``server``).

    Raises
    ------
    SettingsError
        The plotting library is not installed.
    """
    library, script = vega_lite(), (_FOLDER / "page.js").read_text(encoding="utf-8")
    # A value with </script> would end the element that holds the document.
    document = json.dumps(report, separators=(",", ":"), default=str).replace("<", "\\u003c")
    return Template((_FOLDER / "page.html").read_text(encoding="utf-8")).substitute(
        live="0" if report else "1",
        connect="'none'" if report else "'self'",
        hashes=" ".join(f"'sha256-{_hash(code)}'" for code in (library, script)),
        title=html.escape(title),
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        report=document,
        library=library,
        script=script,
    )


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def vega_lite() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script; SettingsError without the package that has them."""
    try:
        import vl_convert
    except ImportError:
        raise SettingsError("a report is drawn with vl-convert-python; pip install 'sparklet[report]'") from None
    name = f"vega-lite-{VEGA_LITE}-of-{version('vl-convert-python')}.js"
    with suppress(OSError, SettingsError):  # not there yet, or the user has no folder for it
        return (user_folder("cache") / name).read_text(encoding="utf-8")
    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE))
    with suppress(OSError, SettingsError):  # it is bundled again next time
        cache_path = user_folder("cache") / name
        cache_path.parent.mkdir(parents=True, exist_ok=True)
        draft = cache_path.with_suffix(f".{os.getpid()}")
        draft.write_text(bundle, encoding="utf-8")
        # A rename, so that another report that is made now reads no half of it.
        draft.replace(cache_path)
    return bundle
