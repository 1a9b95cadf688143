// Owns: which tools of the build machine a test of the packages needs, and the rule what happens where they are missing.
import { spawnSync } from 'node:child_process';
import { describe } from 'vitest';

const packages: Readonly<Record<string, string>> = {
  strip: 'binutils',
  'dpkg-deb': 'dpkg',
  'dpkg-shlibdeps': 'dpkg-dev',
  rpmbuild: 'rpm',
  rpm: 'rpm',
  'systemd-analyze': 'systemd',
  python3: 'python3',
  wixl: 'wixl',
  msiinfo: 'msitools',
};

/** `describe` with these tools; skipped loudly where one is absent, a failure where CI is set. */
export function describeTools(name: string, tools: readonly (keyof typeof packages)[], define: () => void): void {
  const missing = tools.filter((tool) => spawnSync('sh', ['-c', `command -v ${tool}`]).status !== 0);
  if (missing.length === 0) {
    describe(name, define);
    return;
  }
  const hint = `missing: apt-get install ${[...new Set(missing.map((tool) => packages[tool]))].join(' ')}`;
  if (process.env['CI']) throw new Error(`${name}: ${hint}, and CI is set`);
  console.warn(`SKIPPED: ${name}: ${hint}`);
  describe.skip(`${name} (${hint})`, define);
}
