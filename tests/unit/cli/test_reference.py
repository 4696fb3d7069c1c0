"""The reference of the command line is complete, and says nothing that is not so."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import typer.main

from holdfast import errors
from holdfast.cli.app import VERBS, app

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "cli.md").read_text()
GROUP = typer.main.get_command(app)


def section(verb):
    found = re.search(rf"^## holdfast {verb}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/reference/cli.md has no section for {verb}"
    return found[1]


def test_every_verb_is_there_and_no_other():
    documented = re.findall(r"^## holdfast (\S+)$", PAGE, re.MULTILINE)
    assert documented == list(VERBS) == list(GROUP.commands)


@pytest.mark.parametrize("verb", VERBS)
def test_every_argument_option_and_example_is_there(verb):
    text = section(verb)
    for parameter in GROUP.commands[verb].params:
        if parameter.name == "help":
            continue
        assert parameter.help, f"{verb}: {parameter.name} has no help"
        assert parameter.help in text
        flags = parameter.opts if parameter.param_type_name == "option" else []
        assert all(f"`{flag}`" in text for flag in flags)
    command = importlib.import_module(f"holdfast.cli.cmd_{verb.replace('-', '_')}")
    assert command.EXAMPLES
    for example in command.EXAMPLES:
        assert example in text
    first = " ".join(command.command.__doc__.split("\n\n")[0].split())
    assert first in " ".join(text.split())


@pytest.mark.parametrize("verb", VERBS)
def test_no_option_is_documented_that_does_not_exist(verb):
    known = {o for p in GROUP.commands[verb].params for o in p.opts}
    rows = [line for line in section(verb).splitlines() if line.startswith("| `-")]
    assert {flag for row in rows for flag in re.findall(r"`(--?[a-z-]+)`", row.split(" | ")[0])} <= known


def test_reading_verbs_print_json_and_say_how():
    silent = {"restart", "rm", "mv", "run", "lfs-agent"}
    for verb in VERBS:
        has_json = any("--json" in p.opts for p in GROUP.commands[verb].params)
        assert has_json == (verb not in silent)
        assert ("JSON: " in section(verb)) == has_json


def test_every_kind_of_error_has_its_exit_code_there():
    kinds = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.HoldfastError)]
    for kind in kinds:
        row = next(line for line in PAGE.splitlines() if line.startswith("|") and f"`{kind.kind}`" in line)
        assert str(kind.exit_code) in row.split("|")[1]
