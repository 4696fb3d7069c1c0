"""docs/reference/api.md names every public thing with its real signature."""

import inspect
import re
from pathlib import Path

import pytest

import holdfast
from holdfast import errors
from holdfast.training.views import RepositoryView, RunView

TEXT = (Path(__file__).parent.parent.parent / "docs/reference/api.md").read_text().replace("\\_", "_")
SECTIONS = {m[1]: m[2] for m in re.finditer(r"^##+ (.*?)\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)}
MADE_BY_US = (holdfast.Checkpoint, holdfast.Save)  # nobody else calls their constructors
SPECIAL = ("__getitem__", "__iter__", "__len__", "__contains__")


def _signature(function, *, of_class):
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return signature.replace(parameters=parameters[of_class:], return_annotation=signature.empty)


def _public():
    for name in holdfast.__all__:
        value = getattr(holdfast, name)
        if inspect.isclass(value):
            called = "__init__" in vars(value) and value not in MADE_BY_US
            yield name, _signature(value.__init__, of_class=True) if called else None
        else:
            yield name, _signature(value, of_class=False) if callable(value) else None
    for owner in (holdfast.Checkpointer, holdfast.Checkpoint, holdfast.Save, RepositoryView, RunView):
        for name, value in vars(owner).items():
            if not name.startswith("_") or name in SPECIAL:
                full = f"{owner.__name__}.{name}"
                yield full, None if isinstance(value, property) else _signature(value, of_class=True)


@pytest.mark.parametrize(
    ("name", "signature"), list(_public()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_is_described_with_its_signature(name, signature):
    heading = f"{name}{signature or ''}"
    assert heading in SECTIONS
    text = SECTIONS[heading]
    assert text.strip()
    said_by_the_heading = name.endswith(SPECIAL) or name in (
        "Checkpoint",
        "RepositoryView.best",
        "RunView.best",
    )
    for parameter in signature.parameters.values() if signature and not said_by_the_heading else ():
        if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in ("pattern", "what", "do"):
            assert f"`{parameter.name}`" in text, parameter.name


def test_nothing_is_described_that_is_not_there():
    public = {f"{name}{signature or ''}" for name, signature in _public()}
    assert set(SECTIONS) - public == {"Errors"}


def test_every_error_with_its_kind_and_exit_code():
    for value in vars(errors).values():
        if inspect.isclass(value) and value is not errors.HoldfastError and issubclass(value, Exception):
            assert f"`{value.kind}`, {value.exit_code}" in TEXT, value.__name__
