# Says what the tablet reports: each event's type, code and value. When the wheel has been turned, it lets the USB bus be suspended,
# and says when it is; the next event wakes it.
say() {
    while true; do
        set -- $(dd bs=16 count=1 2> /dev/null <&3 | busybox od -An -v -t d2)
        [ -n "$7" ] || return
        echo "GUEST-EVENT $5 $6 $7"
        [ "$5 $6" = "2 8" ] && rest
    done
}

rest() {
    hub=/sys/bus/usb/devices/usb1
    echo 0 > $hub/1-1/power/autosuspend_delay_ms
    echo auto > $hub/1-1/power/control
    for moment in $(seq 100); do
        [ "$(cat $hub/power/runtime_status)" = suspended ] && break
        sleep 0.1
    done
    echo "GUEST-BUS $(cat $hub/power/runtime_status)"
}

for moment in $(seq 100); do
    for name in /sys/class/input/event*/device/name; do
        [ "$(cat $name)" = "Umbra USB tablet" ] || continue
        event=${name#/sys/class/input/}
        sed -n 's/^ *\(.*uhci.*\)/GUEST-USB \1/p' /proc/interrupts
        exec 3< /dev/input/${event%%/*}
        # Something to see.
        cat /proc/interrupts > /dev/tty0
        echo "GUEST-TABLET"
        say
    done
    sleep 0.1
done
