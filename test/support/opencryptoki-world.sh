#!/bin/sh
# Runs a command beside OpenCryptoki's software token in a world of its own: a mount namespace in which the token's folders are those of $1, and a slot
# daemon that ends with the command. Usage: unshare --mount --ipc sh opencryptoki-world.sh FOLDER COMMAND... (root)
set -eu
folder=$1
shift
mkdir -p "$folder/lib"
cp -a /var/lib/opencryptoki/. "$folder/lib/"
rm -rf "$folder/lib/swtok/TOK_OBJ/"* "$folder/lib/swtok/NVTOK.DAT"
printf 'version opencryptoki-3.1\nslot 3\n{\nstdll = libpkcs11_sw.so\n}\n' > "$folder/conf"
mount --make-rprivate /
# Socket, process id and locks of a slot daemon of the machine's own are out of sight.
mount -t tmpfs tmpfs /run
[ -L /var/lock ] || mount -t tmpfs tmpfs /var/lock
mkdir -p /run/lock /var/lock/opencryptoki
mount --bind "$folder/lib" /var/lib/opencryptoki
mount --bind "$folder/conf" /etc/opencryptoki/opencryptoki.conf
mkdir -p /var/lock/opencryptoki/swtok
pkcsslotd -f > "$folder/slotd.log" 2>&1 &
daemon=$!
trap 'kill "$daemon" 2> /dev/null || true' EXIT
for _ in 1 2 3 4 5 6 7 8 9 10; do
  [ -S /run/pkcsslotd.socket ] && break
  sleep 0.2
done
"$@"
