#!/bin/busybox sh
export PATH=/bin
echo "GUEST-UP"
echo "GUEST-TSC $(work tsc)"
mount -t proc proc /proc
# A measurement wants nothing but the way to here.
read cmdline < /proc/cmdline
case "$cmdline" in
    *umbra.bench*)
        if [ -e /jobs ]; then
            read jobs < /jobs
            case "$jobs" in
                # What runs in the background reads /dev/null.
                *+*) mount -t devtmpfs dev /dev ;;
            esac
            for job in $jobs; do
                echo "GUEST-JOB $job"
                case "$job" in
                    # Two at the same time.
                    *+*)
                        work "${job%+*}" &
                        work "${job#*+}"
                        wait
                        ;;
                    *) work "$job" ;;
                esac
            done
            echo GUEST-END
            # Time for the serial port to say it.
            sleep 0.05
        else
            echo GUEST-BENCH
            sleep 5
        fi
        poweroff -f
        ;;
esac
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

while read module; do
    insmod /modules/$module.ko
done < /modules/order

echo "GUEST-KERNEL $(uname -r) $(uname -m)"
echo "GUEST-CMDLINE $(cat /proc/cmdline)"
echo "GUEST-MEMORY $(sed -n 's/^MemTotal: *//p' /proc/meminfo)"
echo "GUEST-CPU $(grep -c '^processor' /proc/cpuinfo) $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)"
echo "GUEST-HYPERVISOR $(dmesg | sed -n 's/.*Hypervisor detected: //p')"
dmesg | sed -n 's/.*Hyper-V: \(Using.*\)/GUEST-HYPERV \1/p'
# On every PC it says what to do if there is a bug.
dmesg | grep -i -E 'acpi.*(error|bug|warn)' | grep -v 'if necessary, use "pci=nocrs"' | sed 's/^/GUEST-ACPI-SAYS /' > /says
[ -s /says ] && cat /says || echo "GUEST-ACPI-CLEAN"
echo "GUEST-CLOCK $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
[ -f /sys/firmware/efi/fw_platform_size ] && echo "GUEST-EFI $(cat /sys/firmware/efi/fw_platform_size)"
echo "GUEST-PAT $(dmesg | sed -n 's/.*x86\/PAT: Configuration *//p')"
echo "GUEST-DMI $(cat /sys/class/dmi/id/sys_vendor) $(cat /sys/class/dmi/id/product_name), $(cat /sys/class/dmi/id/bios_vendor)"

# The kernel looks for disks in the background.
for second in 1 2 3 4 5 6 7 8 9 10; do
    case "$(ls /sys/block)" in
        *sd* | *sr* | *vd*) break ;;
    esac
    case "$(ls /sys/class/ata_link 2>/dev/null)" in
        "") break ;;
    esac
    sleep 0.3
done
for disk in /sys/block/*; do
    [ -e "$disk" ] || continue
    case "${disk##*/}" in
        loop* | ram*) ;;
        *) echo "GUEST-DISK ${disk##*/} $(cat $disk/size) $(cat $disk/device/model 2>/dev/null)" ;;
    esac
done
for device in /sys/bus/pci/devices/*; do
    vendor=$(cat $device/vendor) id=$(cat $device/device) class=$(cat $device/class)
    echo "GUEST-PCI ${device##*/} ${vendor#0x}:${id#0x} class ${class#0x} irq $(cat $device/irq)"
done
sed -n 's/^ *\([0-9A-Z]*:.*\)/GUEST-IRQ \1/p' /proc/interrupts
for table in /sys/firmware/acpi/tables/*; do
    [ -f "$table" ] && echo "GUEST-ACPI ${table##*/} $(wc -c < $table)"
done
sed -n 's/^N: Name=/GUEST-INPUT /p' /proc/bus/input/devices
sed -n 's/^\([0-9]*: uart:1.*\)/GUEST-SERIAL \1/p' /proc/tty/driver/serial
[ -c /dev/hvc0 ] && echo "GUEST-HVC $(cat /sys/class/tty/hvc0/dev)" > /dev/hvc0
[ -c /dev/hwrng ] && echo "GUEST-RNG $(cat /sys/class/misc/hw_random/rng_current) $(dd if=/dev/hwrng bs=4096 count=4 2>/dev/null | gzip -c | wc -c)"
[ -e /sys/class/rtc/rtc0/time ] && echo "GUEST-RTC $(cat /sys/class/rtc/rtc0/date) $(cat /sys/class/rtc/rtc0/time)"

# A disk with the mark of the test image counts its boots in its sector 2000.
disk=/dev/sda
[ -b /dev/vda ] && disk=/dev/vda
if [ -b $disk ] && [ "$(dd if=$disk bs=512 skip=2000 count=1 2>/dev/null | head -c 11)" = "UMBRA-BOOTS" ]; then
    boots=$(dd if=$disk bs=512 skip=2000 count=1 2>/dev/null | sed -n 's/^UMBRA-BOOTS \([0-9]*\).*/\1/p' | head -n 1)
    boots=$((boots + 1))
    printf 'UMBRA-BOOTS %d\n' $boots | dd of=$disk bs=512 seek=2000 conv=notrunc,sync 2>/dev/null
    sync
    echo "GUEST-BOOTS $boots"
fi
echo "GUEST-DONE"

# Processes without end, each with page tables of its own.
tables() {
    for round in 1 2 3; do
        # By number: one that is not `sleep` yet goes too.
        pids=
        for process in $(seq 250); do
            sleep 1000 &
            pids="$pids $!"
        done
        echo "GUEST-PROCESSES $(ls -d /proc/[0-9]* | wc -l)"
        kill $pids
        wait
    done 2>/dev/null
    echo "GUEST-TABLES"
}

# What a compiler's run does to memory: many short processes, pipes between them, files written and read.
load() {
    for job in fork mmap pipe walk; do
        work $job
    done
    for module in /modules/*.ko; do
        sum=$(md5sum < $module)
        gzip -c $module > /module.gz
        again=$(gunzip -c /module.gz | cat | md5sum)
        [ "$sum" = "$again" ] || echo "GUEST-DIFFERS $module"
    done
    echo "GUEST-LOAD"
}

# Fetches the file that umbra.url= names, and serves a page, over the network card.
net() {
    ifconfig lo 127.0.0.1
    ifconfig eth0 up
    udhcpc -i eth0 -q -n -s /lease > /dev/console 2>&1
    read up rest < /proc/uptime
    sum=$(wget -q -O - "$url" | md5sum)
    read now rest < /proc/uptime
    echo "GUEST-FETCHED ${sum%% *} in $((${now%.*}${now#*.} - ${up%.*}${up#*.}))0 ms"
    sed -n 's/^ *\(eth0:.*\)/GUEST-CARD \1/p' /proc/net/dev
    sed -n 's/^ *\(.*eth0\)/GUEST-CARD-IRQ \1/p' /proc/interrupts
    mkdir /www
    echo "served by $(uname -r) from its card" > /www/index.html
    echo "GUEST-SERVES"
    # It says each request and the status of its response.
    httpd -f -v -p 80 -h /www > /dev/console 2>&1
}

# Serves a file to another guest and fetches the same file from it: from umbra.url=, with the address that umbra.address= names. A second
# card reaches the network with its own address, and not with another.
meet() {
    ifconfig lo 127.0.0.1
    ifconfig eth0 "$address"
    ping -c 1 10.0.2.2 > /dev/null && echo "GUEST-UPLINK"
    mkdir /www
    yes umbra | head -c 1000000 > /www/much
    httpd -p 80 -h /www
    # The other may not be ready yet.
    until wget -q -O /much "$url"; do sleep 1; done
    sum=$(md5sum < /much)
    echo "GUEST-MET ${sum%% *}"
    [ -e /sys/class/net/eth1 ] || return
    echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore
    echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce
    ifconfig eth1 10.0.2.103
    ping -I eth1 -c 1 -w 10 10.0.2.2 > /dev/null && echo "GUEST-SECOND-CARD"
    ifconfig eth1 down
    ifconfig eth1 hw ether 52:54:00:99:99:99
    ifconfig eth1 10.0.2.103
    ping -I eth1 -c 3 -w 3 10.0.2.2 > /dev/null || echo "GUEST-REFUSED"
}

# Suspends to RAM, and is woken by the clock's alarm twice, then by a key.
suspend() {
    echo "GUEST-SLEEP $(cat /sys/power/mem_sleep)"
    for round in 1 2 key; do
        echo 0 > /sys/class/rtc/rtc0/wakealarm
        case $round in
            key) ;;
            *) echo +2 > /sys/class/rtc/rtc0/wakealarm ;;
        esac
        before=$(cat /sys/class/rtc/rtc0/since_epoch)
        echo mem > /sys/power/state && echo "GUEST-WOKE $round $(($(cat /sys/class/rtc/rtc0/since_epoch) - before)) s"
    done
    echo "GUEST-CPUS $(grep -c '^processor' /proc/cpuinfo)"
    [ -b /dev/sda ] && echo 3 > /proc/sys/vm/drop_caches && dd if=/dev/sda bs=4096 count=64 2>/dev/null | wc -c | sed 's/^/GUEST-READ /'
    echo "GUEST-SLEPT"
}

url=
address=
for word in $(cat /proc/cmdline); do
    case "$word" in
        umbra.url=*) url=${word#umbra.url=} ;;
        umbra.address=*) address=${word#umbra.address=} ;;
    esac
done
case "$(cat /proc/cmdline)" in
    *umbra.then=storage*) exec sh /storage.sh ;;
    *umbra.then=kexec*) /bin/kexec -l /kernel --initrd=/ramdisk --append="console=ttyS0 quiet umbra.then=poweroff" && /bin/kexec -e ;;
    *umbra.then=stress*) exec sh /stress.sh ;;
    *umbra.then=network*) exec sh /network.sh ;;
    *umbra.then=net*) net ;;
    *umbra.then=meet*) meet ;;
    *umbra.then=tables*) tables; poweroff -f ;;
    *umbra.then=load*) load; poweroff -f ;;
    *umbra.then=suspend*) suspend ;;
    *umbra.then=poweroff*) poweroff -f ;;
    *umbra.then=reboot*) reboot -f ;;
    *umbra.then=cf9*) echo pci > /sys/kernel/reboot/type; reboot -f ;;
    *umbra.then=i8042*) echo kbd > /sys/kernel/reboot/type; reboot -f ;;
    *umbra.then=triple*) echo triple > /sys/kernel/reboot/type; reboot -f ;;
esac
exec setsid sh -c 'exec sh < /dev/console > /dev/console 2>&1'
