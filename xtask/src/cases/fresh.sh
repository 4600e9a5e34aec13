# Runs the command $2... in the system in $1, with the project in /root/umbra and the toolchain of this one. The mounts end with the command.
set -e
tree=$1
shift
mount -t proc proc "$tree/proc"
mount -t sysfs sys "$tree/sys"
mount --rbind /dev "$tree/dev"
for folder in "$CARGO_HOME" "$RUSTUP_HOME"; do
    [ -d "$folder" ] || continue
    mkdir -p "$tree$folder"
    mount --bind "$folder" "$tree$folder"
done
exec chroot "$tree" env -i HOME=/root LC_ALL=C.UTF-8 TERM=dumb CARGO_HOME="$CARGO_HOME" RUSTUP_HOME="$RUSTUP_HOME" \
    PATH="$CARGO_HOME/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
    sh -c 'cd /root/umbra && exec "$@"' sh "$@"
