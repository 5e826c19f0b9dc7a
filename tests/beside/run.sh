#!/usr/bin/env bash
# Tries cloakroom beside other SQLite crates, as docs/own-tables.md lists them: a small program for
# each, in which both use one file. Those that Cargo cannot resolve beside it must fail so. All of
# them, or those that are named; works from any directory, and needs crates.io, because it takes the
# newest versions that fit. A stage of long.sh, since the first run compiles some 500 crates.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}/beside"
export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"

# Name, program, and its dependencies, separated by semicolons.
tokio='tokio = { version = "1", features = ["rt-multi-thread"] }'
programs=(
    'rusqlite-0.37|rusqlite|rusqlite = "0.37"'
    'rusqlite-0.38|rusqlite|rusqlite = "0.38"'
    'rusqlite-0.39|rusqlite|rusqlite = "0.39"'
    'rusqlite-0.40|rusqlite|rusqlite = "0.40"'
    'refinery-0.9|refinery|refinery = { version = "0.9", features = ["rusqlite"] }'
    'refinery-0.10|refinery|refinery = { version = "0.10", features = ["rusqlite"] }'
    "tokio-rusqlite-0.7|tokio_rusqlite|tokio-rusqlite = \"0.7\";$tokio"
    "tokio-rusqlite-0.8|tokio_rusqlite|tokio-rusqlite = \"0.8\";$tokio"
    'diesel-2.3|diesel|diesel = { version = "2.3", features = ["sqlite"] }'
    "sqlx-0.9|sqlx|sqlx = { version = \"0.9\", default-features = false, features = [\"runtime-tokio\", \"sqlite\"] };$tokio"
    "sea-orm-2|sea_orm|sea-orm = { version = \"2\", default-features = false, features = [\"runtime-tokio\", \"sqlx-sqlite\"] };$tokio"
    'rocket_sync_db_pools-diesel|rocket_sync_db_pools|rocket_sync_db_pools = { version = "0.1", features = ["diesel_sqlite_pool"] };diesel = { version = "2", features = ["sqlite"] }'
)

# Name and dependency. Each needs a `libsqlite3-sys` of another version.
refused=(
    'rusqlite-0.36|rusqlite = "0.36"'
    'rusqlite-0.41|rusqlite = "0.41"'
    'rusqlite-0.43|rusqlite = "0.43"'
    'sqlx-0.8|sqlx = { version = "0.8", features = ["sqlite"] }'
    'sqlx-0.8-postgres|sqlx = { version = "0.8", features = ["postgres"] }'
    'rocket_db_pools-0.2|rocket_db_pools = { version = "0.2", features = ["sqlx_sqlite"] }'
    'rocket_sync_db_pools-rusqlite|rocket_sync_db_pools = { version = "0.1", features = ["sqlite_pool"] }'
)

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
summary=()
failed=0

# package NAME DEPENDENCIES: makes a package in the folder of that name.
package() {
    mkdir -p "$folder/$1/src"
    cp "$here/shared_file.rs" "$folder/$1/src/"
    cat >"$folder/$1/Cargo.toml" <<EOF
[package]
name = "beside-${1//./_}"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
cloakroom = { path = "$root" }
${2//;/$'\n'}
EOF
}

# version PACKAGE CRATE: prints the version that Cargo has chosen.
version() {
    sed -n "/^name = \"$2\"/{n;s/^version = \"\(.*\)\"/\1/p}" "$folder/$1/Cargo.lock"
}

# is_chosen NAME ARGUMENT...: whether no name is given, or this one.
is_chosen() {
    (($# == 1)) || [[ " ${*:2} " == *" $1 "* ]]
}

# builds_and_runs NAME PROGRAM DEPENDENCIES
builds_and_runs() {
    package "$1" "$3"
    cp "$here/$2.rs" "$folder/$1/src/main.rs"
    local manifest="$folder/$1/Cargo.toml" output
    cargo build --manifest-path "$manifest" || return
    output=$(cargo run --quiet --manifest-path "$manifest" -- "$folder/$1/app.db") || return
    summary+=("$1: rusqlite $(version "$1" rusqlite), $output")
}

# does_not_resolve NAME DEPENDENCY
does_not_resolve() {
    package "$1" "$2"
    echo 'fn main() {}' >"$folder/$1/src/main.rs"
    local output
    if output=$(cargo generate-lockfile --manifest-path "$folder/$1/Cargo.toml" 2>&1); then
        echo "$1 resolves: move it to the programs" >&2
        return 1
    fi
    if ! grep -q 'links = "sqlite3"' <<<"$output"; then
        echo "$output" >&2
        return 1
    fi
    summary+=("$1: does not resolve")
}

for entry in "${programs[@]}"; do
    IFS='|' read -r name program dependencies <<<"$entry"
    is_chosen "$name" "$@" || continue
    printf '\n== %s\n' "$name"
    builds_and_runs "$name" "$program" "$dependencies" || { summary+=("$name: FAILED"); failed=1; }
done
for entry in "${refused[@]}"; do
    IFS='|' read -r name dependency <<<"$entry"
    is_chosen "$name" "$@" || continue
    does_not_resolve "$name" "$dependency" || { summary+=("$name: FAILED"); failed=1; }
done
printf '\n'
printf '%s\n' "${summary[@]}"
exit "$failed"
