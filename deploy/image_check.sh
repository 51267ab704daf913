#!/usr/bin/env bash
# Builds the Dockerfile for real where there is no Docker engine, starts the image and uses it.
#
#   deploy/image_check.sh [FOLDER]        as root on Debian; 5 GB in FOLDER (default: a new one)
#
# buildah builds with chroot isolation on a base image that debootstrap makes and that is tagged
# locally: no container registry and no daemon is needed. Everything lies in FOLDER; a base found
# there is used again. What chroot isolation can't prove is said at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
export CONTAINERS_STORAGE_CONF="$folder/storage.conf"
cat >"$CONTAINERS_STORAGE_CONF" <<STORAGE
[storage]
driver = "vfs"
graphroot = "$folder/storage"
runroot = "$folder/run"
STORAGE
base=localhost/karyon-check-base:bookworm
image=localhost/karyon-check:latest
port=8766
container=
server=

say() { printf '\n== %s\n' "$*"; }
fail() {
  printf 'FAILED: %s\n' "$*" >&2
  [ -z "$server" ] || cat "$folder/server.log" >&2
  exit 1
}
pstree_of() { # a process and all below it
  local child
  echo "$1"
  for child in $(pgrep -P "$1"); do pstree_of "$child"; done
}
clean_up() {
  [ -z "$server" ] || kill $(pstree_of "$server") 2>/dev/null || true
  [ -z "$container" ] || buildah rm "$container" >/dev/null 2>&1 || true
}
trap clean_up EXIT

for tool in buildah debootstrap curl; do
  command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install buildah debootstrap curl"
done

if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
  say "base image: Debian bookworm with its Python 3.11"
  [ -e "$folder/base/usr/bin/python3" ] ||
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
      bookworm "$folder/base" >"$folder/debootstrap.log" 2>&1 || fail "see $folder/debootstrap.log"
  scratch=$(buildah from scratch)
  buildah add --quiet "$scratch" "$folder/base" / >/dev/null
  buildah commit --quiet "$scratch" "$base" >/dev/null
  buildah rm "$scratch" >/dev/null
fi

say "build"
# A network that signs TLS itself: its certificates and pip's configuration are lent to the build and
# do not end up in the image.
lent=()
for path in /etc/ssl/certs /etc/pip.conf; do
  [ ! -e "$path" ] || lent+=(--volume "$path:$path:ro")
done
buildah bud --format docker --pull-never --build-arg "BASE_IMAGE=$base" "${lent[@]}" \
  --tag "$image" . >"$folder/build.log" 2>&1 || fail "the build; see $folder/build.log"

container=$(buildah from --pull-never "$image")
root=$(buildah mount "$container")
python=/opt/karyon/bin/python

say "what is in it"
du -sh "$root/opt/karyon" "$root/app" | sed "s|$root||"
printf 'whole image: '
du -sh "$root" | cut -f1
buildah inspect "$container" >"$folder/inspect.json"
configured() { # what the image says of itself, one word a line
  python3 -c 'import json, sys; value = json.load(open(sys.argv[1]))["Docker"]["config"][sys.argv[2]]
print(value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict) else "\n".join(value))' \
    "$folder/inspect.json" "$1"
}
configured User | grep -qx 10001:10001 || fail "the image does not name user 10001"
configured Healthcheck | grep -q healthcheck.py || fail "the image has no health check"
for tool in gcc cc c++ make pip pip3 curl wget; do
  [ ! -e "$root/usr/bin/$tool" ] && [ ! -e "$root/usr/local/bin/$tool" ] &&
    [ ! -e "$root/opt/karyon/bin/$tool" ] || fail "$tool is in the image"
done
for package in tensorflow keras tf2onnx onnx scipy pip setuptools; do
  ! compgen -G "$root/opt/karyon/lib/python3*/site-packages/$package" >/dev/null ||
    fail "$package is in the image"
done
[ -z "$(find "$root/app" "$root/opt/karyon" -not -user 0 -print -quit)" ] ||
  fail "the program does not belong to root"

say "start as the image says"
touch "$folder/started"
buildah run "$container" -- sh -c 'id; touch /app/x 2>/dev/null && echo WRITABLE; true' |
  tee "$folder/id.log"
grep -q 'uid=10001' "$folder/id.log" || fail "it does not run as user 10001"
! grep -q WRITABLE "$folder/id.log" || fail "user 10001 can write its own program"
mapfile -t entrypoint < <(configured Entrypoint)
mapfile -t command < <(configured Cmd)
echo "${entrypoint[*]} ${command[*]}"
# Chroot isolation shares the host's network: a port of its own, on loopback alone.
buildah run --env KARYON_HOST=127.0.0.1 --env KARYON_PORT=$port "$container" -- \
  "${entrypoint[@]}" "${command[@]}" >"$folder/server.log" 2>&1 &
server=$!
for _ in $(seq 240); do
  curl -fs "http://127.0.0.1:$port/health/ready" >/dev/null 2>&1 && break
  kill -0 "$server" 2>/dev/null || fail "the service ended"
  sleep 0.5
done
# The process itself, not the buildah processes around it.
service=
for process in $(pstree_of "$server"); do
  tr '\0' ' ' <"/proc/$process/cmdline" | grep -q "^$python -m service" && service=$process
done
[ -n "$service" ] || fail "no process runs $python -m service"
awk '/^Uid:/ {print "process " $2}' "/proc/$service/status" | tee "$folder/uid.log"
grep -qx 'process 10001' "$folder/uid.log" || fail "the service does not run as user 10001"

say "use it"
answer=$(curl -fsS -F image=@tests/data/images/tnbc_p07_1.png "http://127.0.0.1:$port/segment") ||
  fail "POST /segment"
printf '%.300s...\n' "$answer"
# 155 nuclei are annotated in this tile.
echo "$answer" | python3 -c 'import json, sys; assert 110 < json.load(sys.stdin)["count"] < 210' ||
  fail "the count is off"
curl -fsS -H 'Accept: image/png' -F image=@tests/data/images/tnbc_p07_1.png -o "$folder/mask.png" \
  -w 'mask: %{http_code} %{content_type} %{size_download} bytes\n' "http://127.0.0.1:$port/segment"
buildah run --env KARYON_PORT=$port "$container" -- "$python" /app/healthcheck.py ||
  fail "the health check of a ready service"
! buildah run --env KARYON_PORT=1 "$container" -- "$python" /app/healthcheck.py 2>/dev/null ||
  fail "the health check passes without a service"

say "SIGTERM ends it"
kill -TERM "$service"
status=0
wait "$server" || status=$?
server=
[ "$status" -eq 0 ] || fail "it ended with $status"
! curl -fs "http://127.0.0.1:$port/health/live" >/dev/null 2>&1 || fail "it still answers"
# The data folder is a volume wherever there is an engine; nothing else may be written.
written=$(find "$root" -xdev -newer "$folder/started" -type f \
  -not -path "$root/etc/*" -not -path "$root/run/*" -not -path "$root/var/lib/karyon/*")
[ -z "$written" ] || fail "it wrote into its root file system: $written"

say "proved: builds from hashed wheels, runs as user 10001, segments, writes only into its data folder, ends on SIGTERM"
echo "not proved here, for chroot isolation has none of it: read-only mount, dropped capabilities,"
echo "limits, the engine's own health check, the port mapping; docker-compose.yml asks for them"
