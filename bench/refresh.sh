#!/usr/bin/env bash
# Measures everything, stores the figures in bench/figures, and writes the pictures and tables. The
# machine should be idle. Works from any directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

run() {
    local figures=$1
    shift
    cargo run --locked --release "$@" --json "bench/figures/$figures.json"
}

run limit --manifest-path bench/Cargo.toml -- limit
run memcached --manifest-path bench/Cargo.toml --features memcached -- limit --only memcached
run postgres --manifest-path bench/Cargo.toml --features postgres -- postgres
run contention --manifest-path bench/Cargo.toml -- contention
run peers --manifest-path bench/Cargo.toml -- peers
run scale --manifest-path bench/Cargo.toml -- scale
run http --manifest-path bench/http/Cargo.toml --
{
    date -u '+measured on %F'
    cargo bench --locked --manifest-path bench/Cargo.toml --bench pieces | sed -n '/^pieces/,$p'
} >bench/figures/pieces.txt
cargo run --locked --release --manifest-path bench/Cargo.toml -- chart
