"""Documents as plain text: a document a line of a .txt file, or a document a file of a folder. `.gz` and `.xz` too."""

from collections.abc import Iterator, Sequence

import xxhash

from dense_jax.data.sources.documents import DocumentRow
from dense_jax.data.sources.lines import decoded, form, lines, stem, whole_content
from dense_jax.data.sources.readers import text_of
from dense_jax.data.sources.rejects import RowError
from dense_jax.io import AnyPath, digest
from dense_jax.types import Reject

TEXT = ".txt"


def line_rows(path: AnyPath, longest: int) -> Iterator[DocumentRow | Reject]:
    """A row for each line of `path` that is not blank; its id is its number."""
    for number, raw in lines(path, longest):
        try:
            yield DocumentRow(number, number, "", text_of(raw, longest))
        except RowError as error:
            yield Reject(f"{path}:{number}", str(error))


def file_rows(folder: AnyPath, files: Sequence[AnyPath]) -> Iterator[DocumentRow | Reject]:
    """A row for each of `files`: its id is its path in `folder`, its title is its name without the ending."""
    for number, path in enumerate(files, start=1):
        where = f"{path}:1"
        try:
            text = decoded(whole_content(path))
        except RowError as error:
            yield Reject(where, str(error))
            continue
        row = DocumentRow(number, path.relative_to(folder).as_posix(), stem(path), text, where)
        yield row if text.strip() else Reject(where, "holds no text")


def files_in(folder: AnyPath) -> list[AnyPath]:
    """All files of a folder and its folders in the order of their names, without hidden ones."""
    files = (path for path in sorted(folder.glob("**/*")) if path.is_file())
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def is_text(path: AnyPath) -> bool:
    return form(path) == TEXT


def files_digest(folder: AnyPath, files: Sequence[AnyPath]) -> str:
    """The xxh3-128 of the paths of `files` in `folder` and of their content, in hex."""
    hasher = xxhash.xxh3_128()
    for path in files:
        hasher.update(f"{path.relative_to(folder).as_posix()}\n{digest(path)}\n".encode())
    return hasher.hexdigest()
