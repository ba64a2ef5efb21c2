#!/bin/sh
# Writes the exact, hashed requirement lists from the ranges in pyproject.toml. Run by `make lock`.
set -eu
cd "$(dirname "$0")/.."
UV=${UV:-uv}
lock() {
    list=$1
    shift
    "$UV" pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 \
        --custom-compile-command "make lock" --output-file "requirements/$list.txt" "$@"
}
lock serve pyproject.toml --override requirements/overrides.txt
lock export pyproject.toml --extra export --override requirements/overrides.txt
lock dev pyproject.toml --extra export --extra dev --override requirements/overrides.txt
