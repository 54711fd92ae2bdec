"""A model of Hugging Face or sentence-transformers, as it is: `--config=pretrained:FOLDER`.

To be embedded, searched, evaluated or exported like a model of our own, or trained on by masked language modelling with
`--steps=N`.
"""

from pathlib import Path

from dense_jax.config import Config, TokenizerConfig, require
from dense_jax.config.places import expanded
from dense_jax.hf.sentence_transformers import print_note, read_sentence_folder
from dense_jax.objectives.mlm import MLM


def get_config(folder: str = "") -> Config:
    require(bool(folder), "no folder of the model; name it after the colon, --config=pretrained:FOLDER")
    folder = expanded(folder)
    model = read_sentence_folder(Path(folder))
    for note in model.notes:
        print_note(note)
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
