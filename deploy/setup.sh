#!/usr/bin/env bash
# Make `.venv` hold exactly what one requirements file locks, and find the system packages a target
# needs: as root they are installed from apt, else the script says exactly which are missing.
#
#   deploy/setup.sh venv embedded|dev         create or update .venv
#   deploy/setup.sh packages demo|test        check (or install) system packages
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

apt_install() { # apt_install what-for package...
  local what=$1; shift
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "Missing for $what: $*"
    say "Install them first, for example: sudo apt-get install $*"
    exit 1
  fi
  say "Installing for $what: $*"
  local log; log=$(mktemp)
  if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
         apt-get install -y -qq --no-install-recommends "$@"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    say "apt-get could not install: $*"
    exit 1
  fi
  rm -f "$log"
}

find_python() {
  local candidate
  for candidate in python3.11 python3; do
    if command -v "$candidate" >/dev/null &&
       "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  say "Python 3.11 is needed and was not found on PATH."
  exit 1
}

make_venv() { # make_venv embedded|dev
  local lock=requirements/$1.txt stamp=.venv/.lens-$1 python
  if [ -f "$stamp" ] && cmp -s "$lock" "$stamp"; then return; fi
  if [ ! -x .venv/bin/python ]; then
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
      apt_install "the virtual environment" python3.11-venv
    fi
    "$python" -m venv .venv
  fi
  if ! cmp -s requirements/bootstrap.txt .venv/.lens-bootstrap; then
    .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes \
      -r requirements/bootstrap.txt
    cp requirements/bootstrap.txt .venv/.lens-bootstrap
  fi
  # A development environment serves the demo too: do not shrink it on the way.
  if [ "$1" = embedded ] && [ -f .venv/.lens-dev ] && cmp -s requirements/dev.txt .venv/.lens-dev; then
    return
  fi
  rm -f .venv/.lens-embedded .venv/.lens-dev
  VIRTUAL_ENV=.venv .venv/bin/uv pip sync -q --require-hashes "$lock" requirements/bootstrap.txt
  cp "$lock" "$stamp"
}

find_packages() { # find_packages demo|test
  local missing=()
  command -v curl >/dev/null || missing+=(curl)
  [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
  if [ "$1" = test ]; then
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
    command -v redis-server >/dev/null || missing+=(redis-server)
    command -v strace >/dev/null || missing+=(strace)
    PATH=$PATH:/usr/sbin:/sbin command -v nft >/dev/null || missing+=(nftables)
    PATH=$PATH:/usr/sbin:/sbin command -v iptables-legacy >/dev/null || missing+=(iptables)
  fi
  [ ${#missing[@]} = 0 ] || apt_install "make $1" "${missing[@]}"
}

case ${1:-} in
  venv) make_venv "$2" ;;
  packages) find_packages "$2" ;;
  *) say "usage: deploy/setup.sh venv embedded|dev, or: deploy/setup.sh packages demo|test"; exit 2 ;;
esac
