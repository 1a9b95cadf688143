// The sandbox with real processes, a real module and real sockets: what is promised to those who develop tills against it.
import { existsSync, readFileSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Client } from '#ipc-schema/client.ts';
import { jsonOf, runProgram } from '#test/support/ctl.ts';
import { makeFolder, Sandbox } from '#test/support/sandbox.ts';
import { softHsmModule } from '#test/support/softhsm.ts';

const waitMs = 60_000;
const members = [
  ...['socket', 'adminSocket', 'terminal', 'secretFile', 'template', 'serverUrl'],
  ...['pinFile', 'daemonPid', 'serverPid', 'module', 'store'],
];
const python = new URL('../../docs/till.py', import.meta.url).pathname;
const ownerOnly = 0o600;

const sale = (key: string) => ({
  key,
  template: 'retail',
  lines: [{ description: 'Tea', quantity: '2', unitPrice: '3.75' }],
  brief: true,
});

const softHsm = softHsmModule();
if (softHsm === null) {
  if (process.env['CI']) throw new Error('SoftHSM2 is not installed, and CI is set');
  console.warn('SKIPPED: the sandbox with SoftHSM2: it is not installed (apt-get install softhsm2)');
}

const tokens = [
  { name: 'SoftHSM2', args: [] as string[], module: softHsm ?? '', skip: softHsm === null },
  { name: 'the embedded soft token', args: ['--module', 'none'], module: 'embedded soft token', skip: false },
];

for (const token of tokens) {
  describe.skipIf(token.skip)(`a sandbox with ${token.name}`, () => {
    const dir = makeFolder();
    let sandbox: Sandbox;
    let till: Client;

    beforeAll(async () => {
      sandbox = await Sandbox.start(dir, ...token.args);
      till = await sandbox.till();
    }, waitMs);

    afterAll(async () => {
      till?.close();
      await sandbox?.remove();
      rmSync(dir, { recursive: true, force: true });
    }, waitMs);

    test('says all that a program needs, in one line, and keeps its secrets to its owner', () => {
      const { facts } = sandbox;
      expect(Object.keys(facts)).toEqual(members);
      expect(facts).toMatchObject({
        terminal: 'till-1',
        template: 'retail',
        module: token.module,
        store: path.join(dir, 'token', 'flash.img'),
      });
      for (const file of [facts.secretFile, facts.pinFile]) expect(statSync(file).mode & 0o777).toBe(ownerOnly);
      expect(readFileSync(facts.pinFile, 'utf8')).toMatch(/^\d{8}\n$/);
    });

    test('the Python till of the docs issues an invoice, and the same one with the same key', async () => {
      const { socket, terminal, secretFile } = sandbox.facts;
      const issue = async () => {
        const run = await runProgram('python3', [python, socket, terminal, secretFile, 'python-1']);
        expect(run).toMatchObject({ status: 0, stderr: '' });
        return jsonOf(run);
      };
      const first = await issue();
      expect(first).toMatchObject({ total: '8.60', currency: 'GBP', repeated: false });
      expect(await issue()).toMatchObject({ number: first['number'], sequence: first['sequence'], repeated: true });
    });

    test('only what its module needs stands in its folder', () => {
      expect(existsSync(path.join(dir, 'softhsm2.conf'))).toBe(token.module === softHsm);
      expect(existsSync(path.join(dir, 'token', 'softhsm'))).toBe(token.module === softHsm);
    });

    test('the Python till says how it is used', async () => {
      const run = await runProgram('python3', [python]);
      expect(run.status).toBe(1);
      expect(run.stderr).toMatch(/^usage: [^\n]+\n$/);
    });

    test('the Python till is told apart by its secret', async () => {
      const { socket, terminal, pinFile } = sandbox.facts;
      const run = await runProgram('python3', [python, socket, terminal, pinFile]);
      expect(run.status).not.toBe(0);
      expect(run.stderr).toContain('unauthenticated');
    });

    test('with the line down invoices wait; with the line up they are acknowledged; store and server agree', async () => {
      expect(jsonOf(await sandbox.say('link', 'down'))).toMatchObject({ line: 'down', standing: 'issuing-offline' });
      for (const key of ['down-1', 'down-2', 'down-3']) expect(await till.issue(sale(key))).toMatchObject({ delivery: 'pending' });
      expect(await sandbox.until(({ standing }) => standing === 'issuing-offline')).toMatchObject({ pending: 3, line: 'down' });
      expect(jsonOf(await sandbox.say('link', 'up'))).toMatchObject({ line: 'up', standing: 'issuing-online' });
      await sandbox.until(({ pending }) => pending === 0);
      const verified = await sandbox.say('verify');
      expect(verified.status).toBe(0);
      expect(jsonOf(verified)).toMatchObject({
        holds: true,
        differences: [],
        store: { pending: 0, byKind: { invoice: 4 } },
        server: { byKind: { invoice: 4 } },
      });
    });

    test('a service that is killed comes back by itself, logged in, with everything', async () => {
      const { daemonPid } = await sandbox.status();
      const before = await till.issue(sale('kill-1'));
      process.kill(daemonPid, 'SIGKILL');
      expect(await till.issue(sale('kill-1'))).toMatchObject({ number: before.number, repeated: true });
      expect(await till.issue(sale('kill-2'))).toMatchObject({ repeated: false });
      const after = await sandbox.status();
      expect(after.daemonPid).not.toBe(daemonPid);
      expect(after.standing).toMatch(/^issuing/);
    });

    test('a pulled token refuses clearly, a plugged one goes on', async () => {
      expect(jsonOf(await sandbox.say('token', 'unplug'))).toMatchObject({ plugged: false, standing: 'no-token' });
      await expect(till.call('invoice.issue', sale('plug-1'))).rejects.toMatchObject({ code: 'no-token' });
      expect(jsonOf(await sandbox.say('token', 'plug'))).toMatchObject({ plugged: true, standing: expect.stringMatching(/^issuing/) });
      expect(await till.issue(sale('plug-1'))).toMatchObject({ repeated: false });
    });

    test('a second one in the same folder is refused, and so are words that it does not know', async () => {
      const second = await sandbox.say();
      expect(second.status).toBe(2);
      expect((await sandbox.say('link', 'sideways')).status).toBe(2);
      expect((await sandbox.say('explode')).status).toBe(2);
    });

    test('it goes on with the same ledger when it is started again', async () => {
      const before = await till.issue(sale('again-1'));
      till.close();
      expect(await sandbox.stop()).toBe(0);
      expect((await sandbox.say('status')).status).toBe(4);
      const other = token.module === 'embedded soft token' ? '/usr/lib/other.so' : 'none';
      await expect(Sandbox.start(dir, '--module', other)).rejects.toThrow('another module');
      sandbox = await Sandbox.start(dir);
      till = await sandbox.till();
      expect(await till.issue(sale('again-1'))).toMatchObject({ number: before.number, repeated: true });
      expect(jsonOf(await sandbox.say('verify'))).toMatchObject({ holds: true });
    });

    test('when it has stopped nothing of it runs any more', async () => {
      const { daemonPid, serverPid } = await sandbox.status();
      expect((await sandbox.say('stop')).status).toBe(0);
      expect(await sandbox.ended()).toBe(0);
      for (const pid of [daemonPid, serverPid]) expect(() => process.kill(pid, 0)).toThrow();
      expect(existsSync(path.join(dir, 'run', 'sandbox.sock'))).toBe(false);
    });
  });
}

test('a folder with other things in it is refused', async () => {
  await expect(Sandbox.start(new URL('..', import.meta.url).pathname)).rejects.toThrow('other things');
});
