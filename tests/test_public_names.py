"""Uniqueness of public classes, type aliases and shared constants in our packages."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("esper_ray", "actors/esper_actors", "policies/esper_policies", "benchmarks", "evidence")


@cache
def trees() -> dict[str, ast.Module]:
    """The modules of our packages, parsed, by their path."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def is_option(value: ast.expr | None) -> bool:
    """Whether ``value`` is a parameter of a command; it may have the name of its setting."""
    return value is not None and "typer.Option(" in ast.unparse(value)


def definitions(tree: ast.Module) -> Iterator[str]:
    """Public names that the top level of a module defines: classes, aliases and constants."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign) and not is_option(node.value):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not is_option(node.value):
            yield node.target.id


def places() -> dict[str, list[str]]:
    """Public name to the modules that define it."""
    owners: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees().items():
        for name in dict.fromkeys(definitions(tree)):
            if not name.startswith("_"):
                owners[name].append(path)
    return owners


def imported() -> set[str]:
    """Names that a module of ours imports from another one of ours."""
    return {
        alias.name
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("esper_", "benchmarks", "evidence"))
        for alias in node.names
    }


def test_no_two_public_classes_or_type_aliases_share_a_name():
    classes = {name: o for name, o in places().items() if name[0].isupper() and not name.isupper()}
    callbacks = classes.pop("GrowthCallback")  # one for each trainer, which gives it its base class
    assert callbacks == [f"esper_ray/integrations/{trainer}.py" for trainer in ("lightning", "transformers")]
    assert {name: o for name, o in classes.items() if len(o) > 1} == {}


def test_a_constant_that_another_module_imports_has_one_definition():
    names = imported()
    assert {name: o for name, o in places().items() if name.isupper() and len(o) > 1 and name in names} == {}


def test_a_version_constant_names_its_subject():
    assert not {"VERSION", "SCHEMA", "PATIENCE_SECONDS"} & places().keys()


def test_a_second_definition_is_found():
    assert list(definitions(ast.parse("class A: ...\nB = int\nC: int = 3\n_D = 1\nx.y = 2"))) == ["A", "B", "C", "_D"]
    assert list(definitions(ast.parse("Seed = Annotated[int, typer.Option(help='seed')]"))) == []
    assert len(places()) > 500
