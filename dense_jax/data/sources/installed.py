"""The corpus that is on every machine: the documentation of Python and of the packages that dense_jax stands on.

Title and id of a document are the qualified name of what it documents, private parts left out. Order and content depend
on nothing but the installed versions.
"""

import importlib.metadata
import importlib.util
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from dense_jax.data.dedup import without_near_duplicates
from dense_jax.data.sources.demo_corpus import documented, is_english_prose, readable, topics
from dense_jax.data.sources.documents import DocumentRow
from dense_jax.progress import progress

# Package -> the distribution whose version fixes its text. One that is not installed is left out.
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


def installed_rows() -> Iterator[DocumentRow]:
    """Every document, near-duplicates merged under the first name; all files are read before the first one."""
    named = [(name, readable(text)) for name, text in _everything()]
    prose = ((name, text) for name, text in named if is_english_prose(text))
    for number, (name, text) in enumerate(without_near_duplicates(_first_of_name(prose), _ALIKE), start=1):
        yield DocumentRow(number, name, name, text)


def installed_versions() -> dict[str, str]:
    """What the content depends on: version of Python and of each package that is there."""
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(distribution)
        for package, distribution in _PACKAGES.items()
        if _folders(package)
    }


def _everything() -> Iterator[tuple[str, str]]:
    library = Path(sysconfig.get_path("stdlib"))
    yield from topics((library / "pydoc_data" / "topics.py").read_bytes())
    folders = [(library, ()), *((f, tuple(p.split("."))) for p in _PACKAGES for f in _folders(p))]
    modules = [module for folder, prefix in folders for module in _modules(folder, prefix)]
    for path, name in progress(modules, "read installed packages", len(modules), "files"):
        yield from documented(path.read_bytes(), name)


def _folders(package: str) -> list[Path]:
    """Where a package lies, without importing it."""
    top, *rest = package.split(".")
    spec = importlib.util.find_spec(top)
    parents = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return [folder for parent in parents if (folder := Path(parent, *rest)).is_dir()]


def _modules(folder: Path, prefix: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """The files of a package, and the name of the module that each is."""
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
