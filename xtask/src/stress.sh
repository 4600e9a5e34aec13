# Has stress-ng stress what several CPUs do together, for as many seconds as umbra.stress= on the kernel's command line says. init.sh has loaded the drivers.
seconds=$(tr ' ' '\n' < /proc/cmdline | sed -n 's/^umbra\.stress=//p')
mkdir -p /dev/shm /tmp
mount -t tmpfs tmp /tmp
mount -t tmpfs shm /dev/shm
cpus=$(grep -c '^processor' /proc/cpuinfo)
# Each checks what it can of its work.
/bin/stress-ng --temp-path /tmp --verify --metrics-brief --timeout "$seconds" \
    --tlb-shootdown 2 --futex $cpus --switch $cpus --membarrier $cpus --fork $cpus --mmap $cpus --mmap-bytes 16m \
    > /tmp/said 2>&1
ended=$?
cat /tmp/said
# What the kernel complains of where interrupts or time are lost.
dmesg | grep -i -E 'stall|lockup|hung|oops|bug:|unstable|lost|warning:' > /tmp/complaints
sed 's/^/STRESS-COMPLAINT /' /tmp/complaints
[ $ended = 0 ] && [ ! -s /tmp/complaints ] && echo "STRESS-FINE" || echo "STRESS-FAILED $ended"
poweroff -f
