"""Encoding: ours against PyTorch's, with the same weights, documents, batches, threads and process.

    python benchmarks/encode.py                                          BERT-mini, minutes on two CPU cores
    python benchmarks/encode.py --size=base --batch=1024                                            on a GPU

Token ids -> vectors, ours and transformers' BertModel; text -> vectors, ours and sentence-transformers'. Prints a
Markdown table and one JSON line a row; README.md in this folder explains the columns.
"""

import importlib.util
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import arguments
import flops
import jax
import numpy as np
import report
import tasks
from machine import Machine, measure, provenance, set_up
from timing import Program

from dense_jax.arrays import Float
from dense_jax.config import MeshConfig
from dense_jax.data.inputs import build_inputs
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import MachineError
from dense_jax.hf import tensors
from dense_jax.mesh import check_batch, make_mesh
from dense_jax.models.encoder import Encoder
from dense_jax.retrieval.encode import TowerOnMesh
from dense_jax.types import Tokens, Tower

BATCHES = 4  # of documents in one step: the host lays out one while the device works on another
SAME_COSINE = {"float32": 1e-4, "bfloat16": 5e-2}  # largest difference between programs, of two documents' cosine
FROM_TEXT = ", from text"


def main() -> None:
    asked = arguments.parser(__doc__).parse_args()
    until = arguments.deadline(asked.seconds)
    here = set_up(asked.threads, asked.dtype)
    encoder, count = tasks.model(asked.size, here.dtype), asked.batch * BATCHES
    tokens = tasks.random_tokens(np.random.default_rng(0), count, asked.seq)
    documents = [Tokens(*fields) for fields in zip(*tokens, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        programs = _programs(asked, encoder, documents, Path(folder), here)
    timings, peaks = measure(programs, here, asked.steps, asked.warmup, until)
    names = [program.name for program in programs]
    differences = cosine_differences([timing.outputs[-1] for timing in timings])
    check_same_cosines(names, differences, SAME_COSINE[here.dtype])
    work = flops.encode(encoder.bert, count, asked.seq)
    rows = []
    for name, timing, difference in zip(names, timings, differences, strict=True):
        ours = timings[1] if name.endswith(FROM_TEXT) else timings[0]
        row = report.speed(name, timing, ours, tokens=count * asked.seq, flops=work, peaks=peaks)
        rows.append(row | {"documents/s": count / row["ms"] * 1e3, "max Δcos": difference})
    title = f"Encoding, BERT-{asked.size}, {count} documents of {asked.seq} tokens in batches of {asked.batch}"
    report.publish(f"{title}, {here}; {peaks}", rows, vars(asked) | peaks._asdict() | provenance(here))


def cosine_differences(vectors: Sequence[Float[np.ndarray, "b d"]]) -> list[float]:
    """For each set of unit vectors, the largest difference of any two vectors' cosine from that in the first set.

    >>> turned = np.array([[0.0, 1.0], [-1.0, 0.0]])  # both by a right angle, so the angle between them stays
    >>> cosine_differences([np.eye(2), turned, np.array([[1.0, 0.0], [0.6, 0.8]])])
    [0.0, 0.0, 0.6]
    """
    cosines = [found @ found.T for found in vectors]
    return [float(np.abs(found - cosines[0]).max()) for found in cosines]


def check_same_cosines(names: Sequence[str], differences: Sequence[float], most: float) -> None:
    """Raises MachineError if a program's cosines differ from the first one's by more than `most`."""
    for name, difference in zip(names, differences, strict=True):
        if not difference <= most:
            raise MachineError(
                f"cosines of {name} differ by {difference:.2g} from those of {names[0]}, more than {most}, so this is "
                "not the same model and no figure is printed"
            )


def _programs(
    asked: Namespace, encoder: Encoder, documents: Sequence[Tokens], folder: Path, here: Machine
) -> list[Program]:
    """Ours from ids, ours from text, then the peers; all are synchronous."""
    tokenizer = tasks.write_tokenizer(folder, asked.seq)
    texts = [tasks.text(row) for row in documents]
    params = jax.jit(encoder.init)(jax.random.key(0))
    ours = _Ours(Tower(encoder, params, asked.seq), tokenizer, asked.batch)
    programs = [
        Program("dense_jax", lambda i: ours.encode(documents), _nothing),
        Program("dense_jax" + FROM_TEXT, lambda i: ours.encode(ours.laid_out(texts)), _nothing),
    ]
    if kinds := arguments.peer_kinds(asked.peer):
        import peers  # imported here: PyTorch may be missing

        peers.set_up(here)
        tensors.save_params(jax.device_get(params), encoder.bert, folder, tasks.PAD)
        programs += [peers.encoder(folder, documents, asked.batch, kind, here.dtype) for kind in kinds]
        if importlib.util.find_spec("sentence_transformers"):
            programs += [peers.sentence_transformer(folder, texts, asked.batch, here.dtype, FROM_TEXT)]
    return programs


class _Ours:
    """Encoding as `dense-jax embed` does it."""

    def __init__(self, tower: Tower, tokenizer: Tokenizer, batch: int) -> None:
        mesh = make_mesh(MeshConfig())
        check_batch(batch, mesh)
        self.on_mesh, self.tokenizer, self.batch = TowerOnMesh(tower, mesh), tokenizer, batch

    def encode(self, rows: Sequence[Tokens]) -> Float[np.ndarray, "b d"]:
        return self.on_mesh.encode(rows.__getitem__, [len(row.ids) for row in rows], self.batch)[:, 0]

    def laid_out(self, texts: Sequence[str]) -> list[Tokens]:
        side, untitled = self.on_mesh.tower, np.empty(0, np.int32)
        vocabulary = self.tokenizer.vocabulary
        return [
            build_inputs(untitled, ids, side.length, side.layout, vocabulary) for ids in self.tokenizer.encode(texts)
        ]


def _nothing() -> None:
    """No-op wait, for a program that returns finished vectors."""


if __name__ == "__main__":
    arguments.run(main)
