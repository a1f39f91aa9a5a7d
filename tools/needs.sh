#!/usr/bin/env bash
# Installs what the tests need beside Go, where that is missing and can be
# installed: on Debian and its kin, as root. Elsewhere it says what is missing;
# the tests that need it are then skipped, and say so.
set -euo pipefail

# The race detector needs cgo, and cgo a C compiler. Documents are tested with
# the curl that they speak of, limits that gateways share with a real Redis,
# signing in with a real browser, and directories with a real server.
missing=()
command -v gcc >/dev/null 2>&1 || missing+=(gcc libc6-dev)
command -v curl >/dev/null 2>&1 || missing+=(curl)
command -v openssl >/dev/null 2>&1 || missing+=(openssl)
command -v redis-server >/dev/null 2>&1 || missing+=(redis-server)
command -v chromium >/dev/null 2>&1 || missing+=(chromium)
[ -x /usr/sbin/slapd ] || missing+=(slapd ldap-utils)
[ ${#missing[@]} -gt 0 ] || exit 0

if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
else
	echo "not installed, so that some tests are skipped: ${missing[*]}" >&2
fi
