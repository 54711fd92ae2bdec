"""Text of users in Markdown and charts: one line, of which nothing is markup, HTML or a formula."""

import html
import re

_MARKUP = re.compile(r"[\\`*|$\[\]]")


def printable(text: str) -> str:
    """`text` on one line, without control characters: a document must not be able to steer the terminal.

    >>> printable("a\\n b\\x1b[2J")
    'a b [2J'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def plain(text: str) -> str:
    r"""`text` as Markdown that shows it as it is, in a cell of a table too.

    >>> print(plain("a|b <script> $x$"))
    a\|b &lt;script&gt; \$x\$
    """
    return _MARKUP.sub(r"\\\g<0>", html.escape(printable(text), quote=False))


def fenced(text: str) -> str:
    """`text` as a block of code, whatever back-quotes it holds."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
