"""Corpus on every machine: the documentation of Python and of the packages that dense_jax needs.

Title and id of a document are the qualified name of the documented object without private parts. Order and content
depend on the installed versions only. Source code is parsed by `ast`, never imported or run.
"""

import ast
import gc
import importlib.metadata
import importlib.util
import inspect
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from dense_jax.data.dedup import without_near_duplicates
from dense_jax.data.sources.documents import DocumentRow
from dense_jax.terminal.progress import progress

# Package -> the distribution whose version fixes its text; packages that are not installed are left out.
_PACKAGES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "jax": "jax",
    "flax": "flax",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
    "grain": "grain",
    "array_record": "array-record",
    "tensorflow_datasets": "tensorflow-datasets",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "huggingface_hub": "huggingface_hub",
    "safetensors": "safetensors",
    "scann": "scann",
    "datasketch": "datasketch",
    "bm25s": "bm25s",
    "ir_measures": "ir-measures",
    "jaxtyping": "jaxtyping",
    "absl": "absl-py",
    "etils": "etils",
    "tensorboardX": "tensorboardX",
    "tqdm": "tqdm",
    "treescope": "treescope",
    "rich": "rich",
    "fsspec": "fsspec",
    "google.protobuf": "protobuf",
}
# Folders of tests and of copies of other packages; and transformers' models, whose texts repeat one another.
_LEFT_OUT = {"tests", "test", "testing", "_vendor", "vendor", "third_party", "extern", "models", "site-packages"}
_LEFT_OUT |= {"idlelib", "lib2to3", "ensurepip", "turtledemo", "pydoc_data"}
_ALIKE = 0.7  # Jaccard similarity of near-duplicates
_FEWEST_WORDS = 15  # of a text worth keeping
_ENGLISH = frozenset("a an and are as be by for from if in is it not of on or that the this to when which with".split())  # noqa: SIM905
_LEAST_ENGLISH = 0.12  # share of these words; tables, ASCII art and lists of names have fewer

_ROLE = re.compile(r":[a-zA-Z:]{1,30}:`([^`<]{1,200}?) ?(?:<[^`>]{1,200}>)?`")  # :func:`numpy.dot` -> numpy.dot
_DIRECTIVE = re.compile(r"^( *)\.\. ([a-z]+):: ?", re.MULTILINE)  # .. note:: -> note:
_UNDERLINE = re.compile(r"^[ \t]*[-=~^*#\"'`_+.]{3,}[ \t]*\n", re.MULTILINE)
_SESSION = re.compile(r"^[ \t]*>>> .*\n(?:[ \t]*\S.*(?:\n|$))*", re.MULTILINE)  # an interactive session and its output
_MARKS = re.compile(r"`{1,3}|\*\*")
_SIGNATURE = re.compile(r"\A[\w.]{1,80}\([^\n]*(?:\n(?![ \t]*\n)[^\n]*)*\n\s*\n")  # a first paragraph like `dot(a, b)`


def installed_rows() -> Iterator[DocumentRow]:
    """All documents, near-duplicates merged under the first name; all files are read before the first document."""
    named = [(name, readable(text)) for name, text in _everything()]
    prose = ((name, text) for name, text in named if is_english_prose(text))
    for number, (name, text) in enumerate(without_near_duplicates(_first_of_name(prose), _ALIKE), start=1):
        yield DocumentRow(number, name, name, text)


def installed_versions() -> dict[str, str]:
    """The versions that fix the content: of Python and of each installed package."""
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(distribution)
        for package, distribution in _PACKAGES.items()
        if _folders(package)
    }


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
    """True if `text` has enough words, and enough of them are common English ones."""
    words = re.findall(r"[a-z]+", text.lower())
    return len(words) >= _FEWEST_WORDS and sum(word in _ENGLISH for word in words) >= _LEAST_ENGLISH * len(words)


def _everything() -> Iterator[tuple[str, str]]:
    library = Path(sysconfig.get_path("stdlib"))
    yield from topics((library / "pydoc_data" / "topics.py").read_bytes())
    folders = [(library, ()), *((f, tuple(p.split("."))) for p in _PACKAGES for f in _folders(p))]
    modules = [module for folder, prefix in folders for module in _module_files(folder, prefix)]
    for path, name in progress(modules, "read installed packages", len(modules), "files"):
        yield from documented(path.read_bytes(), name)


def _folders(package: str) -> list[Path]:
    """The folders of a package, which is not imported."""
    top, *rest = package.split(".")
    spec = importlib.util.find_spec(top)
    parents = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return [folder for parent in parents if (folder := Path(parent, *rest)).is_dir()]


def _module_files(folder: Path, prefix: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """The files of a package, each with the name of its module."""
    for path in sorted(folder.rglob("*.py")):
        parts = (*prefix, *path.relative_to(folder).with_suffix("").parts)
        if _LEFT_OUT.isdisjoint(parts) and not parts[-1].startswith("test_") and not parts[-1].endswith("_test"):
            yield path, ".".join(parts)


def _first_of_name(texts: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    names: set[str] = set()
    for name, text in texts:
        public = _public(name)
        if public not in names:
            names.add(public)
            yield public, text


def _public(name: str) -> str:
    """`jax._src.numpy.linalg.svd` -> `jax.numpy.linalg.svd`; a private module at the top only loses its underscores."""
    top, *rest = name.split(".")
    return ".".join([top.strip("_"), *(part for part in rest if not part.startswith("_"))])


def _parsed(source: bytes) -> ast.Module:
    """The syntax tree of `source`, without warnings about the code of others.

    Garbage collection is off: a tree has many nodes and no cycle, and visiting them would double the time.
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
    """Docstrings that NumPy and SciPy keep apart from the code: add_newdoc([module,] name, text or (method, text))."""
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
