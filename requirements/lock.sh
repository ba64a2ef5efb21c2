#!/bin/sh
# Writes the exact, hashed requirement lists from the ranges in pyproject.toml. Run by `make lock`.
set -eu
cd "$(dirname "$0")/.."
UV=${UV:-uv}
lock() {
    list=$1
    shift
    "$UV" pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 \
        --no-emit-package openclip-triton-client --custom-compile-command "make lock" \
        --output-file "requirements/$list.txt" "$@"
}
lock gateway pyproject.toml --extra gateway --extra otel --override requirements/gateway-overrides.txt
lock triton pyproject.toml --extra triton --override requirements/overrides.txt
lock serve pyproject.toml --extra serve --override requirements/overrides.txt
lock peers pyproject.toml --extra peers
lock build pyproject.toml --extra build
lock clients pyproject.toml --extra clients
lock examples pyproject.toml --extra examples
# Without dependencies: it comes beside serve or triton, and works without its telemetry.
lock openvino pyproject.toml --extra openvino --no-deps
lock export pyproject.toml --extra serve --extra openvino --extra export \
    --override requirements/overrides.txt
# onnxruntime-gpu holds the same module.
with_gpu=$(mktemp)
with_zmq=$(mktemp)
trap 'rm -f "$with_gpu" "$with_zmq"' EXIT
{ cat requirements/overrides.txt; echo 'onnxruntime ; sys_platform == "never"'; } > "$with_gpu"
lock gpu pyproject.toml --extra serve --extra gpu --override "$with_gpu"
# Locust needs the pyzmq that is left out everywhere else.
grep -v '^pyzmq' requirements/overrides.txt > "$with_zmq"
lock bench pyproject.toml --extra serve --extra bench --override "$with_zmq"
# s3fs of the tests needs the wrapt that is left out everywhere else.
sed -i '/^wrapt/d' "$with_zmq"
lock dev pyproject.toml --extra serve --extra openvino --extra export --extra bench --extra dev \
    --override "$with_zmq"
# One list for each: a list of pip's may name a package once.
mkdir -p requirements/tensorrt
grep -v '^#' requirements/tensorrt.in | while read -r line; do
    echo "$line" | lock "tensorrt/${line#*==}" --no-deps -
done
