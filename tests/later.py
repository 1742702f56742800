"""Collecting tests imports neither torch nor fastai: what a test file needs of them stands in its blocks `if not
collecting:`, which are run before its first test."""
import ast
import functools
import sys
from pathlib import Path

import pytest

collecting = False # set by conftest.py; a child of a test that imports a test file has all of it at once


def load(module):
    "Run the blocks that were left out when a test file was imported."
    if vars(module).get('_complete'): return
    for node in ast.parse(Path(module.__file__).read_text()).body:
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == 'not collecting'): continue
        for inner in node.body:
            if (
                isinstance(inner, ast.ImportFrom)
                and (inner.module or '').startswith('test_')
                and inner.module in sys.modules
            ):
                load(sys.modules[inner.module])
        exec(compile(ast.Module(node.body, []), module.__file__, 'exec'), vars(module))
    module._complete = True


class Value:
    "A value of a parameter, made when its test runs."
    def __init__(self, make, count, row, column=None):
        self.make, self.count, self.row, self.column = make, count, row, column
    def __call__(self):
        values = list(self.make())
        assert len(values) == self.count, f'{len(values)} values have {self.count} ids'
        return values[self.row] if self.column is None else values[self.row][self.column]


def parametrize(
    names, # as for pytest.mark.parametrize
    ids, # one for each value; collecting needs to know how many there are
    make, # () -> the values
):
    "pytest.mark.parametrize with values that need torch or fastai."
    names = names.replace(' ', '').split(',')
    columns = [None] if len(names) == 1 else range(len(names))
    return pytest.mark.parametrize(names,
                                   [pytest.param(*(Value(make, len(ids), row, column) for column in columns), id=name)
                                    for row, name in enumerate(ids)])


def prepare(item):
    "Before anything of a test is set up."
    if not hasattr(item, 'module'): return
    load(item.module)
    if callspec := getattr(item, 'callspec', None):
        for name, value in callspec.params.items():
            if isinstance(value, Value): callspec.params[name] = value()


def no_grad(test):
    "Decorate a test that needs no gradients."
    @functools.wraps(test)
    def run(*args, **kwargs):
        import torch
        with torch.no_grad(): return test(*args, **kwargs)
    return run
