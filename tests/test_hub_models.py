"""Models of the Hub by name, from a stand-in server and from the cache."""

from pathlib import Path

import pytest

import dense_jax
from dense_jax.configs._common import opened_folder
from dense_jax.errors import ConfigError, MachineError
from dense_jax.remote import models
from dense_jax.remote.models import local_model
from tests.hub_server import REVISION, served
from tests.test_start import folder, sentence_transformers  # noqa: F401  folder is a fixture

NAME = "lab/e5-small-v2"


def forget():
    models._fetched.cache_clear()
    models._fetched_if_known.cache_clear()


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):  # noqa: F811
    """The Hub with one model, which has files that nobody needs, and an empty cache."""
    from huggingface_hub import constants

    sentence_transformers(folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_own.py").write_text("raise AssertionError")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    forget()
    with served(folder, NAME) as (address, asked):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield asked
    forget()


def test_a_model_of_the_hub_becomes_a_folder_without_pickles_or_code(hub, folder, capsys):  # noqa: F811
    found = Path(local_model(f"hf://{NAME}"))
    assert found.name == REVISION and (found / "model.safetensors").read_bytes() == b"weights"
    files = {path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()}
    assert files == {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {
        "pytorch_model.bin",
        "modeling_own.py",
        "onnx/config.json",
    }
    assert capsys.readouterr().err.splitlines()[-1] == f"{NAME}: revision {REVISION[:12]} of the Hub, in {found}"
    assert not any(path.endswith((".bin", ".py")) or "onnx" in path for path in hub)


def test_a_bare_name_is_a_model_of_the_hub_unless_a_folder_has_it(hub, tmp_path, monkeypatch):
    assert local_model(NAME) == local_model(f"{NAME}@v1") == local_model(f"hf://{NAME}@main")
    monkeypatch.chdir(tmp_path)
    Path(NAME).mkdir(parents=True)
    assert local_model(NAME) == NAME
    assert local_model(f"hf://{NAME}").endswith(REVISION)


@pytest.mark.parametrize("name", ["", "runs", "/tmp/a/b", "../models/mine", "./models/mine", "a/b/c"])
def test_other_names_are_those_of_this_machine(name):
    assert local_model(name) == name


def test_a_fetched_model_is_used_without_a_network(hub, monkeypatch):
    from huggingface_hub import constants

    found = local_model(NAME)
    forget()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = list(hub)
    assert local_model(NAME) == found and hub == asked


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("hf://lab/none", ConfigError, "^the Hub has no model lab/none, or it is private; correct the name"),
        ("hf://gated/model", ConfigError, "gated/model is gated; accept its terms on its page"),
        (f"hf://{NAME}@v2", ConfigError, f"{NAME} has no revision v2; leave it out for the newest"),
        ("hf://e5", ConfigError, "hf://e5 is no name of a model; write hf://ORG/NAME"),
    ],
)
def test_a_model_that_cannot_be_had_is_named_with_the_reason(hub, name, error, message):
    with pytest.raises(error, match=message):
        local_model(name)


def test_a_name_that_is_neither_a_folder_nor_a_model_stays_with_one_note(hub, capsys):
    assert local_model("runs/mine") == "runs/mine"
    asked = list(hub)
    assert local_model("runs/mine") == "runs/mine" and hub == asked
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(
        "note: runs/mine: no such file or folder, and as a model of the Hub: the Hub has no model runs/mine"
    )


def test_without_a_network_a_model_that_was_not_fetched_is_named(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MachineError, match=f"{NAME} is not in the cache, and the Hub cannot be reached .*hf download"):
        local_model(f"hf://{NAME}")


def test_settings_and_configs_take_models_of_the_hub(hub, capsys):
    loaded = dense_jax.load_config("ict:tiny", {"init_from": NAME, "tokenizer.path": f"hf://{NAME}"})
    assert loaded.config.init_from == loaded.config.tokenizer.path == local_model(NAME)
    path, model = opened_folder("finetune", NAME)
    assert path == local_model(NAME)
    assert (model.query_prompt, model.passage_prompt) == ("query: ", "passage: ")  # by the name on the Hub
