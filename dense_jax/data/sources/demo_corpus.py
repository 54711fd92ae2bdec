"""Python source -> (qualified name, readable text) of what it documents. Parsed with `ast`, never imported or run."""

import ast
import gc
import inspect
import re
import warnings
from collections.abc import Iterator

_FEWEST_WORDS = 15  # of a text worth keeping
_ENGLISH = frozenset("a an and are as be by for from if in is it not of on or that the this to when which with".split())  # noqa: SIM905
_LEAST_ENGLISH = 0.12  # share of these words; tables, ASCII art and lists of names have fewer

_ROLE = re.compile(r":[a-zA-Z:]{1,30}:`([^`<]{1,200}?) ?(?:<[^`>]{1,200}>)?`")  # :func:`numpy.dot` -> numpy.dot
_DIRECTIVE = re.compile(r"^( *)\.\. ([a-z]+):: ?", re.MULTILINE)  # .. note:: -> note:
_UNDERLINE = re.compile(r"^[ \t]*[-=~^*#\"'`_+.]{3,}[ \t]*\n", re.MULTILINE)
_SESSION = re.compile(r"^[ \t]*>>> .*\n(?:[ \t]*\S.*(?:\n|$))*", re.MULTILINE)  # an interactive session and its output
_MARKS = re.compile(r"`{1,3}|\*\*")
_SIGNATURE = re.compile(r"\A[\w.]{1,80}\([^\n]*(?:\n(?![ \t]*\n)[^\n]*)*\n\s*\n")  # a first paragraph like `dot(a, b)`


def documented(source: bytes, module: str) -> Iterator[tuple[str, str]]:
    """Each public module, class and function of `source` with its docstring, in the order of the file.

    Source that does not parse has none: other versions of Python, and templates.
    """
    try:
        tree = _parsed(source)
    except (SyntaxError, ValueError):
        return
    yield module, ast.get_docstring(tree, clean=False) or ""
    yield from _in_body(tree.body, module)


def topics(source: bytes) -> Iterator[tuple[str, str]]:
    """The entries of `pydoc_data.topics`, which is one literal."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            yield from ((f"topics.{name}", text) for name, text in ast.literal_eval(node.value).items())


def readable(docstring: str) -> str:
    """A docstring as prose: no indentation, signature, markup or interactive session."""
    text = inspect.cleandoc(docstring)
    text = _SIGNATURE.sub("", text + "\n") if _SIGNATURE.match(text + "\n") else text + "\n"
    text = _DIRECTIVE.sub(r"\1\2: ", _SESSION.sub("", _UNDERLINE.sub("", text)))
    return _MARKS.sub("", _ROLE.sub(r"\1", text)).strip()


def is_english_prose(text: str) -> bool:
    """Whether `text` has enough words, and enough of the commonest English ones among them."""
    words = re.findall(r"[a-z]+", text.lower())
    return len(words) >= _FEWEST_WORDS and sum(word in _ENGLISH for word in words) >= _LEAST_ENGLISH * len(words)


def _parsed(source: bytes) -> ast.Module:
    """`source` as a tree; what others' code is warned of is not our user's concern.

    The search for cycles is off meanwhile: a tree has many nodes and no cycle, and visiting them would double the time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(source)
    finally:
        if collecting:
            gc.enable()


def _in_body(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, str]]:
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() if not node.name.startswith("_"):
                name = f"{prefix}.{node.name}"
                yield name, ast.get_docstring(node, clean=False) or ""
                if isinstance(node, ast.ClassDef):
                    yield from _in_body(node.body, name)
            case ast.If() | ast.Try():
                yield from _in_body([*node.body, *node.orelse], prefix)
            case ast.Expr(value=ast.Call(func=ast.Name(id="add_newdoc"), args=args)):
                yield from _added(args, prefix)


def _added(arguments: list[ast.expr], prefix: str) -> Iterator[tuple[str, str]]:
    """What NumPy and SciPy document apart from its code: add_newdoc([module,] name, text or (method, text))."""
    try:
        *path, last = [ast.literal_eval(argument) for argument in arguments]
    except ValueError:
        return  # the text is computed
    names = [*path, *last[:-1]] if isinstance(last, tuple) else path
    text = last[-1] if isinstance(last, tuple) else last
    if isinstance(text, str) and all(map(_is_public, names)):
        yield ".".join([*([] if len(path) > 1 else [prefix]), *names]), text


def _is_public(name: object) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split(".")) and name[0] != "_"
