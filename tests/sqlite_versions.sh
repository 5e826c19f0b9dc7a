#!/usr/bin/env bash
# Tests the library with each version of rusqlite that Cargo.toml allows, and with the SQLite of the
# system, in a copy of the tree with a lock file of its own. Works from any directory; a stage of
# long.sh. An argument, such as 0.37, chooses one version.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# As for all other tests, so that other dependencies are not compiled again.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=line-tables-only
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"

copy="$CARGO_TARGET_DIR/sqlite_versions"
rm -rf "$copy"
mkdir -p "$copy"
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached | tar --null -cf - -T - | tar -xf - -C "$copy"
cd "$copy"

# run_tests NAME FEATURE...: what concerns SQLite, and an example with tables of its own.
run_tests() {
    local name=$1
    shift
    cargo test --locked -p cloakroom "$@" --lib --test stores --test notes -- \
        --skip cached --skip memcached --skip postgres
    echo "$name: passed"
}

# r2d2_sqlite requires a rusqlite of one minor version.
for pair in "0.31.0 0.37" "0.32.0 0.38" "0.34.0 0.39" "0.35.0 0.40"; do
    read -r r2d2_sqlite rusqlite <<<"$pair"
    [[ ${1:-$rusqlite} == "$rusqlite" ]] || continue
    cargo update -p r2d2_sqlite --precise "$r2d2_sqlite"
    cargo update -p rusqlite --precise "$rusqlite.0"
    run_tests "rusqlite $rusqlite" --all-features
done
if [[ ${1:-system} == system ]]; then
    run_tests "the SQLite of the system" --no-default-features --features \
        conformance,cookie-keys,http,memcached,postgres-rustls,rocket,rouille,sqlite,testing,tiny_http
fi
