"""REALM: a masked span is filled in with the help of passages that are looked up for it.

The passages are latent documents: training maximises the marginal likelihood of the words, which rewards the retriever
for passages that make them more likely. Guu et al. 2020, "REALM: Retrieval-Augmented Language Model Pre-Training".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Int, Metrics, Params, PRNGKeyArray, split_key
from dense_jax.augmented.objective import RetrievalAugmented
from dense_jax.config.rules import AT_SEARCH, Length, Positive, at_least
from dense_jax.data.inputs import build_inputs, flatten_tokens, stack_tokens
from dense_jax.data.masking import mask_span
from dense_jax.losses.collapse import collapse_metrics
from dense_jax.losses.marginal import MarginalLikelihood, RealmLoss, realm_loss, token_log_likelihoods
from dense_jax.models.encoder import Encoder
from dense_jax.models.heads import init_mlm, mlm_logits
from dense_jax.objective import HostBatch
from dense_jax.objectives.dual_encoder import DualEncoder
from dense_jax.types import Layout, Passage, PassageCollection, SearchResult, Tokens, Vocabulary

_SPARE = 8  # passages looked up in excess, to replace the source and duplicates


@dataclass
class Realm(DualEncoder[Encoder], RetrievalAugmented):
    """The encoder is that of both towers; the reader is its BERT with a masked-language-model head."""

    query_length: Length = field(default=96, metadata=AT_SEARCH)  # tokens
    # tokens; the reader sees sentence and passage, as many as both
    passage_length: Length = field(default=288, metadata=AT_SEARCH)
    # of passages in their tower; the reader sees no title
    layout: Layout = field(default=Layout.PAIR, metadata=AT_SEARCH)
    candidates: Annotated[int, at_least(2)] = 8  # of an example: the null document and passages
    most_masked: Positive[int] = 10  # tokens of a span that count; those beyond are masked all the same
    marginal: MarginalLikelihood = MarginalLikelihood.SEQUENCE
    exclude_source: bool = True  # the passage that the sentence is from is no candidate; without, it would be copied
    temperature: Positive[float] = 1.0  # divides the scores
    shared: bool = True  # one encoder for both towers, as released; the paper writes two

    masks_spans = True
    packs = False  # passages are found for a batch when it is trained on, and nearly fill their length

    def __post_init__(self) -> None:
        super().__post_init__()
        self.encoder.check_input("query_length + passage_length", self.query_length + self.passage_length, Layout.PAIR)

    def example(self, passage: Passage, vocabulary: Vocabulary, rng: np.random.Generator) -> Example | None:
        prompt = vocabulary.prompt_ids(self.query_prompt)
        return mask_span(passage, self.query_length, self.most_masked, vocabulary, rng, prompt=prompt)

    @property
    def depth(self) -> int:
        return self.candidates - 1 + _SPARE

    def question(self, batch: Batch) -> Tokens:
        return batch["query"]

    def join(
        self, examples: HostBatch, found: SearchResult, passages: PassageCollection, vocabulary: Vocabulary
    ) -> Batch:
        batch, sources = examples.inputs, examples.rows
        needed = np.unique(np.append(found.rows[found.rows >= 0], sources)).tolist()
        read = dict(zip(needed, passages.passages(needed), strict=True))  # at once, which is faster
        joined, start = [], 1 + len(vocabulary.prompt_ids(self.query_prompt))  # the reader sees no prompt
        for i, rows in enumerate(found.rows):
            query = batch["query"].ids[i][batch["query"].mask[i]]
            source, read_here = read[int(sources[i])], [read[row] for row in rows[rows >= 0].tolist()]
            chosen = self._chosen(source, read_here)
            joined.append(self._laid_out(query[start:-1], chosen, vocabulary) | _found_metrics(source, read_here))
        return {
            **batch,
            **jax.tree.map(lambda *of_each: np.stack(of_each), *joined),
        }

    def _chosen(self, source: Passage, found: Sequence[Passage]) -> list[Passage]:
        """The best that were found, each text once, without that of the source if `exclude_source`."""
        seen = {_content(source)} if self.exclude_source else set()
        chosen: list[Passage] = []
        for passage in found:
            if _content(passage) not in seen and len(chosen) < self.candidates - 1:
                seen.add(_content(passage))
                chosen.append(passage)
        return chosen

    def _laid_out(self, sentence: Int[np.ndarray, " l"], chosen: list[Passage], vocabulary: Vocabulary) -> Example:
        """The null document and `chosen`, for their tower and for the reader; what is missing looks like the null."""
        null = np.empty(0, np.int32)
        missing = self.candidates - 1 - len(chosen)
        real = [(one.title, one.tokens) for one in chosen]
        texts: list[tuple[np.ndarray, np.ndarray]] = [(null, null), *real, *[(null, null)] * missing]
        room, longest = self.passage_length - 2, self.query_length + self.passage_length
        return {
            "passages": stack_tokens([self.passage_inputs(*text, vocabulary) for text in texts]),
            "read": stack_tokens(
                [build_inputs(sentence, body[:room], longest, Layout.PAIR, vocabulary) for _, body in texts]
            ),
            "there": np.arange(self.candidates) < self.candidates - missing,
        }

    def init(self, rng: PRNGKeyArray) -> Params:
        query, passage, reader, head = jax.random.split(rng, 4)
        first = self.encoder.init(query)
        towers = {"encoder": first} if self.shared else {"query": first, "passage": self.encoder.init(passage)}
        bert = {"bert": self.encoder.init(reader)["bert"]}
        return {**towers, "reader": {"encoder": bert, "mlm": init_mlm(self.encoder.bert, head)}}

    def encode(self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Encoded:
        query_params, passage_params = self.sides(params)
        query_rng, passage_rng, reader_rng = split_key(rng, 3)
        queries = self.encoder.apply(query_params, batch["query"], rng=query_rng)
        count, size = batch["there"].shape
        passages = self.encoder.apply(passage_params, flatten_tokens(batch["passages"]), rng=passage_rng)
        scores = jnp.einsum("bd,bkd->bk", queries, passages.reshape(count, size, -1)) / self.temperature
        hidden = self.encoder.hidden_states(params["reader"]["encoder"], flatten_tokens(batch["read"]), rng=reader_rng)
        positions = jnp.repeat(batch["positions"], size, axis=0)
        logits = mlm_logits(self.encoder.bert, params["reader"], hidden, positions)
        likelihoods = token_log_likelihoods(logits.reshape(count, size, *logits.shape[1:]), batch["labels"])
        return realm_loss(scores, likelihoods, batch["weights"], is_valid=batch["there"], marginal=self.marginal)

    def combine(
        self, carry: Carry, encoded: Encoded, batch: Batch, *, step: Array
    ) -> tuple[Array, tuple[Metrics, Carry]]:
        result: RealmLoss = encoded
        metrics = {
            "utility": result.utility,
            "null_mass": result.null_mass,
            "candidates": jnp.mean(jnp.sum(batch["there"], axis=1), dtype=jnp.float32),
            "source_found": jnp.mean(batch["source_found"], dtype=jnp.float32),  # among what was looked up
            "repeats_found": jnp.mean(batch["repeats_found"]),
        }
        return result.loss, (metrics, carry)

    def collapse_metrics(self, params: Params, carry: Carry, batch: Batch) -> Metrics:
        """Collapse metrics of queries and of the best passage found for each, or the null document."""
        query_params, passage_params = self.sides(params)
        best = Tokens(*(field[:, 1] for field in batch["passages"]))  # after the null document
        passages = self.encoder.apply(passage_params, best)
        return collapse_metrics(self.encoder.apply(query_params, batch["query"]), passages)


def _content(passage: Passage) -> bytes:
    return passage.title.tobytes() + b"|" + passage.tokens.tobytes()


def _found_metrics(source: Passage, found: Sequence[Passage]) -> Example:
    """Metrics of the passages that were found: the source among them, and the share of repetitions. Copies count."""
    contents = [_content(passage) for passage in found]
    repeats = 1 - len(set(contents)) / max(len(contents), 1)
    return {"source_found": np.bool_(_content(source) in contents), "repeats_found": np.float32(repeats)}
