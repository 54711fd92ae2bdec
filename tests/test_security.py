"""docs/security.md: the tests that it names exist, and what it says of the whole source holds."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dense_jax"
EXECUTES = {"eval", "exec", "loads of pickle", "load of pickle", "load of torch", "apply_chat_template", "system of os",
            "Popen of subprocess", "run of subprocess", "unsafe_load of yaml", "load of joblib"}  # fmt: skip
NETWORK = {"http", "urllib.request", "requests", "httpx", "aiohttp", "huggingface_hub", "datasets", "ir_datasets",
           "tensorflow_datasets", "fsspec", "gcsfs", "s3fs", "wandb", "trackio", "mlflow"}  # fmt: skip


def parsed() -> dict[str, ast.Module]:
    files = sorted(PACKAGE.rglob("*.py"))
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8")) for path in files}


def called(node: ast.Call) -> str:
    """The name of a function, or `method of module`."""
    if isinstance(node.func, ast.Attribute):
        owner = node.func.value
        named = f"{node.func.attr} of {owner.id}" if isinstance(owner, ast.Name) else ""
        return named if named in EXECUTES else node.func.attr if node.func.attr == "apply_chat_template" else ""
    return node.func.id if isinstance(node.func, ast.Name) else ""


def imported(tree: ast.Module) -> set[str]:
    nodes = list(ast.walk(tree))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_the_package_calls_nothing_that_executes_what_it_reads():
    found = {
        (name, called(node))
        for name, tree in parsed().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and called(node) in EXECUTES
    }
    assert found == {
        ("config/files.py", "exec"),  # the config file that the user names
        ("data/beam.py", "loads of pickle"),  # between workers of one preparation
        ("data/preparation/bundles.py", "loads of pickle"),
    }


def test_no_call_allows_pickles_or_code_of_others():
    words = {
        (keyword.arg, ast.unparse(keyword.value))
        for tree in parsed().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg in ("allow_pickle", "trust_remote_code", "weights_only")
    }
    assert words == {("allow_pickle", "False"), ("trust_remote_code", "False")}


def test_the_modules_that_can_use_a_network_are_these():
    found = {
        (name, top)
        for name, tree in parsed().items()
        for module in imported(tree)
        for top in NETWORK
        if module == top or module.startswith(f"{top}.")
    }
    assert found == {
        ("data/sources/document_files.py", "tensorflow_datasets"),  # a data set by its name
        ("hf/model_card.py", "huggingface_hub"),  # classes of a model card, which is written and not sent
        ("remote/data_sets.py", "huggingface_hub"),  # the newest revision of a data set; `datasets` by its name
        ("remote/models.py", "huggingface_hub"),
        ("remote/upload.py", "huggingface_hub"),  # `export --push`, which sends after --yes only
        ("train/trackers.py", "mlflow"),
        ("train/trackers.py", "trackio"),
        ("train/trackers.py", "wandb"),
    }


def test_every_test_that_the_page_names_exists():
    named = set(re.findall(r"test_\w+", (ROOT / "docs" / "security.md").read_text(encoding="utf-8")))
    defined = {
        found
        for path in (ROOT / "tests").rglob("*.py")
        for found in re.findall(r"def (test_\w+)", path.read_text("utf-8"))
    }
    assert len(named) > 20
    assert named - defined == set()
