"""Write transformers/KIND: random masked language models of transformers, with their hidden states and gradients.

python -m tests.golden.make_transformers_models [KIND ...]
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dense_jax.hf.families import FAMILIES
from dense_jax.types import Tokens
from tests.bert_folders import tokens

FOLDER = Path(__file__).parent / "transformers"
PAD = 1  # of RoBERTa
SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "initializer_range": 0.3,  # far from small initial weights
}
ENDS = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
ROBERTA = SHAPE | {"type_vocab_size": 1, "layer_norm_eps": 1e-5}
KINDS = {
    "Bert": SHAPE,
    "XLMRoberta": ROBERTA,
    "Roberta": ROBERTA,
    # a window of two tokens on each side, in two of three layers, where texts have ten
    "ModernBert": SHAPE | {"num_hidden_layers": 5, "local_attention": 4, "pad_token_id": PAD} | ENDS,
    "NomicBert": SHAPE,
    "DistilBert": {
        "vocab_size": 40, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 12,
        "initializer_range": 0.3,
    },
}  # fmt: skip
WITH_SEGMENTS = ("Bert", "NomicBert")
POSITIONS = np.array([[3, 7], [0, 4], [0, 0]])  # of the masked tokens
WEIGHTS = np.random.default_rng(1).normal(size=(3, 2, 40)).astype(np.float32)  # of their log probabilities in the loss


def roberta_tokens(length: int = 10, rows: int = 3) -> Tokens:
    """Rows of 10, 5 and 1 tokens and padding, in one segment."""
    lengths = np.array([[length], [length // 2], [1]])
    mask = np.arange(length)[None] < lengths
    ids = np.random.default_rng(0).integers(2, SHAPE["vocab_size"], size=(rows, length), dtype=np.int32)
    return Tokens(np.where(mask, ids, PAD).astype(np.int32), np.zeros_like(ids), mask)


def inputs_of(kind: str) -> Tokens:
    return tokens() if kind in WITH_SEGMENTS else roberta_tokens()


def expected(kind: str) -> dict[str, np.ndarray]:
    """The frozen numbers."""
    with np.load(FOLDER / kind / "results.npz") as file:
        return dict(file)


def write_model(kind: str) -> None:
    torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**KINDS[kind])
    model = getattr(transformers, f"{kind}ForMaskedLM")(config)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases, and the scales of layer normalisation
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    model.save_pretrained(FOLDER / kind)


def results(kind: str) -> dict[str, np.ndarray]:
    """Hidden states, weighted log probability of the masked tokens, and its gradients by the parameters' names."""
    torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
    model = transformers.AutoModelForMaskedLM.from_pretrained(FOLDER / kind, attn_implementation="eager").eval()
    found = model(**torch_inputs(inputs_of(kind), kind), output_hidden_states=True)
    logits = found.logits[torch.arange(3)[:, None], torch.tensor(POSITIONS)]
    loss = torch.sum(torch.log_softmax(logits, -1) * torch.tensor(WEIGHTS))
    loss.backward()
    named = model.named_parameters(remove_duplicate=False)  # tied ones under both of their names
    family = FAMILIES[model.config.model_type]
    found_gradients = family.split({family.modern_name(name): parameter.grad.numpy() for name, parameter in named})
    gradients = {f"gradient/{name}": gradient for name, gradient in found_gradients.items()}
    states = np.stack([state.detach().numpy() for state in found.hidden_states])
    return {"hidden_states": states, "loss": np.array(loss.item()), **gradients}


def torch_inputs(batch: Tokens, kind: str) -> dict[str, Any]:
    torch = importlib.import_module("torch")
    names = {"input_ids": batch.ids, "attention_mask": batch.mask}
    names |= {"token_type_ids": batch.types} if kind in WITH_SEGMENTS else {}
    return {name: torch.tensor(array, dtype=torch.long) for name, array in names.items()}


if __name__ == "__main__":
    for kind in sys.argv[1:] or KINDS:
        write_model(kind)
        np.savez(FOLDER / kind / "results.npz", **results(kind))
