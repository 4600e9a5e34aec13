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
efi=
[ -d /sys/firmware/efi ] && efi=yes
if [ "$efi" ]; then
    root=/dev/sda2
    printf 'label: gpt\nsize=64MiB, type=U\ntype=L\n' | /bin/sfdisk -q /dev/sda || fail sfdisk
else
    root=/dev/sda1
    echo 'start=2048, type=83, bootable' | /bin/sfdisk -q /dev/sda || fail sfdisk
fi
for wait in 1 2 3 4 5; do [ -b $root ] || sleep 1; done
/bin/mke2fs -q -t ext4 -L debian $root || fail mke2fs
mkdir -p /target /cd
# Half an installation is worth nothing: until it is whole, nothing is flushed.
mount -t ext4 -o barrier=0 $root /target || fail "mount the disk"
mount -t iso9660 -o ro /dev/sr0 /cd || fail "mount the CD"

say unpack
tar xf /cd/debian.tar -C /target || fail tar
mount -t proc proc /target/proc
mount -t sysfs sys /target/sys
mount --bind /dev /target/dev

say settings
echo umbra > /target/etc/hostname
echo '127.0.0.1 localhost umbra' > /target/etc/hosts
echo "$root / ext4 errors=remount-ro 0 1" > /target/etc/fstab
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
if [ "$efi" ]; then
    chroot /target mkfs.vfat -n ESP /dev/sda1 || fail mkfs.vfat
    mkdir -p /target/boot/efi
    mount -t vfat /dev/sda1 /target/boot/efi || fail "mount the EFI system partition"
    echo '/dev/sda1 /boot/efi vfat umask=0077 0 1' >> /target/etc/fstab
    mount -t efivarfs efivarfs /target/sys/firmware/efi/efivars || fail "mount the variables"
    # It makes a boot entry.
    chroot /target grub-install --target=x86_64-efi --efi-directory=/boot/efi || fail grub-install
    umount /target/sys/firmware/efi/efivars
else
    chroot /target grub-install /dev/sda || fail grub-install
fi
chroot /target update-grub || fail update-grub

mount -o remount,barrier=1 /target || fail remount
sync
say done
[ "$efi" ] && umount /target/boot/efi
umount /target/dev /target/sys /target/proc
umount /target || fail umount
reboot -f
