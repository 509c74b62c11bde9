#!/bin/sh
# The owner's `perps-bot` on a machine where it runs as a service: the same program, as the user of
# the service, with the environment, the files and the key that the service of that profile has.
set -eu

[ "$(id -u)" = 0 ] || exec sudo -- "$0" "$@"

profile=dev before=
for word; do
    case $before$word in
    --profiledev | --profiledemo | --profileprod) profile=$word ;;
    --profile=dev | --profile=demo | --profile=prod) profile=${word#--profile=} ;;
    esac
    case $word in --profile) before=$word ;; *) before= ;; esac
done

export EVENT_STORE_ROOT=/var/lib/perps-bot PERPS_LOG_DIR="/var/lib/perps-bot/logs-$profile"
export CREDENTIALS_DIRECTORY=/etc/perps-bot HOME=/var/lib/perps-bot
if [ -r "/etc/perps-bot/$profile.env" ]; then
    while IFS= read -r line || [ -n "$line" ]; do
        case ${line%%=*} in
        "$line" | *[!A-Z0-9_]* | [!A-Z]*) ;; # a remark, or no name
        *) export "${line?}" ;;              # as it is: nothing in it is run
        esac
    done <"/etc/perps-bot/$profile.env"
fi
exec /usr/bin/setpriv --reuid=perps-bot --regid=perps-bot --init-groups \
    /opt/perps-bot/bin/perps-bot "$@"
