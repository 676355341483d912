"""What the documents say exists, exists."""

import inspect
import re
import typing
from pathlib import Path
from typing import Any

import pytest

import concave
import concave.kv
import concave.tasks
import concave_sqlalchemy

DOCS = Path(__file__).parent.parent / "docs"
PUBLIC = {
    name: getattr(module, name)
    for module in (concave, concave.tasks, concave.kv, concave_sqlalchemy)
    for name in module.__all__
}
UNPACKED = re.compile(r"Unpack\[(\w+)\]")
NAME = re.compile(r"^(?P<path>[\w.]+)(?:\((?P<options>[\w=, ]*)\))?$")


def _python_column() -> list[tuple[str, str]]:
    """The names in the second column of each table, with the section they are in."""
    found: list[tuple[str, str]] = []
    section = ""
    for line in (DOCS / "from-typescript.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("|") and not line.startswith(("|---", "| The original")):
            cells = line.split(" | ")
            assert len(cells) == 3 or line.endswith("| |"), line
            found += [(section, code) for code in re.findall(r"`([^`]+)`", cells[1])]
    return found


@pytest.mark.parametrize("section, code", _python_column())
def test_each_name_of_the_table_exists(section: str, code: str) -> None:
    match = NAME.match(code)
    assert match, f"{code!r} isn't a name with options"
    first, *rest = match["path"].split(".")
    assert first in PUBLIC, f"{first} isn't public"
    found = PUBLIC[first]
    for name in rest:
        found = _attribute(found, name)
    if match["options"] is None:
        return
    assert callable(found), f"{code} can't be called"
    wanted = {option.strip().removesuffix("=") for option in match["options"].split(",") if option}
    assert wanted <= _options_of(found), wanted - _options_of(found)


def test_the_table_has_every_section_of_the_guide() -> None:
    assert list(dict.fromkeys(section for section, _ in _python_column())) == [
        "Quick start",
        "Defining tasks",
        "Scheduling tasks",
        "Task management",
        "Workers",
        "Retry strategies",
        "Dead letter queue",
        "Resource integration",
        "Distributed locking",
        "Priority queues",
        "Recurring task management",
        "Full example and best practices",
    ]


def test_a_name_that_does_not_exist_is_found_out() -> None:
    for code in ("no_such_function()", "define_task(no_such_option=)", "TaskScheduler.no_such_method()"):
        with pytest.raises(AssertionError):
            test_each_name_of_the_table_exists("", code)


def _attribute(owner: Any, name: str) -> Any:
    if hasattr(owner, name):
        return getattr(owner, name)
    # An attribute that is made with the object, and given under its name.
    assert name in inspect.signature(owner).parameters, f"{owner.__name__} has no {name}"
    return None


def _options_of(function: Any) -> set[str]:
    """What a function can be called with by name, those that it takes as ``**options: Unpack[…]`` included."""
    options: set[str] = set()
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            options.add(name)
            continue
        if unpacked := UNPACKED.match(str(parameter.annotation)):
            options |= set(typing.get_type_hints(function.__globals__[unpacked[1]]))
    return options
