# Suspends to RAM with every kind of device in use, and says which of them work before and after. init.sh has loaded the drivers.
fail() { echo "GUEST-FAILED $1"; dmesg | tail -n 30; sleep 1; poweroff -f; }

# The tablet's events, which are read all the time, by one reader: a tablet that leaves takes it along.
events() {
    while true; do
        set -- $(dd bs=16 count=1 2> /dev/null <&3 | busybox od -An -v -t d2)
        [ -n "$7" ] || { echo "GUEST-FAILED tablet"; return; }
        echo "GUEST-EVENT $5 $6 $7"
    done
}

disk=/dev/vda
# A block that was written comes back from the disk, and the card's other end answers.
devices() {
    [ "$1" = "$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)" ] || fail clock
    head -c 4096 /dev/urandom > /block
    dd if=/block of=$disk conv=fsync 2> /dev/null || fail write
    echo 3 > /proc/sys/vm/drop_caches
    [ "$(dd if=$disk bs=4096 count=1 2> /dev/null | md5sum)" = "$(md5sum < /block)" ] || fail read
    for card in eth0 eth1; do
        ping -I $card -c 1 -w 10 10.0.2.2 > /dev/null || fail $card
    done
    sleep 0.1
}

mount -t devtmpfs dev /dev 2> /dev/null
[ -b $disk ] || disk=/dev/sda
clock=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
# Each card answers for its own address only.
echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore
echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce
ifconfig eth0 10.0.2.15
ifconfig eth1 10.0.2.16
for moment in $(seq 100); do
    for name in /sys/class/input/event*/device/name; do
        [ "$(cat $name)" = "Umbra USB tablet" ] && tablet=${name#/sys/class/input/}
    done
    [ -n "$tablet" ] && break
    sleep 0.1
done
[ -n "$tablet" ] || fail "no tablet"
exec 3< /dev/input/${tablet%%/*}
events &
devices $clock
echo "GUEST-CLOCKED $clock"
for round in 1 2 3; do
    echo 0 > /sys/class/rtc/rtc0/wakealarm
    echo +2 > /sys/class/rtc/rtc0/wakealarm
    echo mem > /sys/power/state || fail suspend
    devices $clock
    echo "GUEST-WORKS $round"
done
dmesg | grep -i -E 'usb|uhci|virtio|hpet|ahci|ata' | tail -n 30
echo "GUEST-SLEPT"
