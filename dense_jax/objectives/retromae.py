"""RetroMAE: a text is rebuilt from its vector and little else, by a decoder too weak to do so without that vector.

Xiao et al. 2022, "RetroMAE: Pre-Training Retrieval-oriented Language Models Via Masked Auto-Encoder"; with
`bag_of_words`, DupMAE (Liu et al. 2023).
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Float, Metrics, Params, PRNGKeyArray, split_key
from dense_jax.config.rules import AT_SEARCH, RESUMABLE, Length, NotNegative, ShareInside
from dense_jax.data.masking import apply_mlm_mask, decoder_view, masking_budget
from dense_jax.errors import require
from dense_jax.losses.language import MaskedLMLoss, bag_of_words_loss, masked_lm_loss
from dense_jax.models.encoder import Encoder
from dense_jax.models.heads import apply_decoder, init_decoder, init_mlm, mlm_logits
from dense_jax.models.packing import inner_tokens, replace_ids
from dense_jax.objectives.dual_encoder import DualEncoder
from dense_jax.types import Layout, Passage, Vocabulary


class Rebuilt(NamedTuple):
    """The predictions of encoder and decoder, and DupMAE's loss; `bag_of_words` is None in RetroMAE."""

    encoder: MaskedLMLoss
    decoder: MaskedLMLoss
    bag_of_words: Float[Array, " b"] | None


@dataclass
class RetroMAE(DualEncoder[Encoder]):
    query_length: Length = field(default=64, metadata=RESUMABLE)  # tokens; of queries at search time
    passage_length: Length = field(default=512, metadata=AT_SEARCH)  # tokens
    layout: Layout = field(default=Layout.BODY, metadata=AT_SEARCH)
    query_prompt: str = field(default="", metadata=RESUMABLE)  # put before a query at search time
    encoder_mask_rate: ShareInside[float] = 0.3  # share of all tokens, special ones counted, that the encoder predicts
    decoder_mask_rate: ShareInside[float] = 0.5  # share that each position of the decoder does not see
    bag_of_words: NotNegative[float] = 0.0  # weight of DupMAE's loss, 0.1 in its paper; 0: RetroMAE

    learns_queries = False

    def __post_init__(self) -> None:
        require(
            self.packing == 1 or not self.bag_of_words,
            f"objective.bag_of_words={self.bag_of_words} takes the best score of each word over all of a text, and "
            f"objective.packing={self.packing} puts several texts into a row; use --objective.packing=1",
        )
        super().__post_init__()

    def example(self, passage: Passage, vocabulary: Vocabulary, rng: np.random.Generator) -> Example | None:
        """The passage after its prompt, which the encoder predicts no token of and the decoder rebuilds too."""
        tokens = self.passage_inputs(passage.title, passage.tokens, vocabulary)
        prompt = len(vocabulary.prompt_ids(self.passage_prompt))
        real, rate = int(np.sum(tokens.mask)) - prompt, self.encoder_mask_rate
        budgets = masking_budget(real, rate), masking_budget(self.passage_length, rate)
        masked = apply_mlm_mask(tokens, *budgets, vocabulary, rng, prompt=prompt)
        view = decoder_view(tokens, self.decoder_mask_rate, vocabulary, rng)
        return {**masked, "ids": tokens.ids, "decoder_view": view}

    def init(self, rng: PRNGKeyArray) -> Params:
        encoder, mlm, decoder = jax.random.split(rng, 3)
        bert = self.encoder.bert
        return {**super().init(encoder), "mlm": init_mlm(bert, mlm), "decoder": init_decoder(bert, decoder)}

    def encode(self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Encoded:
        """The vector of the masked text; from it, and from the unmasked text seen in part, all of the text."""
        bert, tokens, ids = self.encoder.bert, batch["tokens"], batch["ids"]
        encoder_rng, decoder_rng = split_key(rng, 2)
        hidden = self.encoder.hidden_states(params["encoder"], tokens, rng=encoder_rng)
        vectors = replace(self.encoder, normalize=False).pool(params["encoder"], hidden, tokens)
        decoded = apply_decoder(
            bert, params, vectors, replace_ids(tokens, ids), batch["decoder_view"],
            embed_queries=self.bag_of_words > 0, rng=decoder_rng,
        )  # fmt: skip
        everywhere = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)
        text = inner_tokens(tokens)
        bag_of_words = None
        if not self.bag_of_words:
            logits = mlm_logits(bert, params, hidden, batch["positions"])
        else:
            all_logits = mlm_logits(bert, params, hidden, everywhere)
            logits = jnp.take_along_axis(all_logits, batch["positions"][..., None], axis=1)
            bag_of_words = bag_of_words_loss(all_logits[:, 1:], tokens.mask[:, 1:], ids[:, 1:], text[:, 1:])
        return Rebuilt(
            encoder=masked_lm_loss(logits, batch["labels"], batch["weights"]),
            decoder=masked_lm_loss(mlm_logits(bert, params, decoded, everywhere), ids, text.astype(jnp.float32)),
            bag_of_words=bag_of_words,
        )

    def combine(
        self, carry: Carry, encoded: Encoded, batch: Batch, *, step: Array
    ) -> tuple[Array, tuple[Metrics, Carry]]:
        """loss = MLM of the encoder + MLM of the decoder over all tokens [+ weight * bag of words]: equation 9."""
        metrics = {
            "loss_encoder": encoded.encoder.loss,
            "loss_decoder": encoded.decoder.loss,
            "accuracy_encoder": encoded.encoder.accuracy,
            "accuracy_decoder": encoded.decoder.accuracy,
        }
        loss = encoded.encoder.loss + encoded.decoder.loss
        if encoded.bag_of_words is not None:
            metrics["loss_bag_of_words"] = jnp.mean(encoded.bag_of_words)
            loss = loss + self.bag_of_words * metrics["loss_bag_of_words"]
        return loss, (metrics, carry)
