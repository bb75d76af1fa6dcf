#!/bin/sh
# Makes the secrets of compose.yaml in ./secrets, or in the folder that is named;
# what is there stays. As root it gives them to the user of the image.
set -eu
umask 077
dir=${1:-secrets}
mkdir -p "$dir"
random() { head -c "$1" /dev/urandom; }
hex() { random 24 | od -An -tx1 | tr -d ' \n'; }
[ -e "$dir/seal.key" ] || random 32 > "$dir/seal.key"
if [ ! -e "$dir/nats.env" ]; then
  weir=$(hex)
  printf 'NATS_WEIR_PASSWORD=%s\nNATS_DATA_PASSWORD=%s\n' "$weir" "$(hex)" > "$dir/nats.env"
  printf 'weir:%s\n' "$weir" > "$dir/nats.creds"
fi
if [ "$(id -u)" = 0 ]; then chown 65532:65532 "$dir/seal.key" "$dir/nats.creds"; fi
