#!/bin/sh
# A certificate of our own, once: make-tls.sh FOLDER PUBLIC_FOLDER [NAME...]. The key stays in FOLDER; PUBLIC_FOLDER gets the
# certificate alone, for workers and clients to trust (SSL_CERT_FILE). Names: how others call the server.
set -eu
folder="$1"; public="$2"; shift 2
if [ ! -s "$folder/tls.key" ]; then
    names="DNS:localhost,IP:127.0.0.1"
    for name in "$@"; do names="$names,DNS:$name"; done
    umask 077
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 825 -subj "/CN=batchsched" \
        -addext "subjectAltName=$names" -keyout "$folder/tls.key.new" -out "$folder/tls.crt"
    mv "$folder/tls.key.new" "$folder/tls.key"
fi
cp "$folder/tls.crt" "$public/ca.crt"
chmod 644 "$public/ca.crt"
if [ "$(id -u)" = 0 ]; then chown -R 10001:10001 "$folder"; fi
