#!/bin/sh
# Apptainer; for a root that lacks capabilities (inside another container, say) in a user namespace of its own.
# There, root needs a range of ids: the line root:0:65536 in /etc/subuid and /etc/subgid.
if [ "$(id -u)" = 0 ]; then
    has=$((0x$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)))
    full=$(((1 << ($(cat /proc/sys/kernel/cap_last_cap) + 1)) - 1))
    if [ "$has" != "$full" ]; then
        exec unshare -U --map-users 0,0,65536 --map-groups 0,0,65536 -m apptainer "$@"
    fi
fi
exec apptainer "$@"
