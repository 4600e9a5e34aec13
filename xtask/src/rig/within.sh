#!/bin/busybox sh
# The first program of the Linux between the emulator and the machine that Umbra runs on.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read module; do
    case $module in
        kvm_*) insmod /modules/$module.ko nested=1 ;;
        *) insmod /modules/$module.ko ;;
    esac
done < /modules/order
[ -c /dev/kvm ] || echo "KVM cannot be used in this machine"
busybox stty -F /dev/ttyS1 raw -onlcr -echo clocal
sh /within/run
echo "QEMU ended with $?"
poweroff -f
