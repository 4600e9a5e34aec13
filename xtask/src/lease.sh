#!/bin/busybox sh
# What udhcpc(8) calls: "bound" when there is an address.
export PATH=/bin
case "$1" in
    bound | renew)
        ifconfig "$interface" "$ip" netmask "$subnet"
        [ -n "$router" ] && route add default gw "${router%% *}"
        echo "GUEST-NET $ip"
        ;;
esac
