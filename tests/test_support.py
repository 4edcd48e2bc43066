"""What tests share stands in ``tests.support``, and every test file has a name of its own."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))


def shared_between_tests(source: str) -> list[str]:
    """Modules that a test imports and that are tests themselves: a conftest, or a file of tests."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    last = [name.rpartition(".")[2] for name in names]
    return [
        name for name in last if name == "conftest" or (name.startswith("test_") and list(TESTS.rglob(f"{name}.py")))
    ]


def test_no_test_imports_from_another() -> None:
    assert {path.name: found for path in FILES if (found := shared_between_tests(path.read_text()))} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from conftest import start", ["conftest"]),
        ("def f():\n    import tests.engine.conftest", ["conftest"]),
        ("from tests.engine import test_families", ["test_families"]),
        ("from test_support import FILES", ["test_support"]),
        ("from tests.support.engine import start\nimport test_of_something_else", []),
    ],
)
def test_it_is_seen(source: str, found: list[str]) -> None:
    assert shared_between_tests(source) == found


def test_every_test_file_has_a_name_of_its_own() -> None:
    """So that a line of pytest's summary names one file."""
    names = [path.name for path in FILES if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))


def test_no_folder_of_tests_hides_a_package() -> None:
    """tests/lvsa_core/diffusers would be ``diffusers`` if its parent were on sys.path, where it is not installed."""
    assert not [path for path in sys.path if Path(path or ".").resolve().is_relative_to(TESTS)]


def test_a_record_tells_outcomes_apart(tmp_path: Path) -> None:
    kinds = {
        "passes": "assert True",
        "fails": "assert False",
        "skips": "pytest.skip('no GPU')",
        "expected": "pytest.xfail()",
    }
    file, record = tmp_path / "kinds.py", tmp_path / "record.json"
    file.write_text("import pytest\n" + "".join(f"def test_{name}():\n    {body}\n" for name, body in kinds.items()))
    program = (
        "import pathlib, sys, pytest; from tests.support.record import Record; "
        "pytest.main(['--noconftest', '-c', '/dev/null', sys.argv[1]], plugins=[Record(pathlib.Path(sys.argv[2]))])"
    )
    subprocess.run([sys.executable, "-c", program, str(file), str(record)], cwd=TESTS.parent, check=True, timeout=120)
    found = json.loads(record.read_text())
    assert found["outcomes"] == {"passed": 1, "failed": 1, "skipped": 1, "expected failure": 1}
    assert found["skipped"] == {"no GPU": 1} and found["placements"] == {}
