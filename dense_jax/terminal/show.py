"""A config before training: settings, one decoded example, shapes, parameters, memory, tokens."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Params
from dense_jax.augmented.objective import RetrievalAugmented
from dense_jax.config import Config
from dense_jax.config.tree import to_dict
from dense_jax.data.pipeline import Examples, real_tokens
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.mesh import batch_shards, platform
from dense_jax.models.transformer import choose_attention, model_configs
from dense_jax.objective import HostBatch, unpack
from dense_jax.train.loop import Program
from dense_jax.train.optimizer import path_name
from dense_jax.types import Passage, SearchResult, Tokens

_SAMPLE = 64  # examples behind the estimate of real tokens


def settings(config: Config) -> str:
    """The checked config, one setting a line."""
    return "\n".join(_settings(to_dict(config), indent=0))


def attention(examples: Examples, size: int) -> str:
    """The attention kernels for the lengths of sequence in a batch of `size`, with the reason of each."""
    lengths: dict[str, dict[int, None]] = {}
    for n in sorted({tokens.mask.shape[-1] for tokens in _sequences(batch_like(examples, size))}):
        for config in model_configs(examples.objective):
            choice = choose_attention(config, platform(), n)
            lengths.setdefault(f"{choice.attention.value} ({choice.reason})", {})[n] = None
    return ", ".join(f"{choice} at {' and '.join(map(str, of))} tokens" for choice, of in lengths.items())


def compute_types(examples: Examples) -> str:
    """The compute type of each encoder on the devices, with the setting that it follows from."""
    found = {(config.dtype.on(platform()), config.dtype) for config in model_configs(examples.objective)}
    return ", ".join(f"{dtype.value} (dtype={named.value} on {platform()})" for dtype, named in found)


def example(examples: Examples, tokenizer: Tokenizer) -> str:
    """The run's first example, decoded."""
    found = examples[0].inputs
    arrays = {name: _array(value) for name, value in found.items() if not _is_text_field(name, value)}
    return "\n".join([*example_texts(examples, tokenizer), *(f"{name}: {value}" for name, value in arrays.items())])


def example_texts(examples: Examples, tokenizer: Tokenizer) -> list[str]:
    """The document that the run's first example is made from, and its texts, decoded."""
    found, row = examples[0]
    texts = [f"{name}: {_decoded(name, value, found, tokenizer)}" for name, value in found.items()
             if _is_text_field(name, value)]  # fmt: skip
    return [f"made from {examples.store.document(int(row)).id!r}", *texts]


def spans(examples: Examples, tokenizer: Tokenizer) -> str:
    """The passage that the run's first example is made from, decoded, with its salient spans in double brackets."""
    passage = examples.store.sample(int(examples[0].row), 0, np.random.default_rng(0))
    assert isinstance(passage, Passage)
    text = tokenizer.decode(passage.tokens)
    for start, end in passage.spans[::-1]:
        # the decoded first tokens are a prefix of the decoded whole
        before, until = (len(tokenizer.decode(passage.tokens[:place])) for place in (start, end))
        marked = text[before:until].lstrip()
        text = f"{text[: until - len(marked)]}[[{marked}]]{text[until:]}"
    return f"{len(passage.spans)} in {len(passage.tokens)} tokens: {text}"


def batch(examples: Examples, config: Config) -> str:
    """The shape and type of each array of a batch."""
    paths = jax.tree_util.tree_leaves_with_path(batch_like(examples, config.batch))
    return "\n".join(f"{path_name(p):24} {x.dtype.name:8} {[*x.shape]}" for p, x in paths)


def parameters(params: Params) -> str:
    """The shape and size of each parameter; equal layers of a stack share one line."""
    rows: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        rows[re.sub(r"layer_\d+", "layer_*", path_name(path)), leaf.shape] += 1
    lines = [f"{name:60} {f'{n} x ' if n > 1 else '':>5}{list(shape)!s:>16} {n * math.prod(shape):>13,}"
             for (name, shape), n in rows.items()]  # fmt: skip
    return "\n".join([*lines, f"{'total':60} {'':21} {_count_parameters(params):>13,}"])


def memory(program: Program, examples: Examples | None) -> str:
    """Bytes of state, batch and activations on each device."""
    lines = [f"{name:48} {size / 2**20:>10,.1f} MiB" for name, size in memory_parts(program, examples).items()]
    return "\n".join([f"on each of {program.mesh.size} devices {dict(program.mesh.shape)}", *lines])


def memory_parts(program: Program, examples: Examples | None) -> dict[str, int]:
    """The same as numbers."""
    like, shares = program.like, batch_shards(program.mesh)
    parts = {"parameters": like.params, "optimizer state": like.optimizer, "carry": like.carry}
    sizes = {name: local_bytes(tree) for name, tree in parts.items()}
    sizes["gradients"] = sizes["parameters"]
    if examples is not None:
        sizes["batch"] = whole_bytes(batch_like(examples, program.config.batch)) // shares
        sizes |= {name: size // shares for name, size in activations(program, examples).items()}
    return sizes


def activations(program: Program, examples: Examples) -> dict[str, int]:
    """Bytes of the forward pass that the backward pass needs, before the compiler's own savings.

    With a gradient cache (`chunk`): of `chunk` examples, and of the encodings of all. Scores computed in chunks are not
    counted.
    """
    config, params = program.config, program.like.params
    objective, size = config.objective, config.chunk or config.batch
    whole, part = (batch_like(examples, n) for n in (config.batch, size))

    def encode(params: Params, carry: Carry, batch: Batch) -> Encoded:
        return objective.encode(params, carry, batch, rng=jax.random.key(0))

    def combine(encoded: Encoded, carry: Carry, batch: Batch) -> Array:
        return objective.combine(carry, unpack(encoded), batch, step=jnp.zeros((), jnp.int32))[0]

    encoded = jax.eval_shape(encode, params, program.like.carry, whole)
    sizes = {
        f"activations of {size:,} examples": _saved(encode, params, program.like.carry, part),
        "scores and other terms of the loss": _saved(combine, encoded, program.like.carry, whole),
    }
    return sizes | ({"encodings of the batch": whole_bytes(encoded)} if config.chunk else {})


def batch_like(examples: Examples, size: int) -> Batch:
    """Shapes and types of a batch of `size` examples, as the objective collates them."""
    (example, row), objective = examples[0], examples.objective
    if isinstance(objective, RetrievalAugmented):
        one = HostBatch(jax.tree.map(lambda x: np.asarray(x)[None], example), np.array([row]))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), _joined(examples, one))
    stacked = jax.tree.map(lambda x: np.broadcast_to(x, (size, *np.shape(x))), example)
    collated = objective.collate(stacked, np.arange(size))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), collated)


def _joined(examples: Examples, one: HostBatch) -> Batch:
    """A batch of one example with passages, which here are the first ones."""
    objective = examples.objective
    assert isinstance(objective, RetrievalAugmented)
    searched = examples.searched
    assert searched is not None
    rows = np.minimum(np.arange(objective.depth), len(searched) - 1)[None]
    width = objective.towers(jax.eval_shape(objective.init, jax.random.key(0))).query.encoder.width
    return objective.join(
        one, SearchResult(rows, np.zeros((*rows.shape, width), np.float32)), searched, examples.vocabulary
    )


def room_for_tokens(batch: Batch) -> int:
    """Tokens of a batch, with padding."""
    return sum(math.prod(tokens.mask.shape) for tokens in _sequences(batch))


def _sequences(batch: Batch) -> Iterator[Tokens]:
    leaves = jax.tree.leaves(batch, is_leaf=lambda node: isinstance(node, Tokens))
    return (leaf for leaf in leaves if isinstance(leaf, Tokens))


def _saved(function: Callable[..., Any], wanted: Any, *rest: Any) -> int:
    """Bytes kept between the forward and the backward pass of `function`, `wanted` itself not counted."""
    saved = jax.eval_shape(lambda *all: jax.vjp(lambda x: function(x, *all[1:]), all[0])[1], wanted, *rest)
    known = Counter((x.shape, x.dtype) for x in jax.tree.leaves((wanted, rest)))
    left = Counter((x.shape, x.dtype) for x in jax.tree.leaves(saved)) - known
    return sum(n * math.prod(shape) * dtype.itemsize for (shape, dtype), n in left.items())


def whole_bytes(tree: Any) -> int:
    """Bytes of all arrays of `tree`."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def plan(examples: Examples, config: Config) -> str:
    """Steps, examples and tokens to come; how often each passage is visited."""
    sample = [examples[i].inputs for i in range(min(_SAMPLE, len(examples)))]
    real = sum(map(real_tokens, sample)) / max(len(sample), 1)
    room = room_for_tokens(batch_like(examples, config.batch)) / config.batch
    total = config.steps * config.batch
    lines = [
        f"{config.steps:,} steps of {config.batch:,} examples, {total:,} in all",
        f"{real:,.0f} real tokens of {room:,.0f} in an example, about {real * total:,.0f} in all",
        f"{len(examples.store):,} passages, each visited {total / len(examples.store):,.1f} times",
    ]
    sources = zip(examples.store.parts(), examples.sampler.shares, strict=True)
    of_each = [
        f"{part.name}: {len(part.rows):,} passages in {share:.1%} of the examples, "
        f"each visited {share * total / max(len(part.rows), 1):,.1f} times"
        for part, share in sources
    ]
    return "\n".join([*lines, *(of_each if len(of_each) > 1 else [])])


def _settings(tree: dict[str, Any], indent: int) -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield f"{' ' * indent}{name}:"
            yield from _settings(value, indent + 2)
        else:
            yield f"{' ' * indent}{name}: {value!r}" if value == "" else f"{' ' * indent}{name}: {value}"


def _decoded(name: str, value: Any, found: Example, tokenizer: Tokenizer) -> str:
    if isinstance(value, Tokens):
        rows = [Tokens(*fields) for fields in zip(*map(_rows, value), strict=True)]
        return "\n  and ".join(_text(row, tokenizer) for row in rows)
    rows = zip(_rows(value), _rows(found["weights"]), strict=True)  # of masked positions; unused slots weigh nothing
    return "\n  and ".join(tokenizer.decode(row[weights == 1]) for row, weights in rows)


def _is_text_field(name: str, value: Any) -> bool:
    return isinstance(value, Tokens) or name == "labels"


def _array(value: Any) -> str:
    array = np.asarray(value)
    if array.ndim > 1:
        share = f", {array.mean():.0%} of it true" if array.dtype == bool else ""
        return f"{array.dtype.name} {list(array.shape)}{share}"
    return np.array2string(array, threshold=20)


def _text(row: Tokens, tokenizer: Tokenizer) -> str:
    count = int(row.mask.sum())
    return f"{count} tokens: {tokenizer.decode(np.asarray(row.ids)[row.mask])}" if count else "none"


def _rows(x: Any) -> np.ndarray:
    """An example's sequence as one row; its several sequences as they are."""
    return np.atleast_2d(np.asarray(x))


def local_bytes(tree: Any) -> int:
    """Bytes of all arrays of `tree` that lie on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def _count_parameters(tree: Params) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
