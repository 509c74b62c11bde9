#!/bin/sh
# Installs perps-bot as a service on Debian or Ubuntu, or updates it: run it from the checkout, as
# root.  Each step is printed.  It may be run again at any time: settings and keys are never
# overwritten, nothing is started, and a running bot goes on with what it has until a restart.
#
#   systemd/install.sh [--dry-run] [--root DIR]
#
# --dry-run only prints the steps; --root installs into a folder that stands for /, without users.
set -eu

die() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 2
}

root='' dry=''
while [ $# -gt 0 ]; do
    case $1 in
    --dry-run) dry=yes ;;
    --root)
        [ -d "${2-}" ] || die "--root needs a folder that exists"
        root=$(CDPATH='' cd "$2" && pwd -P)
        shift
        ;;
    *) die "$1 is not known; there are --dry-run and --root DIR" ;;
    esac
    shift
done

here=$(CDPATH='' cd "$(dirname "$0")/.." && pwd -P)
place=$root/opt/perps-bot
[ "$here" != "$place" ] || die "run it from the checkout, not from what it installed"
[ -f "$here/perps_bot/cli.py" ] || die "$here is no checkout of perps-bot"
[ -n "$root$dry" ] || [ "$(id -u)" = 0 ] || die "needs root: sudo $0"
umask 022

run() {
    printf '+ %s\n' "$*"
    [ -n "$dry" ] || "$@"
}

# folder MODE OWNER GROUP PATH
folder() {
    if [ -n "$root" ]; then
        run install -d -m "$1" "$root$4"
    else
        run install -d -m "$1" -o "$2" -g "$3" "$4"
    fi
}

# settings PROFILE LINE...: written once, and the owner's from then on
settings() {
    file=$root/etc/perps-bot/$1.env
    shift
    if [ -e "$file" ]; then
        printf '= %s is kept as it is\n' "$file"
        return
    fi
    printf '+ write %s\n' "$file"
    [ -z "$dry" ] || return 0
    printf '%s\n' "$@" >"$file"
    chmod 0640 "$file"
    [ -n "$root" ] || chgrp perps-bot "$file"
}

# The user, who owns the data and can change nothing else
if [ -z "$root" ] && ! getent passwd perps-bot >/dev/null; then
    run useradd --system --user-group --no-create-home --home-dir /var/lib/perps-bot \
        --shell /usr/sbin/nologin perps-bot
fi
folder 0755 root root /opt
folder 0750 root perps-bot /etc/perps-bot
folder 0700 perps-bot perps-bot /var/lib/perps-bot
folder 0700 perps-bot perps-bot /var/backups/perps-bot

# The program, made beside and renamed into place when it is complete
run rm -rf "$place.new" "$place.old"
run install -d -m 0755 "$place.new"
for name in bin perps_bot systemd docs README.md LICENSE requirements.lock setup.cfg; do
    run cp -R "$here/$name" "$place.new/"
done
run find "$place.new" -name __pycache__ -prune -exec rm -rf {} +
run chmod -R u=rwX,go=rX "$place.new"
if [ -z "$root" ]; then
    run chown -R root:root "$place.new"
    if [ -d "$place/.venv" ]; then run cp -a "$place/.venv" "$place.new/"; fi
    run "$place.new/bin/perps-bot" --version # makes .venv where the packages changed
fi
if [ -d "$place" ]; then run mv "$place" "$place.old"; fi
run mv "$place.new" "$place"
[ -n "$root" ] || run "$place/bin/perps-bot" --version # which finds that it was moved
run rm -rf "$place.old"

# Settings: one line each, NAME=value without quotes
settings dev '# Settings of profile dev as NAME=value, without quotes; see docs/RUNBOOK_PERPS.md.'
for profile in demo prod; do
    settings "$profile" \
        "# Settings of profile $profile as NAME=value, without quotes; see docs/RUNBOOK_PERPS.md." \
        '# Real orders need the next line; until then: systemctl start is refused, exit code 2.' \
        '#COINBASE_ENABLE_DERIVATIVES=1' \
        '#PERPS_ALERT_WEBHOOK_URL=https://...' \
        '#PERPS_HEARTBEAT_URL=https://...'
done

# The units, and the owner's command
folder 0755 root root /etc/systemd/system
folder 0755 root root /usr/local/bin
for unit in "$here"/systemd/perps-bot*.service "$here"/systemd/perps-bot*.timer; do
    run install -m 0644 "$unit" "$root/etc/systemd/system/"
done
run install -m 0755 "$here/systemd/perps-bot.sh" "$root/usr/local/bin/perps-bot"
[ -n "$root" ] || run systemctl daemon-reload

cat <<'NEXT'
Installed; nothing was started.  Next, with dev, demo or prod:
  the key       install -m 0640 -o root -g perps-bot KEY.json /etc/perps-bot/coinbase_api_key.json
  settings      editor /etc/perps-bot/prod.env
  look          perps-bot check --profile prod
  start         systemctl enable --now perps-bot@prod perps-bot-backup@prod.timer perps-bot-health@prod.timer
  after an update  systemctl restart perps-bot@prod
systemd/README.md tells the rest.
NEXT
