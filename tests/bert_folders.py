"""Small BERT folders, and the settings and parameters that belong to them."""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dense_jax.hf.config import config_json
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.models.heads import init_mlm
from dense_jax.types import Tokens

SMALL = BertConfig(layers=2, width=16, heads=2, feed_forward=24, vocab_size=40, positions=12)


@dataclass
class Method:
    """Stands in for an objective, whose settings the messages name."""

    encoder: Encoder


def settings(bert):
    return Method(Encoder(bert))


def fresh_params(bert=SMALL, parts=("encoder", "mlm")):
    """Random numbers in the place of initial ones."""
    encoder, rng = Encoder(bert, Pooling.POOLER, projection=4), np.random.default_rng(5)
    shapes = jax.eval_shape(lambda key: {"encoder": encoder.init(key), "mlm": init_mlm(bert, key)}, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), {p: shapes[p] for p in parts})


def subtrees(params):
    return {"bert": params["encoder"]["bert"], "pooler": params["encoder"]["pooler"], "mlm": params["mlm"]}


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def tokens(length=10, vocab=40, rows=3):
    ids = np.random.default_rng(0).integers(1, vocab, size=(rows, length), dtype=np.int32)
    lengths = np.array([[length], [length // 2], [1]])
    return Tokens(ids, (ids % 2).astype(np.int32), np.arange(length)[None] < lengths)


def write_config(folder, **changes):
    folder.mkdir(exist_ok=True)
    raw = config_json(SMALL, "BertModel", pad=0) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))
    return folder


OLD, NEW = (
    "sentence_transformers.models",
    "sentence_transformers.sentence_transformer.modules",
)  # of versions 2 to 5, of 6


def sentence_folder(folder, pooling, modules=("Transformer", "Pooling", "Normalize"), home=OLD, **settings):
    write_config(folder)
    chain = [
        {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{name}", "type": f"{home}.{name}"}
        for i, name in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(chain))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder
