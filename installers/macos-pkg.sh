#!/bin/sh
# The installer for macOS: run on macOS, in a clone that is set up: sh installers/macos-pkg.sh OUT-DIR. Not tested here (docs/platforms.md).
# Installs to /usr/local/lib/ukeyd and /Library/LaunchDaemons; makes the user _ukeyd and the group _ukey; starts nothing before the configuration names a token.
set -eu

out=${1:?usage: macos-pkg.sh OUT-DIR}
here=$(cd "$(dirname "$0")/.." && pwd)
[ "$(uname)" = Darwin ] || { echo "pkgbuild is a tool of macOS: run this there" >&2; exit 1; }

root=$out/root
rm -rf "$root" && mkdir -p "$root/usr/local/lib" "$root/usr/local/bin" "$root/Library/LaunchDaemons" "$root/usr/local/share/ukeyd"
"$here/node_modules/node/bin/node" "$here/installers/packages.ts" --out "$out" --only home
mv "$out/home" "$root/usr/local/lib/ukeyd"
for name in ukeyd:main ukeyctl:ctl; do
  flags=; [ "$name" != ukeyd:main ] || flags='--max-semi-space-size=16 '
  printf '#!/bin/sh\nexec /usr/local/lib/ukeyd/bin/node %s/usr/local/lib/ukeyd/daemon/%s.js "$@"\n' "$flags" "${name#*:}" > "$root/usr/local/bin/${name%:*}"
  chmod 755 "$root/usr/local/bin/${name%:*}"
done
cp "$here/service-files/launchd/ukeyd.plist" "$root/Library/LaunchDaemons/"
cp "$here/service-files/ukeyd.toml" "$root/usr/local/share/ukeyd/ukeyd.toml"

version=$("$here/node_modules/node/bin/node" -p "require('$here/package.json').version")
pkgbuild --root "$root" --scripts "$here/installers/macos" --identifier ukeyd --version "$version" --ownership recommended "$out/ukeyd-$version.pkg"
