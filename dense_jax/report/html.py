"""HTML pages that need no other file, no network and no script.

Text of users (titles, queries, names, settings) is escaped by the templates; the pages' own policy forbids scripts and
every load, in case something slips through.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dense_jax.io import whole_file


def render(template: str, content: Mapping[str, Any]) -> str:
    """Return the page that `template`, a file of this folder, makes of the values that it names."""
    environment = Environment(
        loader=PackageLoader("dense_jax.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template(template).render(content)


def write_page(path: Path, template: str, content: Mapping[str, Any]) -> None:
    """Write the page to `path`, whole or not at all."""
    page = render(template, content)
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8")
