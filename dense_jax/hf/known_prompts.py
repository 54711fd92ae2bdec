"""Prompts of published models whose folders name none. They are part of the model: without them it finds less."""

import re
from pathlib import Path
from typing import NamedTuple


class Prompts(NamedTuple):
    """Texts before queries and before passages."""

    query: str
    passage: str


# Pattern of the last part of a model's name -> its prompts, as its model card gives them.
KNOWN_PROMPTS = {
    r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?": Prompts("query: ", "passage: "),
    r"bge-(small|base|large)-en(-v1\.5)?": Prompts("Represent this sentence for searching relevant passages: ", ""),
    r"bge-(small|base|large)-zh(-v1\.5)?": Prompts("为这个句子生成表示以用于检索相关文章：", ""),  # noqa: RUF001
    r"nomic-embed-text-v1(\.5)?": Prompts("search_query: ", "search_document: "),
    r"modernbert-embed-(base|large)": Prompts("search_query: ", "search_document: "),
}


def known_prompts(folder: Path) -> tuple[str, Prompts] | None:
    """The name of the model in `folder`, and its prompts; None for an unknown one.

    The name is that of the folder, or that of the folder in the cache of the Hub.
    """
    cached = [part.rpartition("--")[2] for part in folder.absolute().parts if part.startswith("models--")]
    for name in (folder.absolute().name, *cached):
        for pattern, prompts in KNOWN_PROMPTS.items():
            if re.fullmatch(pattern, name, re.IGNORECASE):
                return name, prompts
    return None
