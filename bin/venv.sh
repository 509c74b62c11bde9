# Sourced by bin/perps-bot and bin/test: gives the checkout in $root its own Python packages.
#
# venv_ready DIR LOCK... leaves in DIR a virtual environment with exactly what the locks pin.  Where
# it stands already, one `cmp` a lock is all that runs.  Otherwise it is made beside and renamed
# into place when complete: a half-made one is never used, and a running bot keeps its packages.

# Prints where a Python that will do lives; of any other, what it is.
PROBE='
import os, sys
if sys.version_info < (3, 11):
    print("Python %d.%d" % sys.version_info[:2])
else:
    try:
        import ensurepip, fcntl, venv
        print(os.path.realpath(sys.executable))
    except ImportError:
        print("without venv")
'

# Waits for the lock on the open file 0, which belongs to this shell: whichever way the shell
# ends, the kernel lets go of it.
TAKE_TURN='
import fcntl, sys
try:
    fcntl.flock(0, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.stderr.write("waiting for another start, which is doing this already\n")
    fcntl.flock(0, fcntl.LOCK_EX)
'

venv_ready() {
    # Nothing of the caller's may stand before the checkout, or strip its assertions.
    unset PYTHONPATH PYTHONHOME PYTHONOPTIMIZE
    venv_is_current "$@" || venv_make "$@"
    venv_finds_checkout "$1"
}

venv_is_current() {
    venv=$1
    shift
    [ -x "$venv/bin/python" ] || return 1
    for lock; do
        cmp -s "$lock" "$venv/${lock##*/}" || return 1
    done
}

venv_finds_checkout() {
    for site in "$1"/lib/python3*/site-packages; do
        place=
        [ ! -r "$site/checkout.pth" ] || IFS= read -r place <"$site/checkout.pth" || :
        [ "$place" != "$root" ] || continue # else new, or the checkout was moved
        { printf '%s\n' "$root" >"$site/$$" && mv "$site/$$" "$site/checkout.pth"; } ||
            die "cannot write in $site: start it once as its owner"
    done
}

venv_make() {
    venv=$1
    shift
    find_python
    { [ -w "$root" ] && [ -w "$1" ]; } || die "cannot write in $root: start it once as its owner"
    exec 9<>"$1"
    "$python" -c "$TAKE_TURN" <&9 || die "cannot lock $1"
    venv_is_current "$venv" "$@" || venv_replace "$@"
    exec 9<&-
}

venv_replace() {
    names=
    for lock; do names="$names ${lock##*/}"; done
    say "making $venv from$names with $python: once, some 10 MB to download, up to a minute"
    trap 'rm -rf "$venv.new"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    output=$(venv_fill "$venv.new" "$@" 2>&1 </dev/null) || {
        printf '%s\n' "$output" >&2
        die "$venv could not be made; the lines above say why. Nothing was left behind: try again"
    }
    rm -rf "$venv.old"
    mv "$venv" "$venv.old" 2>/dev/null || :
    mv "$venv.new" "$venv" || die "cannot rename $venv.new to $venv"
    rm -rf "$venv.old"
    trap - EXIT HUP INT TERM
}

venv_fill() {
    into=$1
    shift
    rm -rf "$into" && "$python" -m venv "$into" && venv_install "$@" || return 1
    # What stands here besides Python names a folder that is about to be renamed.
    find "$into/bin" -type f ! -name 'python*' -exec rm -f {} + && cp "$@" "$into"
}

venv_install() {
    for lock; do
        set -- "$@" -r "$lock"
        shift
    done
    "$into/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        --require-hashes --only-binary :all: "$@" || return 1
    # Python 3.11 brings it along: 8 MB that nothing here uses, and code of its own at every start.
    "$into/bin/python" -m pip uninstall --quiet --yes --disable-pip-version-check setuptools
}

find_python() {
    found=
    for candidate in "${PYTHON:-python3}" python3.11 python3.12 python3.13 python3.14; do
        python=$("$candidate" -c "$PROBE" 2>/dev/null) || continue
        case $python in
        /*) return ;;
        *) found="$found ($candidate is $python)" ;;
        esac
    done
    die "needs Python 3.11 or newer with its venv module$found: on Debian or Ubuntu" \
        "apt install python3 python3-venv; or name one, as PYTHON=/usr/bin/python3.11"
}

say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die() {
    say "$@"
    exit 2
}
