// Both programs as processes whose log cannot be written: they go on.
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import https from 'node:https';
import os from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { connect } from '#ipc-schema/client.ts';
import { paths } from '#ipc-schema/upstream.ts';
import { type LogEnd, openKillRig } from '#test/crash/kill-rig.ts';
import { sale } from '#test/support/rig.ts';

const ends: LogEnd[] = existsSync('/dev/full') ? ['full', 'closed'] : ['closed'];
const waitMs = 60_000;

test.each(ends)(
  'a service whose log is %s is provisioned, logs in and issues',
  async (end) => {
    const rig = await openKillRig(null, 32, end);
    try {
      const pid = rig.pid();
      const till = await connect({ socketPath: rig.tillSocket, client: 'log/1', terminal: 'till-1', secret: rig.secret, waitMs: 20_000 });
      for (let at = 0; at < 5; at += 1) await till.issue(sale(`k${at}`));
      expect((await till.issue(sale('k4'))).repeated).toBe(true);
      till.close();
      expect(rig.pid()).toBe(pid);
      process.kill(pid, 0); // throws where it is gone
    } finally {
      await rig.close();
    }
  },
  waitMs,
);

test.each(ends)(
  'a ticket server whose log is %s goes on serving',
  async (end) => {
    const directory = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-log-'));
    const full = end === 'full' ? openSync('/dev/full', 'w') : null;
    const main = path.resolve(import.meta.dirname, '../../server/main.ts');
    const child = spawn(process.execPath, [main, '--dir', directory], { stdio: ['ignore', 'pipe', full ?? 'pipe'] });
    try {
      const { url } = await readyOf(child);
      child.stdout?.destroy();
      child.stderr?.destroy();
      for (let at = 0; at < 5; at += 1) expect(await statusOf(`${url}${paths.enrol}`)).toBeGreaterThanOrEqual(400);
      expect([child.exitCode, child.signalCode]).toEqual([null, null]);
      child.kill('SIGTERM');
      expect(await new Promise((resolve) => child.once('exit', resolve))).toBe(0);
    } finally {
      child.kill('SIGKILL');
      if (full !== null) closeSync(full);
      rmSync(directory, { recursive: true, force: true });
    }
  },
  waitMs,
);

async function readyOf(child: ChildProcess): Promise<{ readonly url: string }> {
  return await new Promise((resolve, reject) => {
    let text = '';
    child.stdout?.on('data', (chunk: Buffer) => {
      text += chunk.toString('utf8');
      if (text.includes('\n')) resolve(JSON.parse(text) as { url: string });
    });
    child.once('exit', (code) => reject(new Error(`ended with ${code} before it was ready`)));
  });
}

/** Of a request that the server refuses, and logs. */
async function statusOf(url: string): Promise<number> {
  return await new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/cose', 'content-length': '3' };
    const request = https.request(url, { method: 'POST', headers, rejectUnauthorized: false, agent: false }, (response) => {
      response.resume();
      response.once('end', () => resolve(response.statusCode ?? 0));
    });
    request.once('error', reject);
    request.end('abc');
  });
}
