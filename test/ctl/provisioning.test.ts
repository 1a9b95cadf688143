// The commands of docs/provisioning.md, typed by a shell as they stand there, but for the folder and the port.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { grantOptionsSchema } from '#server/grant.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const text = readFileSync(join(root, 'docs', 'provisioning.md'), 'utf8');
const waitMs = 30_000;
/** Never doubted where CI is set. */
const hasTools =
  process.env['CI'] !== undefined || spawnSync('sh', ['-c', 'command -v npm && command -v curl && command -v openssl']).status === 0;

let directory: string;
let children: ChildProcess[] = [];
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ukey-docs-'));
});
afterAll(async () => {
  // npm and what it runs: each block has a process group of its own.
  for (const { pid, exitCode } of children) if (pid !== undefined && exitCode === null) process.kill(-pid, 'SIGTERM');
  await Promise.all(children.map(async (child) => child.exitCode ?? (await new Promise((resolve) => child.once('close', resolve)))));
  children = [];
  await rm(directory, { recursive: true, force: true });
});

async function freePort(): Promise<number> {
  return await new Promise((resolve) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => resolve(address !== null && typeof address === 'object' ? address.port : 0));
    });
  });
}

function shell(script: string): ChildProcess {
  // As after the export of the first block; nothing of the test's own npm or Node.
  const env = { PATH: `${dirname(process.execPath)}:${process.env['PATH'] ?? ''}`, HOME: directory };
  return spawn('sh', ['-eu', '-c', script], { cwd: root, env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
}

async function typed(script: string): Promise<string> {
  const child = shell(script);
  let [out, err] = ['', ''];
  child.stdout?.on('data', (chunk: Buffer) => (out += chunk.toString('utf8')));
  child.stderr?.on('data', (chunk: Buffer) => (err += chunk.toString('utf8')));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  expect(code, `${script}\n${out}\n${err}`).toBe(0);
  return out;
}

/** Until what a program in the background makes is there. */
async function until(isThere: () => boolean): Promise<void> {
  const endMs = performance.now() + waitMs;
  while (!isThere()) {
    if (performance.now() > endMs) throw new Error('a program in the background did not get ready');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

it.skipIf(!hasTools)(
  'every command of the document does what it says, from the server to the verified store',
  async () => {
    const port = String(await freePort());
    const shop = join(directory, 'shop');
    const blocks = [...text.matchAll(/^```sh( background)?\n(.*?)^```$/gms)].map(([, background, script = '']) => ({
      isBackground: background !== undefined,
      script: script.replaceAll('/tmp/ukeyd-shop', shop).replaceAll('8443', port),
    }));
    expect(blocks.length).toBeGreaterThan(8);
    let exports = '';
    let said = '';
    const ready = [join(shop, 'server', 'tickets.db'), join(shop, 'run', 'ukeyd-admin.sock')];
    for (const { isBackground, script } of blocks) {
      if (isBackground) {
        const child = shell(exports + script);
        children.push(child);
        let isTalking = false;
        child.stdout?.on('data', () => (isTalking = true));
        child.stderr?.on('data', () => (isTalking = true));
        const file = ready.shift() ?? '';
        await until(() => isTalking && existsSync(file));
      } else {
        said += await typed(exports + script);
      }
      exports += [...script.matchAll(/^export .*\n/gm)].join('');
    }
    expect(said).toContain('S7-0000001');
    expect([...said.matchAll(/^Verdict +holds$/gm)]).toHaveLength(3);
    const fingerprint = /^([0-9a-f]{64}) .*authority\.der$/m.exec(said)?.[1] ?? 'none';
    expect(JSON.parse(await readFile(join(shop, 'ticket.json'), 'utf8'))).toMatchObject({ authorityFingerprint: fingerprint });
  },
  120_000,
);

it("the document's table has each member of the charter's options, with its default", () => {
  const rows = new Map([...text.matchAll(/^\| `(\w+)` \|.*\| (.+) \|$/gm)].map(([, name = '', ending = '']) => [name, ending]));
  expect([...rows.keys()].sort()).toEqual(Object.keys(grantOptionsSchema.shape).sort());
  const example = JSON.parse(/charter\.json <<'END'\n(.*?)^END$/ms.exec(text)?.[1] ?? '') as Record<string, unknown>;
  const { issuer, currency, mode, limits, series } = grantOptionsSchema.parse(example);
  const least = grantOptionsSchema.parse({ issuer, currency, mode, limits, series });
  for (const [name, value] of Object.entries(least)) {
    expect(rows.get(name), name).toBe(Object.hasOwn({ issuer, currency, mode, limits, series }, name) ? 'needed' : ending(value));
  }
});

function ending(value: unknown): string {
  if (typeof value === 'number') return String(value);
  return `\`${JSON.stringify(value)}\``;
}
