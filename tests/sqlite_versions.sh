#!/usr/bin/env bash
# Builds and tests the library with each version of rusqlite that Cargo.toml allows, and with the
# SQLite of the system, in a copy of the tree with a lock file of its own. Works from any directory;
# a stage of long.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/sqlite_versions"
export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | tar --null -cf - -T - | tar -xf - -C "$copy"
cd "$copy"

# run_tests FEATURES: what concerns SQLite, and an example with tables of its own.
run_tests() {
    local program=(cargo test --locked -p cloakroom --no-default-features --features "$1")
    "${program[@]}" --lib --test notes --example rouille
    "${program[@]}" --test stores -- --skip cached:: --skip memcached:: --skip postgres::
}

others=conformance,memcached,postgres-rustls,rouille,sqlite,testing
# r2d2_sqlite requires a rusqlite of one minor version.
for pair in "0.31.0 0.37.0" "0.32.0 0.38.0" "0.34.0 0.39.0" "0.35.0 0.40.0"; do
    read -r r2d2_sqlite rusqlite <<<"$pair"
    cargo update -p r2d2_sqlite --precise "$r2d2_sqlite"
    cargo update -p rusqlite --precise "$rusqlite"
    run_tests "$others,bundled"
    echo "rusqlite $rusqlite: passed"
done
run_tests "$others"
echo "rusqlite $rusqlite with the SQLite of the system: passed"
