"""`docs/guarantees.md` names the tests and the faults that show each promise: there are such."""

import ast
import re
from pathlib import Path

import pytest

from tests.servers.process import ROOT

TEXT = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w/]+\.py)::(test_\w+)`", TEXT)
PROMISES = [part.partition("\n")[0] for part in TEXT.split("\n## ")[1:]]


@pytest.mark.parametrize("path, name", NAMED, ids=[name for _, name in NAMED])
def test_each_test_that_it_names_is_there(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = {
        each.name for each in ast.walk(tree) if isinstance(each, ast.AsyncFunctionDef | ast.FunctionDef)
    }
    assert name in functions


@pytest.mark.parametrize("promise", PROMISES)
def test_each_promise_tells_its_limits_its_tests_and_its_faults(promise: str) -> None:
    part = TEXT.split(f"\n## {promise}\n")[1].partition("\n## ")[0]
    assert "**Limits.**" in part
    assert "Tests: `" in part
    assert "\nFaults: `tests/chaos/" in part


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests" / "chaos").glob("test_*.py")), ids=lambda path: path.stem
)
def test_each_fault_is_named_by_the_promise_that_it_shows(path: Path) -> None:
    faults = re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert faults
    assert {(f"tests/chaos/{path.name}", name) for name in faults} <= set(NAMED)
