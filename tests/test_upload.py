"""Upload of an exported folder: private, after the files were listed, to a stand-in for the Hub."""

import base64
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from dense_jax import verbs
from dense_jax.config.command_line import parse
from dense_jax.errors import ConfigError, MachineError
from dense_jax.hf.export import ExportReport
from dense_jax.remote.upload import Upload, check_access, check_model_name

NAME, TOKEN = "lab/our-retriever", "hf_a-token"


@contextmanager
def hub_that_takes(known: dict[str, bool]):
    """A Hub of the models `known` (name -> is private); those that are created are added. Yields the files too."""
    files: dict[str, bytes] = {}

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            name = self.path.partition("?")[0].removeprefix("/api/models/").removesuffix("/revision/main")
            if name not in known:
                return self._reply(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
            return self._reply(200, {"id": name, "private": known[name], "sha": "0" * 40})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                return self._reply(401, {"error": "who are you?"})
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                if asked["organization"] != "lab":
                    return self._reply(403, {"error": "you may not"})
                name = f"{asked['organization']}/{asked['name']}"
                status = 409 if name in known else 200
                known.setdefault(name, asked["visibility"] == "private")
                return self._reply(status, {"url": f"{address}/{name}"})
            if self.path == "/api/validate-yaml":
                return self._reply(200, {"warnings": [], "errors": []})
            if "/preupload/" in self.path:
                each = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in json.loads(body)["files"]]  # fmt: skip
                return self._reply(200, {"files": each})
            lines = [json.loads(line) for line in body.splitlines()]
            files.update({line["value"]["path"]: base64.b64decode(line["value"]["content"])
                          for line in lines if line["key"] == "file"})  # fmt: skip
            return self._reply(200, {"commitUrl": f"{address}/{NAME}/commit/1", "commitOid": "1", "success": True})

        def _reply(self, status, value, headers=()):
            body = json.dumps(value).encode()
            self.send_response(status)
            for key, text in dict(headers).items():
                self.send_header(key, text)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield address, files
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hub(monkeypatch):
    """The models of a Hub that this machine is logged in to, and the files that it got."""
    from huggingface_hub import constants
    from huggingface_hub.hf_api import api

    known = {"lab/open": False, "lab/closed": True}
    with hub_that_takes(known) as (address, files):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(api, "endpoint", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield known, files


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "export" / "1_Pooling").mkdir(parents=True)
    for name in ("README.md", "model.safetensors", "1_Pooling/config.json"):
        (tmp_path / "export" / name).write_bytes(f"{name}, the content".encode())
    return tmp_path / "export"


def test_all_files_go_to_a_private_model_that_is_created(hub, folder):
    known, files = hub
    check_access(NAME, public=False)
    assert Upload(folder, NAME).send().endswith(f"/{NAME}/commit/1")
    assert known[NAME] is True
    assert files == {name: f"{name}, the content".encode()
                     for name in ("README.md", "model.safetensors", "1_Pooling/config.json")}  # fmt: skip


def test_a_public_model_is_created_only_if_it_is_asked_for(hub, folder):
    check_access(NAME, public=True)
    Upload(folder, NAME, public=True).send()
    assert hub[0][NAME] is False


def test_the_files_are_listed_with_their_sizes(folder):
    assert str(Upload(folder, NAME)).splitlines() == [
        "3 files for the private model lab/our-retriever of the Hub, in bytes:",
        "             34  1_Pooling/config.json",
        "             22  README.md",
        "             30  model.safetensors",
    ]


class Exported:
    """A run that was exported to a folder."""

    def __init__(self, folder):
        self.folder = folder

    def export(self):
        return ExportReport(self.folder, 9, 0.0)


def test_the_verb_uploads_nothing_before_it_is_confirmed(hub, folder, capsys):
    export(folder, push=NAME)
    said = capsys.readouterr().out
    assert "README.md" in said and said.endswith("nothing was uploaded; give the command again with --yes\n")
    assert NAME not in hub[0] and not hub[1]
    export(folder, push=NAME, yes=True)
    assert f"/{NAME}/commit/1" in capsys.readouterr().out and len(hub[1]) == 3


def export(folder, **flags):
    from dense_jax.run import Run

    run = Run.__new__(Run)
    run.export = Exported(folder).export
    verbs._export(run, [], **flags)


@pytest.mark.parametrize(
    ("name", "public", "message"),
    [
        (
            "lab/open",
            False,
            "lab/open is asked for as private, but this model of the Hub is public; add --public",
        ),
        ("lab/closed", True, "asked for as public, but this model of the Hub is private; leave --public out, or name"),
    ],
)
def test_a_model_of_another_visibility_is_refused(hub, name, public, message):
    with pytest.raises(ConfigError, match=message):
        check_access(name, public=public)


def test_without_a_token_nothing_is_exported(hub, folder, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="--push needs a token of the Hub that may write; log in by `hf auth login`"):
        check_access(NAME, public=False)


def test_a_name_that_the_token_may_not_write_to_is_named(hub, folder):
    with pytest.raises(ConfigError, match=r"--push=others/model: the token of this machine may not write there"):
        Upload(folder, "others/model").send()


def test_without_a_network_the_error_says_so(hub, folder, monkeypatch):
    from huggingface_hub import constants
    from huggingface_hub.hf_api import api

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(api, "endpoint", "http://127.0.0.1:9")
    with pytest.raises(MachineError, match=f"--push={NAME}: the Hub cannot be reached"):
        check_access(NAME, public=False)


@pytest.mark.parametrize("name", ["model", "lab/", "a/b/c", "lab/a model"])
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(ConfigError, match=r"is no name of a model on the Hub; write --push=ORG/NAME"):
        check_model_name(name)


@pytest.mark.parametrize(
    ("verb", "flags", "message"),
    [
        ("train", ["--push=a/b"], r"train takes no --push; `dense-jax export --push=ORG/NAME` uploads by it"),
        ("export", ["--yes"], r"--yes belongs to --push=ORG/NAME, which is missing"),
        (
            "export",
            ["--export.licence=apache2"],
            r"export\.licence=apache2 is no licence that the .* as apache-2\.0",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused(verb, flags, message):
    with pytest.raises(ConfigError, match=message):
        parse(["--config=ict:tiny", "--workdir=w", *flags], verb)


def test_a_licence_of_the_hub_is_taken():
    assert parse(["--config=ict:tiny", "--workdir=w", "--export.licence=cc-by-nc-4.0"]).config.export.licence
