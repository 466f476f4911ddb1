#!/bin/sh
# Pins every dependency, for every supported Python and platform, with hashes and
# without the address of any package index. `lock.sh --upgrade` takes newer versions.
# uv lives in an environment of its own, thrown away afterwards.
set -eu
cd "$(dirname "$0")/.."
tool="$(mktemp -d)"
trap 'rm -rf "$tool"' EXIT
.venv/bin/python -m venv "$tool"
"$tool/bin/pip" install --quiet --disable-pip-version-check uv

compile() {
    "$tool/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-header "$@"
}

compile "$@" pyproject.toml --output-file requirements.txt
compile "$@" pyproject.toml --extra dev --output-file requirements-dev.txt
# What the benchmarks' plots are drawn with; beside the others in .venv, so the same versions.
compile "$@" bench/scale/requirements.in --constraint requirements-dev.txt \
    --output-file bench/scale/requirements.txt
# The rivals' own environment.
compile "$@" bench/rivals/requirements.in --output-file bench/rivals/requirements.txt
