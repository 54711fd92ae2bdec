import inspect
import sys
import textwrap
from pathlib import Path

import pytest

from dense_jax.config import CorpusConfig
from dense_jax.data.dedup import without_near_duplicates
from dense_jax.data.sources import demo_corpus
from dense_jax.data.sources.corpus import open_corpus
from dense_jax.data.sources.demo_corpus import documented, is_english_prose, readable


def found(source, module="pkg.module"):
    return {name: text for name, text in documented(textwrap.dedent(source).encode(), module) if text}


def test_modules_classes_methods_and_functions_are_found_under_their_qualified_names():
    source = '''
        """The module."""

        def function():
            """A function."""
            def inner():
                """Not reachable by a name."""

        class Thing:
            """A class."""
            async def method(self):
                """A method."""

        if True:
            def conditional():
                """In a condition."""
    '''
    assert found(source) == {
        "pkg.module": "The module.",
        "pkg.module.function": "A function.",
        "pkg.module.Thing": "A class.",
        "pkg.module.Thing.method": "A method.",
        "pkg.module.conditional": "In a condition.",
    }


def test_private_objects_are_left_out():
    source = '''
        def _private():
            """Private."""

        class Thing:
            def __init__(self):
                """Makes one."""
    '''
    assert found(source) == {}


def test_documentation_added_from_elsewhere_is_found():
    source = '''
        add_newdoc("numpy._core.umath", "absolute", """Absolute value.""")
        add_newdoc("numpy", "ndarray", ("base", """Base object."""))
        add_newdoc("gamma", """Gamma function.""")
        add_newdoc("_hidden", """Private.""")
        add_newdoc("computed", "text " + name)
    '''
    assert found(source, "scipy.special._docs") == {
        "numpy._core.umath.absolute": "Absolute value.",
        "numpy.ndarray.base": "Base object.",
        "scipy.special._docs.gamma": "Gamma function.",
    }


def test_source_that_does_not_parse_has_no_documentation():
    assert found("def broken(:\n") == {}
    assert list(documented(b"x = '\0'", "pkg")) == []


def test_source_that_python_would_warn_of_is_read_all_the_same():
    assert found('x = "\\d"\ndef f():\n    """Found."""\n') == {"pkg.module.f": "Found."}


def test_a_docstring_becomes_prose():
    docstring = """svd(a, full_matrices=True,
            compute_uv=True)

        Decompose ``a`` as :func:`numpy.dot` of :class:`three matrices <numpy.matrix>`, **always**.

        .. note:: It is slow.

        Parameters
        ----------
        a : array_like
            The matrix.

        >>> svd([[1]])
        (array([[1.]]),
         array([1.]))

        See `qr`.
        """
    assert readable(docstring) == inspect.cleandoc(
        """Decompose a as numpy.dot of three matrices, always.

        note: It is slow.

        Parameters
        a : array_like
            The matrix.


        See qr."""
    )


def test_a_docstring_that_starts_with_a_call_in_a_sentence_keeps_it():
    assert readable("f(x) is the value at x.") == "f(x) is the value at x."


@pytest.mark.timeout(20)  # each takes milliseconds if the time is linear
@pytest.mark.parametrize("piece", ["`", ":a:`", ":a:`b<", "f(", ">>> x\n", "-", "---\n", ".. a", "**", "f(\n", " "])
def test_a_long_docstring_of_one_repeated_piece_is_read_in_linear_time(piece):
    assert len(readable(piece * (300_000 // len(piece)))) <= 300_000


@pytest.mark.parametrize(
    ("text", "english"),
    [
        (
            "Return the value that is the largest of all the values in the array, or raise an error if it is empty.",
            True,
        ),
        ("Too short to be of use to anybody.", False),
        ("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau", False),
        ("Renvoie la plus grande valeur du tableau et lève une erreur si le tableau ne contient aucun élément.", False),
    ],
)
def test_english_prose_is_told_from_short_texts_lists_and_other_languages(text, english):
    assert is_english_prose(text) == english


LONG = "Compute the sum of all the elements of the given array along one of its axes and return it as a new array. "
LONG += "The type of the result is that of the elements unless another one is asked for by the caller of this function."


def test_the_first_of_several_near_duplicates_stays():
    texts = [
        ("a", LONG),
        ("b", LONG.upper().replace(".", " !")),  # case and punctuation do not count
        ("c", LONG.replace("the caller of", "whoever calls")),
        (
            "d",
            "Something that has nothing at all in common with the sum of an array, and is about the same length as it.",
        ),
    ]
    assert [name for name, _ in without_near_duplicates(texts, similarity=0.7)] == ["a", "d"]


def test_texts_shorter_than_a_shingle_are_compared_too():
    assert [name for name, _ in without_near_duplicates([("a", "One"), ("b", "one!"), ("c", "Two")], 0.7)] == ["a", "c"]


TEXT = "Give back the {} of the things that are in this box, if there is one, or else raise an error that says why."


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small standard library and one package, in the places of the real ones."""

    def write(path, docstring):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"import no_such_module_anywhere\n\ndef look():\n    '''{TEXT.format(docstring)}'''\n")

    lib, site = tmp_path / "lib", tmp_path / "site"
    write(lib / "alpha.py", "first and finest of the letters")
    write(lib / "_private.py", "hidden number that nobody ought to see")
    write(lib / "test" / "test_alpha.py", "test of all tests, which is no documentation")
    write(site / "tinybox" / "__init__.py", "whole package at once, big or small")
    write(site / "tinybox" / "_src" / "deep.py", "deepest secret under the surface of it")
    write(site / "tinybox" / "deep.py", "name that another module has already taken")
    write(site / "tinybox" / "again.py", "first and finest of the letters")
    (lib / "pydoc_data").mkdir()
    (lib / "pydoc_data" / "topics.py").write_text(
        f"topics = {{'assert': '''{TEXT.format('assertion that was made')}'''}}\n"
    )
    monkeypatch.setattr(demo_corpus.sysconfig, "get_path", lambda name: str(lib))
    monkeypatch.setattr(demo_corpus, "_PACKAGES", {"tinybox": "numpy", "absent_package": "absent"})
    monkeypatch.syspath_prepend(site)
    return site


def test_topics_library_and_packages_are_documents_under_public_names_in_a_fixed_order(library):
    documents = list(open_corpus(CorpusConfig(source="installed")))
    assert [document.id for document in documents] == [
        "topics.assert",
        "private.look",
        "alpha.look",
        "tinybox.look",
        "tinybox.deep.look",
    ]
    assert documents[2].title == "alpha.look"
    assert documents[2].text == TEXT.format("first and finest of the letters")
    assert "tinybox" not in sys.modules


def test_the_fingerprint_is_the_versions_of_python_and_of_the_packages_that_are_there(library):
    assert open_corpus(CorpusConfig(source="installed")).fingerprint().keys() == {"name", "python", "tinybox"}


def test_every_named_package_is_a_distribution_or_absent():
    versions = demo_corpus.installed_versions()
    assert {"python", "numpy", "jax", "flax", "optax", "orbax", "grain", "transformers"} <= versions.keys()


def test_the_real_topics_and_a_real_package_give_documents():
    topics = dict(demo_corpus.topics((Path(inspect.__file__).parent / "pydoc_data" / "topics.py").read_bytes()))
    assert '"assert" statement' in topics["topics.assert"]
    (folder,) = demo_corpus._folders("optax")
    modules = demo_corpus._module_files(folder, ("optax",))
    found = [row for path, module in modules for row in demo_corpus.documented(path.read_bytes(), module)]
    names = {demo_corpus._public(name) for name, text in found if text}
    assert "optax.alias.adamw" in names
