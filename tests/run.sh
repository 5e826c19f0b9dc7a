#!/usr/bin/env bash
# Everything that must hold before a change goes in. Works from any directory.
# With --quick: format, lints, and the tests that do not search by chance or kill processes.
set -euo pipefail
case "$*" in
    "") quick=false ;;
    --quick) quick=true ;;
    *)
        echo "usage: tests/run.sh [--quick]" >&2
        exit 2
        ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# One folder for every stage, `cargo package` included, so that nothing is compiled twice.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=line-tables-only
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"

crate_limit=60
summary=()
crates="not counted"
browser="not run"

# What the machine must have: a C compiler, because SQLite is compiled from source; memcached and
# PostgreSQL, because the tests start real ones.
install_missing() {
    if ! command -v cargo >/dev/null; then
        echo "run.sh: cargo is missing or not on the PATH; rustup installs it" >&2
        exit 1
    fi
    local packages=()
    command -v cc >/dev/null || packages+=(gcc libc6-dev)
    command -v memcached >/dev/null || packages+=(memcached)
    compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || packages+=(postgresql)
    if ((${#packages[@]})) && ! install "${packages[@]}"; then
        echo "run.sh: please install: ${packages[*]} (the names are Debian's)" >&2
        exit 1
    fi
}

# The browser for tests/browser. Where it cannot be installed its tests are skipped, and said to
# be; where it is there, they must not skip.
find_browser() {
    has_browser || install chromium chromium-driver || true
    if has_browser; then
        export CLOAKROOM_REQUIRE_BROWSER=1
    else
        printf '\n*** run.sh: %s\n\n' \
            "the browser tests will be SKIPPED; to run them install chromium chromium-driver" >&2
    fi
}

# The pooler for tests/stores/postgres/pooler.rs, which are skipped without it.
find_pooler() {
    [[ -x /usr/sbin/pgbouncer ]] || install pgbouncer || true
    [[ -x /usr/sbin/pgbouncer ]] || printf '\n*** run.sh: %s\n\n' \
        "the tests of a pooler will be SKIPPED; to run them install pgbouncer" >&2
}

# install PACKAGE...: fails without root or without Debian's packages.
install() {
    ((EUID == 0)) && command -v apt-get >/dev/null || return 1
    echo "run.sh: installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update && apt-get install --yes --no-install-recommends "$@"
}

has_browser() {
    command -v chromedriver >/dev/null &&
        { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null
}

print_summary() {
    printf '\n%-16s %6s\n' stage seconds
    printf '%s\n' "${summary[@]}"
    printf '%-16s %6d\n' total "$SECONDS"
    $quick && return
    printf 'crates in the default build: %s (fewer than %d)\n' "$crates" "$crate_limit"
    printf 'browser tests: %s\n' "$browser"
}

# stage NAME COMMAND...: runs it, says how long it took, and ends the run if it failed.
stage() {
    local name=$1 start=$SECONDS status=0
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    "$@" || status=$?
    local took=$((SECONDS - start)) mark=""
    ((status == 0)) || mark="  FAILED"
    summary+=("$(printf '%-16s %6d%s' "$name" "$took" "$mark")")
    echo "stage $name: $took s$mark"
    if ((status != 0)); then
        print_summary
        exit "$status"
    fi
}

# A marked line, `(*)`, repeats a crate that was already listed. `set -e` does not reach into
# a stage, hence the explicit return.
count_crates() {
    local tree
    tree=$(cargo tree --locked -p cloakroom -e normal --prefix none) || return
    crates=$(sed 's/ (\*)$//' <<<"$tree" | sort -u | grep -vc '^cloakroom v')
    echo "$crates crates"
    ((crates < crate_limit))
}

# Cargo takes a package of a registry for unchangeable: without the removals the command line would
# be verified with the library as it was when it was packaged before. The registry of `cargo package`
# has no host, so the names of its folders in Cargo's home begin with a hyphen.
package_all() {
    rm -rf "$CARGO_TARGET_DIR"/debug/.fingerprint/cloakroom-* \
        "${CARGO_HOME:-$HOME/.cargo}"/registry/{src,cache}/-*/cloakroom-[0-9]*
    cargo package --locked --allow-dirty -p cloakroom -p cloakroom-cli
}

install_missing
if $quick; then
    stage fmt cargo fmt --all --check
    stage clippy cargo clippy --locked --all-targets --all-features -- -D warnings
    stage tests cargo test --locked -p cloakroom --all-features \
        --lib --test tidy --test sessions --test web --test rocket
    print_summary
    exit
fi
find_browser
find_pooler
stage fmt cargo fmt --all --check
stage crates count_crates
# The checks come first, they fail fastest; docs reuse what the last of them compiled.
# Without -p these are the default members, of which the command line has the library's feature
# `sqlite` on.
stage clippy-none cargo clippy --locked -p cloakroom --all-targets --no-default-features -- -D warnings
stage clippy-default cargo clippy --locked --all-targets -- -D warnings
stage clippy-all cargo clippy --locked --all-targets --all-features -- -D warnings
stage clippy-shuttle cargo clippy --locked -p cloakroom-shuttle --test schedules -- -D warnings
stage docs env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --all-features
stage tests cargo test --locked --all-features
stage power-clippy cargo clippy --locked -p cloakroom-power-loss --all-targets -- -D warnings
stage power cargo test --locked -p cloakroom-power-loss
if has_browser; then browser=ran; else browser="SKIPPED (no chromium)"; fi
# The same sources on the locks and threads of a scheduler.
stage schedules cargo test --locked -p cloakroom-shuttle
stage tests-none cargo test --locked -p cloakroom --no-default-features --lib
stage examples cargo build --locked --examples --all-features
# The instrument works; its figures are printed, not judged. It builds for release, as it measures.
stage bench-clippy cargo clippy --locked -p cloakroom-bench -- -D warnings
stage bench cargo run --locked --release -p cloakroom-bench -- limit --quick
stage figures cargo run --locked --release -p cloakroom-bench -- chart --check
stage package package_all
print_summary
