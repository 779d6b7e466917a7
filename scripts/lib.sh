#!/usr/bin/env bash
# Shared by the scripts: messages, and installing what is missing. Sourced, from the root of the repository.

say() {
    if [ -t 1 ]; then
        printf '\033[1m==> %s\033[0m\n' "$*"
    else
        printf '==> %s\n' "$*"
    fi
}
note() { printf '    %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# The packages that `need` found missing, by package manager.
needed_commands=()
needed_apt=()
needed_dnf=()
needed_brew=()

# need COMMAND APT_PACKAGE DNF_PACKAGE BREW_FORMULA: notes the packages if the command is not there.
need() {
    have "$1" && return
    needed_commands+=("$1")
    needed_apt+=("$2")
    needed_dnf+=("$3")
    needed_brew+=("$4")
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "this needs root and there is no sudo; run as root: $*"
    fi
}

# install_needed: installs what was noted and checks that it is there then. Does nothing when nothing is missing.
install_needed() {
    [ "${#needed_commands[@]}" -gt 0 ] || return 0
    say "Installing what is missing: ${needed_commands[*]}"
    if have apt-get; then
        apt_install "${needed_apt[@]}"
    elif have dnf; then
        as_root dnf install -y "${needed_dnf[@]}"
    elif have brew; then
        brew install "${needed_brew[@]}"
    else
        die "no apt-get, dnf or brew here; please install: ${needed_commands[*]}"
    fi
    local command
    for command in "${needed_commands[@]}"; do
        have "$command" || die "$command is still missing after the installation; please install it and run this again"
    done
    needed_commands=() needed_apt=() needed_dnf=() needed_brew=()
}

# Debian starts the services of the packages it installs. Ours are wanted as programs only: a policy refuses the
# start for the time of the installation (a policy that is already there is left alone), and where systemd runs, the
# services stay disabled. In a subshell, so that the trap is its own.
apt_install() (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        # The shell of the trap sees the variable when it runs.
        trap 'as_root rm -f "$policy"' EXIT
        trap 'exit 130' INT TERM HUP
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    as_root apt-get -o DPkg::Lock::Timeout=120 -q update
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get -o DPkg::Lock::Timeout=120 -q -y --no-install-recommends install "$@"
    if [ -d /run/systemd/system ]; then
        for package in "$@"; do
            case "$package" in
            redis-server | prometheus) as_root systemctl disable --now "$package" || true ;;
            esac
        done
    fi
)

# need_rust [COMPONENT...]: the toolchain is the one thing that is not installed from here.
need_rust() {
    have cargo || die "there is no Rust toolchain; install one (https://rustup.rs), $(oldest_rust) or later"
    local component
    for component in "$@"; do
        cargo "$component" --version >/dev/null 2>&1 ||
            die "cargo $component is missing; with rustup: rustup component add rustfmt clippy"
    done
    # rustc links with the C compiler; rustup does not bring one. Debian's comes without the C library's own files.
    if ! links_c; then
        needed_commands+=(cc)
        needed_apt+=(gcc libc6-dev)
        needed_dnf+=(gcc glibc-devel)
        needed_brew+=(gcc)
    fi
    # The allocator is built by its own makefile (docs/decisions/0015).
    need make make make make
}

# oldest_rust: the oldest Rust that Cargo.toml promises to be built by, `1.95`.
oldest_rust() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

# build_with_oldest_rust: a build with exactly that. Where it is not what is installed, rustup gets it; where that cannot be,
# CI fails (the promise would be an untested one: docs/decisions/0018), and others are told.
build_with_oldest_rust() {
    local oldest installed toolchain
    oldest=$(oldest_rust)
    installed=$(rustc --version | cut -d ' ' -f 2)
    say "Build with Rust $oldest, the oldest that is promised"
    if [ "${installed%.*}" = "$oldest" ]; then
        cargo build --locked --bin respool
        return
    fi
    toolchain=$(rustup toolchain list 2>/dev/null | sed -n "s/^\(${oldest}[.-][^ ]*\).*/\1/p" | head -1)
    if [ -z "$toolchain" ] && rustup toolchain install "$oldest" --profile minimal; then
        toolchain=$oldest
    fi
    if [ -n "$toolchain" ]; then
        CARGO_TARGET_DIR=$(target_dir)/oldest cargo "+$toolchain" build --locked --bin respool
    elif [ -n "${CI:-}" ]; then
        die "Rust $oldest is neither installed (there is $installed) nor to be had: declare in Cargo.toml what CI builds with"
    else
        note "NOT BUILT with Rust $oldest: it is neither installed (there is $installed) nor to be had"
    fi
}

# links_c: whether the C compiler is there and links a program.
links_c() { have cc && echo 'int main(void) { return 0; }' | cc -x c -o /dev/null - 2>/dev/null; }

need_redis() {
    need redis-server redis-server redis redis
}

# target_dir: where cargo puts what it builds.
target_dir() { printf '%s' "${CARGO_TARGET_DIR:-target}"; }

# listening PORT: whether somebody accepts connections on 127.0.0.1:PORT.
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# wait_listening PORT PID WHAT: waits until the process PID, called WHAT, accepts connections on PORT.
wait_listening() {
    local tries=0
    until listening "$1"; do
        kill -0 "$2" 2>/dev/null || die "$3 ended before it listened on 127.0.0.1:$1; its messages stand above"
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || die "$3 does not listen on 127.0.0.1:$1 after 20 seconds"
        sleep 0.1
    done
}

# end_process PID: asks it to end and waits until it has.
end_process() {
    kill -TERM "$1" 2>/dev/null || return 0
    while kill -0 "$1" 2>/dev/null; do
        wait "$1" 2>/dev/null || true
    done
}
