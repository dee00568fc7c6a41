"""The list of planted faults fits the source: each text is there once, and each named test exists."""

from __future__ import annotations

import ast

import pytest

from tests.mutants import SOURCE, TESTS, Mutant, load, stale

MUTANTS = load()


def test_every_mutant_has_its_text_once_in_the_source_and_changes_the_program():
    assert stale(MUTANTS) == []
    for mutant in MUTANTS:
        text = mutant.path().read_text(encoding="utf-8")
        changed = ast.dump(ast.parse(text.replace(mutant.old, mutant.new)))
        assert changed != ast.dump(ast.parse(text)), mutant.name


@pytest.mark.parametrize(("file", "old"), [("verdicts/rules.py", "np.greater_than"), ("verdicts/rule.py", "np.less")])
def test_a_text_that_is_gone_is_named(file, old):
    assert stale([Mutant(file, old, "x", ())]) == [f"{file}: {old} -> x (its text is 0 times in the file)"]


def test_a_text_that_stands_twice_is_named(tmp_path):
    mutant = Mutant("a.py", "1", "2", ())
    mutant.path(tmp_path).parent.mkdir()
    mutant.path(tmp_path).write_text("x = 1\ny = 1\n")
    assert stale([mutant], tmp_path) == ["a.py: 1 -> 2 (its text is 2 times in the file)"]


def test_a_mutant_is_planted_in_its_file_alone(tmp_path):
    mutant = MUTANTS[0]
    copy = mutant.path(tmp_path)
    copy.parent.mkdir(parents=True)
    copy.write_bytes(mutant.path().read_bytes())
    mutant.plant(tmp_path)
    assert copy.read_text(encoding="utf-8").count(mutant.new) == 1
    assert mutant.old in mutant.path(SOURCE).read_text(encoding="utf-8")


def test_the_tests_that_must_see_a_mutant_exist():
    named = {test for mutant in MUTANTS for test in mutant.tests}
    assert all(mutant.tests for mutant in MUTANTS)
    for test in named:
        file, _, function = test.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not function or function.partition("[")[0] in functions, test


def test_the_mutants_are_many_different_and_of_every_room_that_computes_or_judges():
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS) >= 60
    rooms = {mutant.file.partition("/")[0] for mutant in MUTANTS}
    assert rooms >= {"verdicts", "diagnostics", "importance", "numerics", "engines", "model", "stages"}
