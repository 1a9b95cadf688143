// Owns: RPM packages from the same staging trees as the Debian ones, with the same behaviour: users first, nothing started unasked, state never deleted.
// Invariants: nothing of the tree is changed (no stripping, no build ids); times and build host are fixed, so equal trees give equal packages.
import { copyFileSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { filesIn, ownFoldersIn } from './deb.ts';
import type { Product, Trees } from './staging.ts';
import { BuildError, tool } from './tool.ts';

const machineOf: Readonly<Record<Product['architecture'], string>> = { amd64: 'x86_64', arm64: 'aarch64' };

interface Package {
  readonly name: 'ukeyd' | 'ukeyd-server';
  readonly tree: string;
  readonly summary: string;
  readonly requires: readonly string[];
}

export function buildRpms({ service, server, product }: Trees, out: string, revision: number): readonly string[] {
  const packages: readonly Package[] = [
    {
      ...{ name: 'ukeyd', tree: service, summary: 'owns a USB token and issues invoices, online or not' },
      requires: ['systemd >= 252', 'util-linux', 'coreutils'],
    },
    {
      ...{ name: 'ukeyd-server', tree: server, summary: 'ticket server of ukeyd, and its sandbox' },
      requires: [`ukeyd = ${product.version}-${revision}`],
    },
  ];
  return packages.map((one) => buildRpm(one, product, revision, out));
}

function buildRpm(one: Package, product: Product, revision: number, out: string): string {
  const work = path.join(out, `.rpm-${one.name}`);
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  const spec = path.join(work, `${one.name}.spec`);
  writeFileSync(spec, specText(one, product, revision));
  const machine = machineOf[product.architecture];
  const env = { SOURCE_DATE_EPOCH: String(product.epochSeconds) };
  tool('rpmbuild', ['-bb', '--quiet', '--target', `${machine}-linux`, '--define', `_topdir ${work}`, spec], { env });
  const [name] = readdirSync(path.join(work, 'RPMS', machine));
  if (name === undefined) throw new BuildError('rpmbuild made no package');
  const target = path.join(out, name);
  copyFileSync(path.join(work, 'RPMS', machine, name), target);
  rmSync(work, { recursive: true });
  return target;
}

function specText({ name, tree, summary, requires }: Package, product: Product, revision: number): string {
  const files = [
    ...ownFoldersIn(tree).map((folder) => `%dir "/${folder}"`),
    ...filesIn(tree).map((file) => (file.startsWith('etc/') ? `%config(noreplace) "/${file}"` : `"/${file}"`)),
  ];
  return `%global debug_package %{nil}
%global __os_install_post %{nil}
%global _build_id_links none
%global __provides_exclude_from ^/usr/lib/ukeyd/
%global _buildhost ukeyd.invalid
%global use_source_date_epoch_as_buildtime 1
%global clamp_mtime_to_source_date_epoch 1
%global _binary_payload w3.zstdio
Name: ${name}
Version: ${product.version}
Release: ${revision}
Summary: ${summary}
License: Apache-2.0 and others (see licences)
${requires.map((one) => `Requires: ${one}`).join('\n')}

%description
${product.description}

%install
cp -al ${tree}/. %{buildroot}/

%files
%defattr(-,root,root,-)
${files.join('\n')}
${scriptlets[name]}`;
}

/** `$1` counts the versions that are there afterwards: 0 is the last erase, 1 the first installation or, when erasing, an upgrade. */
const scriptlets: Readonly<Record<Package['name'], string>> = {
  ukeyd: `
%pre
if [ $1 -gt 1 ] && [ -d /run/systemd/system ]; then
  if systemctl --quiet is-active ukeyd.service; then : > /run/ukeyd.was-active; fi
  systemctl stop ukeyd.service
fi

%post
systemd-sysusers ukeyd.conf
systemd-tmpfiles --create ukeyd.conf
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  if [ -e /run/udev/control ]; then udevadm control --reload; fi
fi

%preun
if [ $1 -eq 0 ] && [ -d /run/systemd/system ]; then systemctl --no-reload disable --now ukeyd.service; fi

%posttrans
if [ -e /run/ukeyd.was-active ]; then
  rm -f /run/ukeyd.was-active
  systemctl start ukeyd.service || echo "ukeyd: the service did not start: systemctl status ukeyd" >&2
fi

%postun
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
`,
  'ukeyd-server': `
%post
systemd-sysusers ukeyd-server.conf
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

%preun
if [ $1 -eq 0 ] && [ -d /run/systemd/system ]; then systemctl --no-reload disable --now ukeyd-server.service; fi

%postun
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  if [ $1 -ge 1 ]; then systemctl try-restart ukeyd-server.service; fi
fi
`,
};
