"""What the contracts demand: a class that lacks a part of one cannot be constructed, and the error names the part."""

from dataclasses import dataclass

import pytest

from dense_jax.augmented.objective import RetrievalAugmented
from dense_jax.objective import Objective
from dense_jax.types import PassageCollection, TrainingSet
from tests.toys import BagOfTokens, Borrower, MemoryStore

METHOD = ["combine", "encode", "example", "init", "towers"]
COMPLETE = [
    (Objective, BagOfTokens, METHOD),
    (RetrievalAugmented, Borrower, [*METHOD, "depth", "join", "question"]),
    (PassageCollection, MemoryStore, ["__getitem__", "__len__", "document", "ids", "passages"]),
    (TrainingSet, MemoryStore, ["__len__", "document", "parts", "sample"]),
]


@pytest.mark.parametrize(
    ("base", "complete", "name"), [(base, complete, name) for base, complete, names in COMPLETE for name in names]
)
def test_a_class_that_lacks_one_part_of_its_contract_is_refused_with_the_name_of_the_part(base, complete, name):
    parts = {part: getattr(complete, part) for part in base.__abstractmethods__ - {name}}
    lacking = dataclass(type("Lacking", (base,), parts))
    with pytest.raises(TypeError, match=rf"instantiate abstract class Lacking .*\b{name}\b"):
        lacking()


@pytest.mark.parametrize(("base", "complete", "names"), COMPLETE)
def test_a_contract_demands_these_parts_and_no_others(base, complete, names):
    assert sorted(base.__abstractmethods__) == sorted(names)
    assert not complete.__abstractmethods__


def test_a_method_with_its_five_parts_has_a_default_for_all_others():
    parts = {name: getattr(BagOfTokens, name) for name in METHOD}
    method = dataclass(type("Five", (Objective,), parts))()
    assert (method.prompts(), method.collapse_metrics({}, {}, {}), method.reader({})) == ((), {}, None)
