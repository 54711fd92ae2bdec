"""Model FLOPs by formula; `dense_jax.train.flops` has the peaks of devices.

MFU = model FLOPs / (seconds * peak). One multiply-add counts 2. Only products of matrices count: no embedding look-up,
normalisation, softmax or optimiser; the vocabulary projection of the masked positions only; nothing that is computed
twice; no padding. So two programs that do the same training have the same model FLOPs, however they do it.
"""

from dense_jax.models.transformer import TransformerConfig


def layer(config: TransformerConfig, length: int) -> float:
    """FLOPs of one layer for one token of a sequence of `length` tokens, forward.

    2 (4 D^2 + 2 D F) + 4 S D: the four products of attention, the two of the feed-forward network, without a gate;
    scores and mixing.

    >>> from dense_jax.models.bert import bert
    >>> round(layer(bert("base"), 128) / 1e6, 3)
    14.549
    """
    d, f = config.width, config.feed_forward
    return 2 * (4 * d * d + 2 * d * f) + 4 * length * d


def encoder(config: TransformerConfig, length: int) -> float:
    """FLOPs of the encoder for one token of a sequence of `length` tokens, forward.

    >>> from dense_jax.models.bert import bert
    >>> [round(encoder(bert("base"), length) / 1e6, 2) for length in (128, 256, 512)]
    [174.59, 179.31, 188.74]
    """
    return config.layers * layer(config, length)


def mlm_head(config: TransformerConfig) -> float:
    """FLOPs of the masked-language-model head for one predicted position, forward: 2 D^2 + 2 D V.

    >>> from dense_jax.models.bert import bert
    >>> round(mlm_head(bert("base", vocab_size=30_522)) / 1e6, 2)
    48.06
    """
    return 2 * config.width**2 + 2 * config.width * config.vocab_size


def encode(config: TransformerConfig, rows: int, length: int) -> float:
    """FLOPs of encoding `rows` sequences of `length` tokens.

    >>> from dense_jax.models.bert import bert
    >>> round(encode(bert("base"), 21_000_000, 128) / 1e15)  # all of Wikipedia, in PFLOP
    469
    """
    return rows * length * encoder(config, length)


def mlm_step(config: TransformerConfig, rows: int, length: int, masked: int) -> float:
    """FLOPs of a training step of masked language modelling, with `masked` predicted positions in the whole batch.

    The backward pass is twice the forward pass.

    >>> from dense_jax.models.bert import bert
    >>> step = mlm_step(bert("base", vocab_size=30_522), rows=1000, length=128, masked=19_200)  # 15 %
    >>> round(step / 128_000 / 1e6, 1)  # a token, in MFLOP
    545.4
    """
    return 3 * (encode(config, rows, length) + masked * mlm_head(config))


def dual_encoder_step(
    config: TransformerConfig, rows: int, query_length: int, passage_length: int, width: int
) -> float:
    """FLOPs of a training step on `rows` pairs with all passages as candidates, vectors of `width`: ICT, for one.

    >>> from dense_jax.models.bert import bert
    >>> [round(dual_encoder_step(bert("base"), b, q, p, 768) / 1e12) for b, q, p in ((4096, 64, 288), (65536, 32, 128))]
    [774, 5490]
    """
    encoders = encode(config, rows, query_length) + encode(config, rows, passage_length)
    return 3 * (encoders + 2 * rows * rows * width)
