// Owns: running a tool of the build machine. Invariants: what it prints is kept and told when it fails; a tool that is missing is said with the package that has it.
import { spawnSync } from 'node:child_process';

export interface ToolOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/** A build that cannot go on: one sentence for the person who builds. */
export class BuildError extends Error {}

const outputMaxBytes = 256 * 1024 * 1024;

/** Debian packages of the tools. */
const packageOf: Readonly<Record<string, string>> = {
  strip: 'binutils',
  'dpkg-deb': 'dpkg',
  'dpkg-shlibdeps': 'dpkg-dev',
  rpmbuild: 'rpm',
  wixl: 'wixl',
};

/** Answers what it printed on its standard output. */
export function tool(command: string, args: readonly string[], { cwd, env }: ToolOptions = {}): string {
  const done = spawnSync(command, [...args], {
    encoding: 'utf8',
    maxBuffer: outputMaxBytes,
    ...(cwd === undefined ? {} : { cwd }),
    ...(env === undefined ? {} : { env: { ...process.env, ...env } }),
  });
  if (done.error !== undefined) {
    const hint = packageOf[command] === undefined ? '' : ` (Debian package ${packageOf[command]})`;
    throw new BuildError(`${command} cannot be run${hint}: ${done.error.message}`);
  }
  if (done.status !== 0) throw new BuildError(`${command} ended with ${done.status ?? done.signal}:\n${done.stdout}${done.stderr}`);
  return done.stdout;
}
