"""A model of Hugging Face or sentence-transformers, as it is: `--config=pretrained:FOLDER`.

To be embedded, searched, evaluated or exported like a model of our own, or trained on by masked language modelling with
`--steps=N`.
"""

from dense_jax.config import Config, TokenizerConfig
from dense_jax.configs import _common as common
from dense_jax.objectives.mlm import MLM


def get_config(folder: str = "") -> Config:
    folder, model = common.opened_folder("pretrained", folder)
    return Config(
        objective=MLM(
            encoder=model.encoder,
            passage_length=model.length,
            query_length=model.query_length,
            query_prompt=model.query_prompt,
            passage_prompt=model.passage_prompt,
            pool_prompts=model.pools_prompt,
        ),
        steps=0,
        batch=64,
        init_from=folder,
        tokenizer=TokenizerConfig(path=str(model.weights)),
    )
