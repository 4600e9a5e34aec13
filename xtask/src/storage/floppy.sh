# What the test guest does with its floppy: reads all of it, writes something into its middle, and finds it there. init.sh has loaded
# the driver.
sum() { md5sum | cut -d ' ' -f 1; }
for wait in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/fd0 ] && break; sleep 0.5; done
echo "FLOPPY-READ $(dd if=/dev/fd0 bs=18k 2>/dev/null | sum)"
head -c 51200 /bin/busybox | dd of=/dev/fd0 bs=512 seek=700 conv=notrunc,fsync 2>/dev/null
sync
echo 3 > /proc/sys/vm/drop_caches
echo "FLOPPY-SIZE $(cat /sys/block/fd0/size)"
echo "FLOPPY-WROTE $(head -c 51200 /bin/busybox | sum) $(dd if=/dev/fd0 bs=512 skip=700 count=100 2>/dev/null | sum)"
echo "FLOPPY-DONE"
