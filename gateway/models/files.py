"""Reads files safely, and detects that a file has changed."""

import errno
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

CHECK_S = 1.0  # between checks for a changed file

S = TypeVar("S", bound=BaseModel)


def version(paths: Iterable[Path]) -> tuple[object, ...]:
    """A value that changes when a file, or a link's target, is written or replaced."""
    return tuple((path, _version(path)) for path in paths)


def read_file(path: Path, limit: int | None = None) -> bytes:
    """The content of a file.

    Raises:
        OSError: It cannot be read, has more than `limit` bytes, or is no regular file: a pipe or a
            device might never end.
    """
    # Without O_NONBLOCK, opening a pipe would wait for its writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        content = stream.read(-1 if limit is None else limit + 1)
    if limit is not None and len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", str(path))
    return content


def read_yaml(path: Path, schema: type[S], wrong: Callable[[str], Exception]) -> S:
    """The content of a YAML file, validated by this schema.

    Raises the error that `wrong` makes from a message, which names the line but quotes no value.
    """
    import yaml  # the import takes 40 ms of CPU, and most starts read no such file

    try:
        return schema.model_validate(yaml.safe_load(read_file(path).decode()))
    except OSError as error:
        raise wrong(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise wrong(f"{path}: {where or 'file'}: {first['msg']}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise wrong(f"{path}: {where}it is not YAML") from None


def _version(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_dev, found.st_ino
