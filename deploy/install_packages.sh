#!/usr/bin/env bash
# Installs the Debian packages named in the given lists (default: deploy/packages.txt).
#
#   deploy/install_packages.sh [LIST ...]
#
# As root or through sudo. A machine that has them all is left alone: no network, no root needed.
set -euo pipefail

here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
lists=("$@")
if [[ ${#lists[@]} -eq 0 ]]; then
  lists=("$here/packages.txt")
fi

fail() {
  echo "install_packages.sh: $*" >&2
  exit 1
}

for list in "${lists[@]}"; do
  [[ -r "$list" ]] || fail "read $list: no such file; name lists like deploy/packages.txt"
done
mapfile -t wanted < <(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' -- "${lists[@]}" | sort -u)
[[ ${#wanted[@]} -gt 0 ]] || fail "no package is named in: ${lists[*]}"
command -v dpkg-query >/dev/null || fail "dpkg-query not found: this script is for Debian 12;\
 install the packages of ${lists[*]} by hand"

# One query for all. "dpkg -s" also succeeds for removed packages whose configuration was kept.
installed="$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${wanted[@]}" 2>/dev/null |
  sed -n 's/ installed$//p' || true)"
missing=()
for package in "${wanted[@]}"; do
  if grep -qxF -- "$package" <<<"$installed"; then
    continue
  fi
  # Upstream's kubectl conflicts with Debian's package and serves as well.
  if [[ "$package" == kubernetes-client ]] && command -v kubectl >/dev/null; then
    continue
  fi
  missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  exit 0
fi

as_root=(env)
if [[ "$(id -u)" -ne 0 ]]; then
  command -v sudo >/dev/null || fail "cannot install ${missing[*]}: neither root nor sudo;\
 run as root: apt-get install --no-install-recommends ${missing[*]}"
  as_root=(sudo env)
fi
echo "install_packages.sh: installing ${missing[*]}" >&2
apt() {
  "${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 \
    -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}
apt update || fail "apt-get update failed: check the network and /etc/apt/sources.list*"
apt install --yes --no-install-recommends "${missing[@]}" >/dev/null ||
  fail "apt-get install failed for: ${missing[*]}"
