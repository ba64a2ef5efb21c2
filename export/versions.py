"""`python -m export.versions`: lists, switches and deletes the versions of a model.

`python -m export ... --version N` adds a version and keeps the previous one. This program switches
back to it or deletes it. A running gateway follows within seconds, without a failed request.
"""

import argparse
import json
import sys
from pathlib import Path

from export.errors import ExportError, RepositoryError
from export.publish.leftovers import PLAN, kept, kept_file, manifest_text, paths_of
from export.publish.repository import published
from export.publish.writer import locked, staging
from export.storage.durable import sync_tree, write
from gateway.models.manifest import SUFFIX, Manifest


def versions(root: Path, model_id: str) -> tuple[Manifest, list[Manifest]]:
    """The served version and the kept ones, oldest first.

    Raises:
        RepositoryError: No such model is published, or a manifest cannot be read.
    """
    served = published(root, model_id)
    if served is None:
        raise RepositoryError(f"{root}: no model {model_id!r} is published here")
    others = [each for each in kept(root, model_id) if each.version != served.version]
    return served, sorted(others, key=lambda each: each.version)


def use(root: Path, model_id: str, version: int) -> None:
    """Serve a kept version, and keep the one served before.

    Raises:
        RepositoryError: No kept version has this number, or writing failed.
    """
    with locked(root):
        served, others = versions(root, model_id)
        if served.version == version:
            return
        wanted = _found(model_id, others, version)
        with staging(root) as staged:
            write(staged, root / kept_file(served), manifest_text(served))
            write(staged, root / f"{model_id}{SUFFIX}", manifest_text(wanted))
            (root / kept_file(wanted)).unlink()


def drop(root: Path, model_id: str, version: int) -> None:
    """Delete a kept version.

    Raises:
        RepositoryError: No kept version has this number, or it is served.
    """
    with locked(root):
        served, others = versions(root, model_id)
        if served.version == version:
            raise RepositoryError(
                f"{model_id}: version {version} is served; use another one first, or remove "
                f"the whole model with `python -m export --remove {model_id}`"
            )
        with staging(root) as staged:
            unwanted = _found(model_id, others, version)
            (staged / PLAN).write_text(json.dumps(paths_of(unwanted)))
            sync_tree(staged)
            (root / kept_file(unwanted)).unlink()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and print the versions; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m export.versions", description=__doc__)
    parser.add_argument("id", metavar="ID", help="the model's id")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), metavar="DIR")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--use", type=int, metavar="N", help="serve this version, and keep the "
                        "one that is served")  # fmt: skip
    either.add_argument("--drop", type=int, metavar="N", help="delete this version")
    given = parser.parse_args(arguments)
    try:
        if given.use is not None:
            use(given.repository, given.id, given.use)
        if given.drop is not None:
            drop(given.repository, given.id, given.drop)
        served, others = versions(given.repository, given.id)
    except ExportError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return error.exit_code
    for each in sorted([served, *others], key=lambda each: each.version):
        state = "served" if each is served else "kept"
        sys.stdout.write(f"{each.id} version {each.version} {state} {each.fingerprint}\n")
    return 0


def _found(model_id: str, others: list[Manifest], version: int) -> Manifest:
    for each in others:
        if each.version == version:
            return each
    numbers = ", ".join(str(each.version) for each in others) or "none"
    raise RepositoryError(f"{model_id}: no version {version} is kept; there is {numbers}")


if __name__ == "__main__":
    sys.exit(main())
