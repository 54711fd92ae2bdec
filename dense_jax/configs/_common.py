"""Parts of several configs: the values of the `tiny` variants, and the folder of a model."""

from pathlib import Path

from dense_jax.config import (
    Config,
    CorpusConfig,
    LoaderConfig,
    OptimizerConfig,
    Order,
    PassagesConfig,
    TokenizerConfig,
    Unit,
)
from dense_jax.errors import require
from dense_jax.hf.sentence_transformers import SentenceFolder, print_note, read_sentence_folder
from dense_jax.models.bert import BertConfig, bert
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.objective import Objective
from dense_jax.remote.models import local_model


def tiny_bert(**changes: int) -> BertConfig:
    """BERT of width 128, without dropout, which so short a training does not need."""
    return bert("tiny", dropout=0.0, attention_dropout=0.0, **changes)


def one_layer() -> Encoder:
    """One layer of it, whose mean over the tokens is a unit vector."""
    return Encoder(tiny_bert(layers=1), pooling=Pooling.MEAN, normalize=True)


def tiny(objective: Objective, optimizer: OptimizerConfig, order: Order = Order.SHUFFLE, **settings) -> Config:
    """Minutes on two CPU cores."""
    return Config(
        objective,
        optimizer=optimizer,
        tokenizer=TokenizerConfig(vocab_size=8192),
        loader=LoaderConfig(order=order),
        log_every=50,
        **settings,
    )


def tiny_demo(objective: Objective, optimizer: OptimizerConfig, **settings) -> Config:
    """The same on the documentation of the installed packages, of which 500 documents are held out as a test set."""
    return tiny(objective, optimizer, corpus=CorpusConfig(source="installed", held_out=500), **settings)


def tiny_finetuning(objective: Objective, optimizer: OptimizerConfig, **settings) -> Config:
    """The same on judged queries: --corpus.source=FOLDER."""
    return tiny(objective, optimizer, Order.DISTINCT, passages=PassagesConfig(unit=Unit.QUERIES), **settings)


def opened_folder(config: str, folder: str) -> tuple[str, SentenceFolder]:
    """Path and model of the folder in `--config={config}:{folder}`, whose notes are printed."""
    require(bool(folder), f"no folder of the model; name it after the colon, --config={config}:FOLDER")
    path = local_model(folder)
    model = read_sentence_folder(Path(path))
    for note in model.notes:
        print_note(note)
    return path, model
