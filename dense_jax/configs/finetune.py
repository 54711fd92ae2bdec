"""A model of sentence-transformers, fine-tuned on your queries as it is: `--config=finetune:FOLDER`.

The folder says how: the model, pooling, an affine layer, normalisation, prompts, lengths and similarity. Prompts that
it leaves out are those of its model card, if they are known (`dense_jax/hf/known_prompts.py`).
"""

from dense_jax.config import Config, LoaderConfig, OptimizerConfig, Order, PassagesConfig, TokenizerConfig, Unit
from dense_jax.configs import _common as common
from dense_jax.errors import require
from dense_jax.hf.sentence_transformers import print_note
from dense_jax.objectives.supervised import Supervised
from dense_jax.types import Similarity

_LONG = 512  # tokens


def get_config(folder: str = "") -> Config:
    folder, model = common.opened_folder("finetune", folder)
    require(
        model.pools_prompt,
        f"{folder} leaves its prompts out of the mean (include_prompt is false), which training does not; set "
        "include_prompt to true in its Pooling",
    )
    if model.length > _LONG:
        print_note(f"passages are padded to {model.length} tokens; --objective.passage_length=N trains faster on fewer")
    return Config(
        objective=Supervised(
            encoder=model.encoder,
            query_length=model.query_length,
            passage_length=model.length,
            query_prompt=model.query_prompt,
            passage_prompt=model.passage_prompt,
            negatives=1,
            temperature=0.05 if model.similarity is Similarity.COSINE else 1.0,
        ),
        steps=1_000,
        batch=64,
        init_from=folder,
        optimizer=OptimizerConfig(learning_rate=2e-5, warmup_share=0.1),
        tokenizer=TokenizerConfig(path=str(model.weights)),
        passages=PassagesConfig(unit=Unit.QUERIES),
        loader=LoaderConfig(order=Order.DISTINCT),
    )
