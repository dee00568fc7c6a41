"""A loader that runs the text of a model file as a module: the bytes that were read, never cached bytecode."""

from __future__ import annotations

import linecache
from importlib.abc import ExecutionLoader
from importlib.util import decode_source
from pathlib import Path
from types import CodeType, ModuleType

from chainsweep.errors import ModelError


def read_source(path: Path) -> bytes:
    """Read the bytes of a model file. Raises ``ModelError`` where there is no such file, or it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path}: no such model file ({error.strerror}); expected a Python file named by [model] file"
        ) from error


class ModelLoader(ExecutionLoader):
    """A loader of one text under the name of its file; bytecode in ``__pycache__`` is neither read nor written."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path = path
        self._source = source

    def get_filename(self, fullname: str) -> str:
        """The absolute path of the file."""
        return self.path

    def get_source(self, fullname: str) -> str:
        """The text that is run, decoded as Python does."""
        return decode_source(self._source)

    def get_code(self, fullname: str) -> CodeType:
        """The text, compiled."""
        return self.source_to_code(self._source, self.path)

    def exec_module(self, module: ModuleType) -> None:
        """Run the text in ``module``; tracebacks and ``inspect.getsource`` show its lines, whatever the file holds."""
        code = self.get_code(module.__name__)
        text = self.get_source(module.__name__)
        linecache.cache[self.path] = (len(self._source), None, text.splitlines(keepends=True), self.path)
        exec(code, module.__dict__)
