#!/bin/busybox sh
# An unattended installation of Debian: the system that debootstrap has made, on the CD, goes onto the first disk, with a partition,
# a file system, settings, users and a boot loader of its own.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
say() { echo "INSTALL $*"; }
fail() { say "failed: $*"; sleep 2; poweroff -f; }

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read module; do
    insmod /modules/$module.ko
done < /modules/order
for wait in 1 2 3 4 5 6 7 8 9 10; do
    [ -b /dev/sda ] && [ -b /dev/sr0 ] && break
    sleep 1
done

say partition
echo 'start=2048, type=83, bootable' | /bin/sfdisk -q /dev/sda || fail sfdisk
for wait in 1 2 3 4 5; do [ -b /dev/sda1 ] || sleep 1; done
/bin/mke2fs -q -t ext4 -L debian /dev/sda1 || fail mke2fs
mkdir -p /target /cd
# Half an installation is worth nothing: until it is whole, nothing is flushed.
mount -t ext4 -o barrier=0 /dev/sda1 /target || fail "mount the disk"
mount -t iso9660 -o ro /dev/sr0 /cd || fail "mount the CD"

say unpack
tar xf /cd/debian.tar -C /target || fail tar
mount -t proc proc /target/proc
mount -t sysfs sys /target/sys
mount --bind /dev /target/dev

say settings
echo umbra > /target/etc/hostname
echo '127.0.0.1 localhost umbra' > /target/etc/hosts
echo '/dev/sda1 / ext4 errors=remount-ro 0 1' > /target/etc/fstab
cat > /target/etc/network/interfaces <<'END'
auto lo
iface lo inet loopback
allow-hotplug enp0s3
iface enp0s3 inet dhcp
END
cat > /target/etc/apt/sources.list <<'END'
deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://security.debian.org/debian-security bookworm-security main
END
# A login on the screen and one on COM1; the screen stays in text mode, which scripts can read.
cat > /target/etc/default/grub <<'END'
GRUB_DEFAULT=0
GRUB_TIMEOUT=2
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX="nomodeset console=ttyS0,115200 console=tty0"
GRUB_TERMINAL=console
END
export LC_ALL=C
: > /target/etc/machine-id
rm -f /target/etc/resolv.conf
chroot /target useradd -m -s /bin/bash user || fail useradd
printf 'root:umbra\nuser:umbra\n' | chroot /target chpasswd || fail chpasswd

say boot loader
chroot /target grub-install /dev/sda || fail grub-install
chroot /target update-grub || fail update-grub

mount -o remount,barrier=1 /target || fail remount
sync
say done
umount /target/dev /target/sys /target/proc
umount /target || fail umount
reboot -f
