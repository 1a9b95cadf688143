// Owns: making a fresh clone runnable: dependencies installed as the lockfile says, Node 24 and both native addons working.
// Invariants: plain JavaScript for Node 18 and newer, no dependency, because it runs before there is any; quiet and fast
// (no process is started) when nothing is to be done; what is missing is said in one sentence, with what to do.
// The stamp is written last: an interrupted or failed set-up is simply done again.
// `--run SCRIPT ARGS...` then runs SCRIPT with the installed Node in this process's place, passing signals on: a shell that
// has once found the system's `node` keeps using it for the rest of its line.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const modules = path.join(root, 'node_modules');
const stampFile = path.join(modules, '.ukeyd-setup');
const windows = process.platform === 'win32';
const nodeMajor = 24;
const oldestMajor = 18;
/** What is kept and shown of a failed install: how it began to fail, and how it ended. */
const outputMaxChars = 1_000_000;
const shownFirstLines = 5;
const shownLastLines = 20;
const heartbeatMs = 15_000;
const checkWaitMs = 60_000;
const parentWatchMs = 500;
const signalStatus = 128;

/** The installed Node, and what the addons' builds leave behind. */
export const nodeBinary = path.join(modules, 'node', 'bin', windows ? 'node.exe' : 'node');
const addons = [
  { name: 'sqlite3', file: path.join(modules, 'sqlite3', 'build', 'Release', 'node_sqlite3.node') },
  { name: 'pkcs11js', file: path.join(modules, 'pkcs11js', 'build', 'Release', 'pkcs11.node') },
];

class SetupError extends Error {}

/** What must be equal for nothing to be done: the locked versions, and the platform they were built for. */
function wantedStamp() {
  const lock = path.join(root, 'package-lock.json');
  if (!existsSync(lock)) throw new SetupError(`${lock} is missing: this clone is not whole; run "git checkout -- package-lock.json".`);
  const digest = createHash('sha256').update(readFileSync(lock)).digest('hex');
  return `${digest} ${process.platform} ${process.arch}\n`;
}

function isReady(stamp) {
  if (!existsSync(stampFile) || readFileSync(stampFile, 'utf8') !== stamp) return false;
  return existsSync(nodeBinary) && addons.every((addon) => existsSync(addon.file));
}

/** Whether what is installed is already what the lockfile says, as npm itself wrote it down: then there is nothing to install anew. */
function fitsAlready() {
  const written = path.join(modules, '.package-lock.json');
  if (!existsSync(written) || !existsSync(nodeBinary) || !addons.every((addon) => existsSync(addon.file))) return false;
  const packagesIn = (file) => JSON.parse(readFileSync(file, 'utf8')).packages ?? {};
  const wanted = packagesIn(path.join(root, 'package-lock.json'));
  const there = packagesIn(written);
  const isSame = (name) => wanted[name]?.version === there[name]?.version && wanted[name]?.integrity === there[name]?.integrity;
  // Optional packages of other platforms are in the lockfile and nowhere else.
  const isMet = (name) => name === '' || (there[name] === undefined ? wanted[name].optional === true : isSame(name));
  return Object.keys(wanted).length > 1 && Object.keys(wanted).every(isMet) && Object.keys(there).every(isSame);
}

/** One sentence about what the output of a failed install means. The order matters: the first that fits is said. */
export function diagnose(output) {
  const missing = ['make', 'g++', 'python3'].filter((tool) => toolMissing(tool));
  if (/code EUSAGE/.test(output)) {
    return 'package.json and package-lock.json do not fit each other: run "npm install", look at what it changed, then run this again.';
  }
  if (/ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH|ECONNRESET/.test(output) && !/gyp ERR!/.test(output)) {
    return 'The npm registry cannot be reached: check the network or the proxy (npm config get registry), then run this again.';
  }
  if (/gyp ERR!|node-gyp|not found: (make|g\+\+|python3?)/.test(output)) {
    if (missing.length > 0) {
      return `The native addons have to be compiled here and ${missing.join(', ')} ${missing.length === 1 ? 'is' : 'are'} missing: install ${toolPackages(missing)}, then run this again.`;
    }
    if (/ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|nodejs\.org/.test(output)) {
      return 'The native addons have to be compiled here and Node\'s headers cannot be downloaded: give npm a copy with "npm config set nodedir /usr" (or where your Node\'s include folder is), then run this again.';
    }
    return 'A native addon could not be compiled; the reason stands above.';
  }
  if (/ENOSPC/.test(output)) return 'The disk is full: free some space, then run this again.';
  if (/EACCES|EPERM/.test(output)) return 'The dependencies cannot be written: run this as the owner of the clone.';
  return 'The dependencies could not be installed; the reason stands above.';
}

function toolMissing(tool) {
  if (windows) return false;
  return spawnSync('sh', ['-c', `command -v ${tool}`], { stdio: 'ignore' }).status !== 0;
}

function toolPackages(tools) {
  if (process.platform === 'darwin') return 'the command line tools (xcode-select --install)';
  return existsSync('/usr/bin/apt-get') ? `them with "sudo apt-get install ${tools.join(' ')}"` : 'them with your package manager';
}

/** npm as it called us, else as it is found. */
function npmCommand() {
  const npm = process.env['npm_execpath'];
  if (npm !== undefined && /\.c?js$/.test(npm) && existsSync(npm)) return { command: process.execPath, args: [npm], shell: false };
  return { command: windows ? 'npm.cmd' : 'npm', args: [], shell: windows };
}

function install() {
  const npm = npmCommand();
  const began = Date.now();
  const seconds = () => Math.round((Date.now() - began) / 1000);
  process.stderr.write('Setting up: installing the dependencies (once; a minute or two where the addons must be compiled)\n');
  const beat = process.stderr.isTTY
    ? setInterval(() => process.stderr.write(`\r  ${seconds()} s `), 1000)
    : setInterval(() => process.stderr.write(`  still installing, ${seconds()} s\n`), heartbeatMs);
  return new Promise((resolve, reject) => {
    const child = spawn(npm.command, [...npm.args, 'ci', '--no-audit', '--no-fund', '--loglevel=error'], {
      cwd: root,
      shell: npm.shell,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: installEnvironment(),
    });
    let output = '';
    const keep = (chunk) => {
      output = (output + chunk.toString('utf8')).slice(-outputMaxChars);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    const end = (error) => {
      clearInterval(beat);
      if (process.stderr.isTTY) process.stderr.write('\r');
      if (error === null) {
        process.stderr.write(`Set up in ${seconds()} s\n`);
        resolve();
      } else reject(error);
    };
    child.on('error', (cause) =>
      end(new SetupError(`npm cannot be run (${cause.message}): install Node.js with npm, then run this again.`)),
    );
    child.on('close', (status) => {
      if (status === 0) return end(null);
      process.stderr.write(excerpt(output));
      end(new SetupError(diagnose(output)));
    });
  });
}

function excerpt(output) {
  const lines = output.split('\n').filter((line) => line.trim() !== '' && !line.startsWith('npm warn'));
  const last = Math.max(shownFirstLines, lines.length - shownLastLines);
  return `${[...lines.slice(0, shownFirstLines), ...(last > shownFirstLines ? ['...'] : []), ...lines.slice(last)].join('\n')}\n`;
}

/** What the calling npm set for its own script (its command, its configuration of this run) is not for the install. */
function installEnvironment() {
  const kept = Object.entries(process.env).filter(([name]) => !/^npm_(lifecycle|command|package)/.test(name));
  return Object.fromEntries(kept);
}

/** Loads each addon in the installed Node: a build for another system or libc shows only there. */
function checkInstalled() {
  const version = spawnSync(nodeBinary, ['--version'], { encoding: 'utf8', timeout: checkWaitMs });
  if (version.error !== undefined || version.status !== 0) {
    throw new SetupError(
      `The Node.js ${nodeMajor} that belongs to this clone does not run here (${version.error?.message ?? version.stderr.trim()}): delete node_modules and run this again.`,
    );
  }
  if (!version.stdout.startsWith(`v${nodeMajor}.`)) {
    throw new SetupError(
      `Node.js ${nodeMajor} is needed and ${version.stdout.trim()} was installed: delete node_modules and run this again.`,
    );
  }
  for (const { name } of addons) {
    const load = `await import(${JSON.stringify(name)})`;
    const done = spawnSync(nodeBinary, ['--input-type=module', '-e', load], { cwd: root, encoding: 'utf8', timeout: checkWaitMs });
    if (done.status === 0) continue;
    process.stderr.write(`${done.stderr}\n`);
    throw new SetupError(
      `The addon ${name} was installed and does not load: delete node_modules and run this again; the reason stands above.`,
    );
  }
}

/** Answers the exit status of the script that ran with the installed Node. npm ends on a signal without passing it on: its death is one too. */
function runInstead(args) {
  const child = spawn(nodeBinary, args, { stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  const parent = process.ppid;
  const watch = setInterval(() => {
    if (process.ppid !== parent) child.kill('SIGTERM');
  }, parentWatchMs);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status, signal) => {
      clearInterval(watch);
      resolve(status ?? signalStatus + (signal === 'SIGINT' ? 2 : 15));
    });
  });
}

async function main(args) {
  const major = Number(process.versions.node.split('.')[0]);
  if (major < oldestMajor) {
    throw new SetupError(`Node.js ${process.versions.node} is too old to set this up: install Node.js ${oldestMajor} or newer.`);
  }
  const stamp = wantedStamp();
  if (!isReady(stamp)) {
    if (!fitsAlready()) await install();
    checkInstalled();
    writeFileSync(stampFile, stamp);
  }
  return args[0] === '--run' ? await runInstead(args.slice(1)) : 0;
}

if (process.argv[1] !== undefined && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    process.exitCode = await main(process.argv.slice(2));
  } catch (thrown) {
    process.stderr.write(thrown instanceof SetupError ? `${thrown.message}\n` : `${thrown?.stack ?? thrown}\n`);
    process.exitCode = 1;
  }
}
