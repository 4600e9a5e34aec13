# What the test guest does with its disk, as umbra.storage= on the kernel's command line says. init.sh has loaded the drivers.
# Programs of busybox would be preferred to those of their name that have no path.
disk=/dev/sda
[ -b /dev/vda ] && disk=/dev/vda
word() { tr ' ' '\n' < /proc/cmdline | sed -n "s/^umbra\.$1=//p"; }
fail() { echo "STORAGE-FAILED $1"; sleep 1; poweroff -f; }
attach() { mount -t ext4 ${disk}1 /disk || fail mount; }

# A partition with a journalling file system, and files whose checksums are in one more.
prepare() {
    echo 'start=2048, type=83' | /bin/sfdisk -q $disk || fail sfdisk
    for wait in 1 2 3 4 5; do [ -b ${disk}1 ] || sleep 1; done
    /bin/mke2fs -q -t ext4 ${disk}1 || fail mke2fs
    attach
    cd /disk
    for number in $(seq 20); do
        dd if=/dev/urandom of=file$number bs=37k count=$number 2>/dev/null || fail dd
    done
    md5sum file* > sums
    sync
    echo STORAGE-READY
    sleep 1000
}

# The file system as it was found, its journal replayed; and the files.
check() {
    /bin/e2fsck -p ${disk}1
    [ $? -le 1 ] || fail "e2fsck -p"
    /bin/e2fsck -fn ${disk}1 || fail "e2fsck -fn"
    attach
    cd /disk
    md5sum -c sums || fail md5sum
    echo "STORAGE-FOUND $(wc -l < sums) files"
    sync
    poweroff -f
}

# Records without end, each said to be there when fsync has ended; beside them files that come and go unsaid.
load() {
    attach
    mkdir -p /disk/noise
    for writer in 1 2 3; do
        while :; do
            dd if=/dev/urandom of=/disk/noise/new$writer bs=8k count=$((writer * 4)) 2>/dev/null
            mv /disk/noise/new$writer /disk/noise/old$writer
        done &
    done
    record=$(word record)
    echo STORAGE-READY
    while printf '%0511d\n' $record | dd of=/disk/records bs=512 seek=$record conv=notrunc,fsync 2>/dev/null; do
        echo "STORAGE-RECORD $record"
        record=$((record + 1))
    done
    fail "record $record"
}

# fio's work on the disk itself, past the guest's cache. Results are its "terse" lines, version 3.
measure() {
    for job in $(word jobs | tr ',' ' '); do
        size=4k
        case "$job" in *sequential*) size=1M ;; esac
        case "$job" in
            random-read) how=randread ;;
            random-write) how=randwrite ;;
            sequential-read) how=read ;;
            sequential-write) how=write ;;
        esac
        /bin/fio --name=$job --filename=$disk --size=256M --rw=$how --bs=$size --direct=1 --ioengine=libaio --iodepth=1 \
            --end_fsync=1 --time_based --runtime=$(word seconds) --randseed=1 --minimal || fail fio
    done
    echo STORAGE-MEASURED
    sleep 0.2
    poweroff -f
}

mkdir -p /disk
case "$(word storage)" in
    prepare) prepare ;;
    check) check ;;
    load) load ;;
    measure) measure ;;
esac
