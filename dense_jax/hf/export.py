"""Export of trained towers to a folder for transformers and sentence-transformers, verified against our own vectors.

    FOLDER/README.md                                       the model card
           config.json model.safetensors                   the encoder, for transformers
           tokenizer.json tokenizer_config.json
           modules.json 1_Pooling ... sentence_bert_config.json config_sentence_transformers.json

Two different towers become two such models, in FOLDER/query and FOLDER/passage. For multi-vector encoders, see
multi_vector.py.
"""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from dense_jax.arrays import Float, np
from dense_jax.data.inputs import build_inputs, stack_tokens
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError, StorageError, require
from dense_jax.hf import tensors
from dense_jax.hf.config import read_config
from dense_jax.hf.model_card import CardContent, render_card
from dense_jax.hf.modules import apply_modules, encoder_modules, in_float32, read_modules, read_tokens, write_modules
from dense_jax.hf.multi_vector import read_view_vectors, write_multi_vector
from dense_jax.io import naming_storage_errors, read_json, sync, whole_file, write_json
from dense_jax.models.encoder import Encoder, MultiViewEncoder
from dense_jax.processes.locks import alone, lock_of
from dense_jax.retrieval.encode import count_unpooled
from dense_jax.types import Layout, Similarity, Tokens, Tower, Towers

TOLERANCE = 1e-4  # largest difference between components of a vector
Reader = Callable[[Sequence[str | tuple[str, str]]], Float[np.ndarray, "b *n d"]]  # texts or pairs -> vectors

_MARKERS = ("modules.json", "query/modules.json")  # files that identify an earlier export, which may be replaced


@dataclass(frozen=True)
class ExportReport:
    """Report on a finished export; `str` formats it."""

    folder: Path
    texts: int  # number of sample texts compared
    difference: float  # the largest between vector components

    def __str__(self) -> str:
        return (
            f"{self.folder}\nread back, the vectors of {self.texts} sample texts differ from ours by at most "
            f"{self.difference:.1e}"
        )


@dataclass(frozen=True)
class _Model:
    """One model to write."""

    place: str  # sub-folder; empty: the folder itself
    tower: Tower
    length: int
    prompts: dict[str, str]


def export(towers: Towers, tokenizer_folder: Path, folder: Path, card: CardContent) -> ExportReport:
    """Write `towers` to `folder`, read them back from the files alone, and compare the vectors of sample texts.

    An earlier export in `folder` is replaced once the new one has passed. Vectors are compared in float32, whatever the
    compute type of the towers.

    Raises:
        ConfigError: `folder` holds something else, another process exports to it, or the type of an encoder is unknown.
        StorageError: the disk is full or refuses, or a vector differs by more than TOLERANCE.
    """
    tokenizer = Tokenizer.load(tokenizer_folder)
    shared = _same_model(towers.query, towers.passage)
    for tower in (towers.query, towers.passage):
        _check_prompt(tower)
    lock = alone(lock_of(folder), f"{folder} is being exported")
    with lock, _replacing(folder) as partial, jax.default_matmul_precision("highest"):
        of_query, of_passage = _write_models(towers, shared, tokenizer, partial)
        with whole_file(partial / "README.md") as readme:
            readme.write_text(render_card(card, towers, shared), encoding="utf-8")
        differences = [
            _difference(towers.query, _QUERIES, True, tokenizer, of_query, folder),
            _difference(towers.passage, _PASSAGES, False, tokenizer, of_passage, folder),
        ]
    return ExportReport(folder, len(_QUERIES) + len(_PASSAGES), max(differences))


def _write_models(towers: Towers, shared: bool, tokenizer: Tokenizer, folder: Path) -> tuple[Reader, Reader]:
    """Write `towers` to `folder` and return readers of the vectors of queries and of passages."""
    if isinstance(towers.passage.encoder, MultiViewEncoder):
        write_multi_vector(towers, tokenizer, _prompts_by_side(towers), folder)
        return functools.partial(read_view_vectors, folder, "query"), functools.partial(
            read_view_vectors, folder, "document"
        )
    for model in _models(towers, shared):
        _write(model, tokenizer, towers.similarity, folder / model.place)
    places = ("", "") if shared else ("query", "passage")
    of_query, of_passage = (
        functools.partial(_their_vectors, folder / place, tower.length, tower.prompt)
        for place, tower in zip(places, (towers.query, towers.passage), strict=True)
    )
    return of_query, of_passage


def _same_model(a: Tower, b: Tower) -> bool:
    if a.encoder != b.encoder:
        return False
    leaves = zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True)
    return all(x is y or np.array_equal(x, y) for x, y in leaves)


def _models(towers: Towers, shared: bool) -> list[_Model]:
    query, passage, prompts = towers.query, towers.passage, _prompts_by_side(towers)
    if shared:
        return [_Model("", query, max(query.length, passage.length), prompts)]
    return [
        _Model("query", query, query.length, {"query": prompts["query"]}),
        _Model("passage", passage, passage.length, {"document": prompts["document"]}),
    ]


def _prompts_by_side(towers: Towers) -> dict[str, str]:
    """Prompts of the config. A pair has none, since its title must carry it (the card says so)."""
    document = "" if towers.passage.layout is Layout.PAIR else towers.passage.prompt
    return {"query": towers.query.prompt, "document": document}


def _write(model: _Model, tokenizer: Tokenizer, similarity: Similarity, folder: Path) -> None:
    encoder, params = model.tower.encoder, model.tower.params
    if not isinstance(encoder, Encoder):
        raise ConfigError(f"{type(encoder).__name__} cannot be exported: only models.encoder.Encoder can")
    parts = {name: params[name] for name in ("bert", "pooler") if name in params}
    vocabulary = tokenizer.vocabulary
    tensors.save_params(parts, encoder.bert, folder, pad=vocabulary.pad, ends=(vocabulary.cls, vocabulary.sep))
    tokenizer.save(folder, max_length=model.length)
    if "type" not in params["bert"]:  # transformers would pass on segments, which the model does not take
        path = folder / "tokenizer_config.json"
        write_json(path, read_json(path) | {"model_input_names": ["input_ids", "attention_mask"]})
    write_modules(encoder_modules(encoder, params, model.tower.pools_prompt), folder)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": model.length, "do_lower_case": False})
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": "3.0.0"},  # the oldest that reads all of this
            "prompts": model.prompts,
            "default_prompt_name": None,
            "similarity_fn_name": similarity.value,
        },
    )


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield an empty sibling of `folder`, which replaces it if the block succeeds."""
    occupied = folder.exists() and any(folder.iterdir())
    require(
        not occupied or any((folder / name).is_file() for name in _MARKERS),
        f"{folder} holds something other than an export; delete it or name another folder",
    )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with naming_storage_errors(folder):
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        sync(folder.parent)


# Sample titles and texts: both empty, a title only, no title, and a text that is too long.
_LONG = " ".join(str(i) for i in range(1_000))
_QUERIES = (("", ""), ("", "Who wrote the first program?"), ("", _LONG))
_PASSAGES = (*_QUERIES, ("Ada Lovelace", ""), ("Ada Lovelace", "She wrote the first program."), ("Ada Lovelace", _LONG))


def _check_prompt(tower: Tower) -> None:
    """Refuse mean pooling without the prompt for pairs: sentence-transformers does not know where that prompt ends."""
    require(
        tower.pools_prompt or not tower.prompt or tower.layout is not Layout.PAIR,
        f"objective.pool_prompts=false cannot be exported with objective.layout=pair and the prompt {tower.prompt!r}; "
        "use --objective.layout=joined",
    )


def _difference(
    tower: Tower,
    samples: Sequence[tuple[str, str]],
    are_queries: bool,
    tokenizer: Tokenizer,
    read: Reader,
    folder: Path,
) -> float:
    """Largest difference between the samples' vectors of `tower` and those of `read`."""
    ours = _our_vectors(tower, samples, are_queries, tokenizer)
    theirs = read([_their_input(tower, *sample) for sample in samples])
    differences = np.abs(ours.reshape(len(samples), -1) - theirs.reshape(len(samples), -1)).max(1)
    worst = int(np.argmax(differences))
    if not differences[worst] <= TOLERANCE:  # NaN is a failure too
        title, text = samples[worst]
        raise StorageError(
            f"{folder}: read back, the vector of {(title + ' ' + text)[:60]!r} differs from ours by "
            f"{differences[worst]:.2g}, more than {TOLERANCE}; nothing was exported. "
            "If there is a prompt, end it in a space: without one it may join the word after it"
        )
    return float(differences[worst])


def _our_vectors(
    tower: Tower, samples: Sequence[tuple[str, str]], are_queries: bool, tokenizer: Tokenizer
) -> Float[np.ndarray, "b *n d"]:
    side = tower
    if are_queries:  # as in search, prompt and query are one text
        side, samples = dataclasses.replace(tower, prompt=""), [(title, tower.prompt + text) for title, text in samples]
    tokens = stack_tokens([_our_tokens(side, *sample, tokenizer) for sample in samples])
    count = count_unpooled(tower, tokenizer)
    apply = functools.partial(in_float32(tower.encoder).apply, **({"unpooled": count} if count else {}))
    return np.asarray(jax.jit(apply)(tower.params, tokens))


def _our_tokens(tower: Tower, title: str, text: str, tokenizer: Tokenizer) -> Tokens:
    """Tokens as in embedding: prompt first, and a space between title and text."""
    space = " " if tower.layout is Layout.JOINED and title and text else ""
    prompt, title_ids, text_ids = tokenizer.encode([tower.prompt, title, space + text])
    return build_inputs(title_ids, text_ids, tower.length, tower.layout, tokenizer.vocabulary, prompt=prompt)


def _their_input(tower: Tower, title: str, text: str) -> str | tuple[str, str]:
    """Input that the card describes for a title and text."""
    if tower.layout is Layout.PAIR:
        return tower.prompt + title, text
    return tower.prompt + (" ".join(filter(None, (title, text))) if tower.layout is Layout.JOINED else text)


def _their_vectors(
    folder: Path, length: int, prompt: str, inputs: Sequence[str | tuple[str, str]]
) -> Float[np.ndarray, "b d"]:
    """Vectors computed from the files of `folder` alone; all `inputs` start with `prompt`."""
    encoder = in_float32(Encoder(read_config(folder)))
    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(encoder.init, jax.random.key(0)))
    params, _ = tensors.load_params(blank, folder, encoder)
    tokens = read_tokens(folder, inputs, length)
    hidden = np.asarray(jax.jit(encoder.hidden_states)(params, tokens))
    prompted = int(read_tokens(folder, [prompt], length).mask.sum()) - 1 if prompt else 0  # without its last [SEP]
    return apply_modules(read_modules(folder), hidden, np.asarray(tokens.mask), prompted)
