#!/bin/sh
# Makes .venv from the hash-locked requirements and sees that the servers are there.
# Run again it only looks, which takes a moment. `setup.sh bench` also wants the load generator,
# `setup.sh faults` the library that shifts a server's clock, and can do without it.
set -eu
cd "$(dirname "$0")/.."
PATH="$PATH:/usr/sbin:/usr/local/sbin"

say() { printf '%s\n' "moonwake setup: $*" >&2; }
fail() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

find_python() {
    for name in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
            >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    fail "needs Python 3.11, 3.12 or 3.13${PYTHON:+, which $PYTHON is not}" \
        "(PYTHON=/path/to/python3 names one)"
}

# What this machine lacks, as names of Debian packages. None of them starts a service:
# redis-tools holds the whole server (under the name redis-check-rdb).
missing_packages() {
    [ -x .venv/bin/python ] || "$python" -c 'import ensurepip' 2>/dev/null || echo python3-venv
    have mariadbd || have mysqld || echo mariadb-server-core
    have mariadb || have mysql || echo mariadb-client-core
    have curl || echo curl # the line that `moonwake up` prints
    have redis-server || have valkey-server || have redis-check-rdb || echo redis-tools
    [ "${1:-}" != bench ] || have wrk || echo wrk
}

install_packages() {
    have apt-get || fail "install these (Debian's names) and run it again: $*"
    line="apt-get install -y --no-install-recommends $*"
    [ "$(id -u)" = 0 ] || fail "this machine lacks $*. Type: sudo apt-get update && sudo $line"
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    told="$(mktemp)"
    { apt-get update && $line; } >"$told" 2>&1 || { cat "$told" >&2; fail "could not run: $line"; }
    rm -f "$told"
}

# Faults of Redis' clock are reported as not injected where nobody may install it.
want_faketime() {
    for library in /usr/lib/*/faketime /usr/lib/faketime /usr/lib64/faketime; do
        [ ! -e "$library/libfaketime.so.1" ] || return 0
    done
    if [ "$(id -u)" = 0 ] && have apt-get; then
        install_packages libfaketime
    else
        say "libfaketime is missing: no fault will shift Redis' clock" \
            "(Debian: sudo apt-get install libfaketime)"
    fi
}

build_venv() {
    # A stamp of everything the environment is made from; it is written last.
    wanted="$(cat requirements-dev.txt pyproject.toml ops/setup.sh | cksum) in $PWD"
    stamp=.venv/moonwake-stamp
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c ''; then
        return
    fi
    say "building .venv with $("$python" --version)"
    # A moved or half-built environment, or one of another Python, is made anew;
    # one in use is only brought up to date.
    clear=
    [ "$(.venv/bin/python -m pip --version 2>/dev/null | sed 's/.*(//')" = \
        "$("$python" -c 'import sys; print("python %d.%d)" % sys.version_info[:2])')" ] ||
        clear=--clear
    "$python" -m venv $clear .venv
    pip=".venv/bin/python -m pip install --quiet --disable-pip-version-check"
    $pip --require-hashes -r requirements-dev.txt
    $pip --no-deps --no-build-isolation -e .
    printf '%s' "$wanted" >"$stamp"
}

python="$(find_python)"
packages="$(missing_packages "${1:-}")"
# shellcheck disable=SC2086 # one word per package
[ -z "$packages" ] || install_packages $packages
[ "${1:-}" != faults ] || want_faketime
build_venv
