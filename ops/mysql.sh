#!/bin/sh
# Finds or makes a real MySQL server (Debian 12 has only MariaDB) and runs a command with
# MOONWAKE_MYSQL_ROOT naming its chroot directory (empty: mysqld is on PATH). A newer Redis than
# Debian 12's (7.0) comes along: MOONWAKE_REDIS_ROOT names its chroot directory, empty without one.
# Where none can be had it says so and ends with 0 without running the command.
set -eu
cd "$(dirname "$0")/.."
PATH="$PATH:/usr/sbin:/usr/local/sbin"
made=.servers/mysql

say() { printf '%s\n' "moonwake test-mysql: $*" >&2; }
skip() {
    say "******************************************************************"
    say "SKIPPED: nothing was tested on MySQL, only on MariaDB."
    say "$*"
    say "******************************************************************"
    exit 0
}

is_mysql() { [ -x "$1/usr/sbin/mysqld" ] && chroot "$1" /usr/sbin/mysqld --version >/dev/null 2>&1; }

has_redis() { [ -x "$1/usr/bin/redis-server" ] && chroot "$1" /usr/bin/redis-server --version >/dev/null 2>&1; }

on_path() { mysqld --version 2>/dev/null | grep -qv -i mariadb; }

throw_away() {
    umount "$fresh/proc" 2>/dev/null || : # debootstrap's, if it was interrupted
    rm -rf --one-file-system "$fresh" "$fresh.log"
}

bootstrap() {
    throw_away
    mkdir -p "$fresh"
    chmod 755 "$fresh"
    debootstrap --variant=minbase --include=mysql-server-core,mysql-client-core,redis-tools \
        sid "$fresh" >"$fresh.log" 2>&1 || return 1
    # redis-tools holds the whole server; which program it is depends on the name.
    [ -e "$fresh/usr/bin/redis-server" ] || ln -s redis-check-rdb "$fresh/usr/bin/redis-server"
}

make_root() {
    [ "$(id -u)" = 0 ] || skip "MySQL is installed by debootstrap, which needs root." \
        "(MOONWAKE_MYSQL_ROOT=DIR names a chroot directory with a MySQL server.)"
    command -v debootstrap >/dev/null || {
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap; } \
            >/dev/null 2>&1 || skip "debootstrap could not be installed."
    }
    mkdir -p .servers
    rm -rf --one-file-system .servers/fresh.*  # of runs that were killed
    fresh="$PWD/.servers/fresh.$$"
    trap throw_away EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    say "installing MySQL and Redis into $made (about 650 MB, half a minute)"
    bootstrap || { say "trying once more"; bootstrap; } ||
        skip "debootstrap failed twice; it ends: $(tail -n 3 "$fresh.log")"
    is_mysql "$fresh" || skip "the installed MySQL does not run on this machine."
    rm -rf --one-file-system "$made"
    mv "$fresh" "$made"
    rm -f "$fresh.log"
    trap - EXIT INT TERM
}

if [ -n "${MOONWAKE_MYSQL_ROOT:-}" ]; then
    is_mysql "$MOONWAKE_MYSQL_ROOT" || { say "$MOONWAKE_MYSQL_ROOT has no MySQL that runs"; exit 1; }
elif on_path; then
    MOONWAKE_MYSQL_ROOT=
else
    { is_mysql "$made" && has_redis "$made"; } || make_root
    MOONWAKE_MYSQL_ROOT="$PWD/$made"
fi
: "${MOONWAKE_REDIS_ROOT:=$MOONWAKE_MYSQL_ROOT}"
if ! has_redis "$MOONWAKE_REDIS_ROOT"; then
    say "no newer Redis: what needs WAITAOF is skipped (MOONWAKE_REDIS_ROOT=DIR names a chroot)"
    MOONWAKE_REDIS_ROOT=
fi
export MOONWAKE_MYSQL_ROOT MOONWAKE_REDIS_ROOT MOONWAKE_TEST_SERVER=mysql
exec "$@"
