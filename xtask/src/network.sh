# What the test guest does with its network card, as umbra.jobs= on the kernel's command line says. init.sh has loaded the driver.
# This machine's peer listens on the port umbra.source=, from which bytes come, and on umbra.sink=, which takes them.
word() { tr ' ' '\n' < /proc/cmdline | sed -n "s/^umbra\.$1=//p"; }
fail() { echo "NETWORK-FAILED $1"; sleep 0.2; poweroff -f; }
host=10.0.2.2

# Milliseconds since the start.
now() { read up rest < /proc/uptime; echo $((${up%.*}${up#*.}))0; }
# The card's counters: bytes, frames and errors received, and frames sent.
card() {
    set -- $(sed -n 's/^ *eth0: *//p' /proc/net/dev)
    echo $2 $3 ${10}
}

download() { [ "$(nc $host $(word source) < /dev/null | wc -c)" = "$bytes" ]; }
upload() { head -c $bytes /dev/zero | nc $host $(word sink); }
ping() { busybox ping -A -q -c $(word requests) $host | grep ' 0% packet loss'; }

bytes=$(word bytes)
ifconfig lo 127.0.0.1
ifconfig eth0 up || fail card
udhcpc -i eth0 -q -n -s /lease > /dev/null 2>&1 || fail DHCP
for job in $(word jobs | tr ',' ' '); do
    before=$(card)
    begin=$(now)
    $job > /dev/null || fail $job
    end=$(now)
    echo "NETWORK-JOB $job $((end - begin)) $before $(card)"
done
echo NETWORK-MEASURED
sleep 0.2
poweroff -f
