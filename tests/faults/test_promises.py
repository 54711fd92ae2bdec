"""docs/reliability.md names the tests of each fault, and no others."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text("utf-8")
ROWS = {int(row[1]): row[0] for row in re.finditer(r"^\| T(\d+) \|.*$", PAGE, re.MULTILINE)}
NAMES = {
    path: re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE) for path in TESTS.rglob("test_*.py")
}


def files_with_tests_of(fault: int) -> set[str]:
    found = {path for path, names in NAMES.items() if any(f"_t{fault:02}_" in name for name in names)}
    return {str(path.relative_to(TESTS)) for path in found}


def test_all_thirty_faults_have_a_row():
    assert list(ROWS) == list(range(1, 31))


@pytest.mark.parametrize("fault", ROWS)
def test_a_row_names_the_files_that_have_tests_of_its_fault(fault):
    named = set(re.findall(r"[\w/]+\.py", ROWS[fault].split(" | ")[3]))
    assert named == files_with_tests_of(fault)
    assert named or fault == 21  # which is promised by nobody


def test_every_test_that_the_page_names_exists():
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named and named <= {name for names in NAMES.values() for name in names}
