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
        --no-emit-index-url --no-emit-find-links --no-header "$@" pyproject.toml
}

compile "$@" --output-file requirements.txt
compile "$@" --extra dev --output-file requirements-dev.txt
