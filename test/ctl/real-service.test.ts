import {
  closeSync,
  copyFileSync,
  fsyncSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { errorTable } from '#ipc-schema/errors.ts';
import { ctl, errorOf, jsonOf, type Run } from '#test/support/ctl.ts';
import { openRig, type Rig, rigPin, sale } from '#test/support/rig.ts';

let rig: Rig;
let directory: string;
let pinFile: string;
let till: string[];
beforeAll(async () => {
  rig = await openRig();
  directory = mkdtempSync(join(tmpdir(), 'ukey-ctl-'));
  pinFile = join(directory, 'pin');
  writeFileSync(pinFile, rigPin, { mode: 0o600 });
  const secretFile = join(directory, 'till-9.secret');
  const enrolled = await ctl(['terminal', 'enrol', 'till-9', '--secret-file', secretFile, '--socket', rig.config.admin_socket]);
  expect(enrolled).toMatchObject({ status: 0, stderr: '' });
  till = ['--terminal', 'till-9', '--secret-file', secretFile, '--socket', rig.config.socket];
});
afterAll(async () => {
  await rig.close();
  rmSync(directory, { recursive: true, force: true });
});

const admin = (...args: string[]): Promise<Run> => ctl([...args, '--json', '--socket', rig.config.admin_socket]);
const verifyStore = (flash: string, ...more: string[]): Promise<Run> =>
  ctl(['verify', '--json', '--store', flash, '--soft-token', rig.config.tokens[0].soft_token ?? '', '--pin-file', pinFile, ...more]);

/** Until everything is acknowledged: from then on the service writes nothing by itself. */
async function settled(): Promise<void> {
  const endMs = performance.now() + 10_000;
  while ((await rig.admin.call('backlog.flush', {})).pending > 0 && performance.now() < endMs);
  expect(await rig.admin.call('backlog.status', {})).toMatchObject({ pending: 0 });
}

describe('with a real service', () => {
  it('an invoice is issued, got with its evidence, and verified with public keys alone', async () => {
    const issued = await ctl(['issue', '-', '--json', ...till], { stdin: JSON.stringify(sale('ctl-1')) });
    expect(issued).toMatchObject({ status: 0, stderr: '' });
    const { number, total } = jsonOf(issued);
    const again = await ctl(['issue', '-', '--json', ...till], { stdin: JSON.stringify(sale('ctl-1')) });
    expect(jsonOf(again)).toMatchObject({ number, repeated: true });
    const inWords = await ctl(['issue', '-', ...till], { stdin: JSON.stringify(sale('ctl-1')) });
    expect(inWords.stdout).toContain('earlier request');
    expect((await ctl(['get', '--number', String(number), '--socket', rig.config.admin_socket])).stdout).not.toContain('earlier request');
    const file = join(directory, 'evidence.json');
    expect((await admin('get', '--number', String(number), '--evidence', file)).status).toBe(0);
    const verified = await ctl(['verify', file, '--json', '--authority', rig.server.authorityFingerprint]);
    expect(jsonOf(verified)).toMatchObject({ holds: true, number, total, document: 'verified', trusted: true });
  });

  it('status, backlog and the list of terminals are told', async () => {
    expect(jsonOf(await admin('status'))).toMatchObject({ token: { label: 'rig' }, issuer: { name: 'Gifts Ltd' } });
    expect((await admin('backlog', '--flush')).status).toBe(0);
    expect(jsonOf(await admin('backlog'))).toMatchObject({ pending: 0 });
    expect(jsonOf(await admin('terminal', 'list'))['terminals']).toContainEqual({ terminal: 'till-9', role: 'till' });
  });

  it('a wrong PIN shows what is left, and the right one unlocks', async () => {
    expect(jsonOf(await admin('logout'))).toMatchObject({ standing: 'locked' });
    const refused = await ctl(['issue', '-', '--json', ...till], { stdin: JSON.stringify(sale('ctl-2')) });
    expect(errorOf(refused)).toMatchObject({ code: 'locked', key: 'ctl-2' });
    const wrong = await ctl(['login', '--json', '--socket', rig.config.admin_socket], { stdin: '000000' });
    expect(wrong.status).toBe(3);
    expect(errorOf(wrong)).toMatchObject({ code: 'pin-incorrect', triesLeft: expect.any(Number) as number });
    const right = await ctl(['login', '--json', '--pin-file', pinFile, '--socket', rig.config.admin_socket]);
    expect(right.status).toBe(0);
    expect(String(jsonOf(right)['standing'])).toMatch(/^issuing-/);
  });

  it('the whole store is verified beside the service, and nothing of it is changed', async () => {
    const { flash } = rig.config.tokens[0];
    await rig.till.issue(sale('rig-1'));
    await settled();
    const before = readFileSync(flash);
    const run = await verifyStore(flash, '--authority', rig.server.authorityFingerprint);
    expect(run).toMatchObject({ status: 0, stderr: '' });
    expect(jsonOf(run)).toMatchObject({ holds: true, store: flash, byKind: { charter: 1, invoice: 2 }, pending: 0, findingsCount: 0 });
    expect(readFileSync(flash).equals(before)).toBe(true);
    const { head } = jsonOf(run) as { head: { batchIndex: number } };
    const status = jsonOf(await admin('status')) as { store: { batches: number } };
    expect(head.batchIndex).toBe(status.store.batches);
  });

  it("the store of a service is found by the service's configuration", async () => {
    const { socket, admin_socket, state, tokens } = rig.config;
    const [token] = tokens;
    const file = join(directory, 'ukeyd.toml');
    const outer = { state, socket, admin_socket };
    const inner = { soft_token: token.soft_token, flash: token.flash };
    const lines = (values: object): string[] => Object.entries(values).map(([name, value]) => `${name} = ${JSON.stringify(value)}`);
    writeFileSync(file, [...lines(outer), '[token]', ...lines(inner)].join('\n'));
    const run = await ctl(['verify', '--json', '--config', file, '--pin-file', pinFile]);
    expect(jsonOf(run)).toMatchObject({ holds: true, store: token.flash });
    writeFileSync(file, 'nonsense = 1');
    const bad = await ctl(['verify', '--json', '--config', file, '--pin-file', pinFile]);
    expect(bad.status).toBe(2);
  });

  it('the whole store is verified while a till issues', async () => {
    let isDone = false;
    const issuing = (async () => {
      for (let at = 0; !isDone; at++) await rig.till.issue(sale(`busy-${at}`));
    })();
    const runs = [await verifyStore(rig.config.tokens[0].flash), await verifyStore(rig.config.tokens[0].flash)];
    isDone = true;
    await issuing;
    const [first, second] = runs.map((run) => jsonOf(run) as { holds: boolean; entries: number });
    expect([first?.holds, second?.holds]).toEqual([true, true]);
    expect(second?.entries).toBeGreaterThan(first?.entries ?? 0);
    await settled();
  });

  it('a store is refused without its PIN, and without its token', async () => {
    const { flash } = rig.config.tokens[0];
    const wrongPin = join(directory, 'wrong');
    writeFileSync(wrongPin, '000000', { mode: 0o600 });
    const wrong = await verifyStore(flash, '--pin-file', wrongPin);
    expect(wrong.status).toBe(3);
    expect(errorOf(wrong)).toMatchObject({ code: 'pin-incorrect' });
    const none = await verifyStore(flash, '--soft-token', join(directory, 'absent'));
    expect(none.status).toBe(3);
    expect(errorOf(none)).toMatchObject({ code: 'no-token' });
    const other = await verifyStore(flash, '--authority', 'ab'.repeat(32));
    expect(other.status).toBe(5);
  });

  it('a place that is no store is a wrong command line, not a halted ledger', async () => {
    const [empty, text] = [join(directory, 'empty.img'), join(directory, 'text.img')];
    writeFileSync(empty, '');
    writeFileSync(text, 'hello');
    for (const place of ['/dev/null', directory, empty, join(directory, 'absent.img')]) {
      const run = await verifyStore(place);
      expect(run.status, place).toBe(2);
      expect(errorOf(run)).toMatchObject({ code: 'invalid-request', field: '--store' });
      expect(run.stderr).toContain(place);
    }
    const run = await verifyStore(text);
    expect([3, 5]).toContain(run.status);
    expect(errorOf(run)['action']).not.toBe(errorTable.halted.action);
  });

  it('a damaged store does not verify', async () => {
    const copy = join(directory, 'copy.img');
    copyFileSync(rig.config.tokens[0].flash, copy);
    expect((await verifyStore(copy)).status).toBe(0);
    expect(spoilWhereWritten(copy)).toBeGreaterThan(0);
    const run = await verifyStore(copy);
    expect(run.status).toBe(5);
    expect(errorOf(run)).toMatchObject({ exit: 'unverified' });
  });
});

/** Overwrites the middle of each page that holds anything, past the superblocks; gives how many. */
function spoilWhereWritten(file: string): number {
  const pageBytes = 4_096;
  const image = readFileSync(file);
  const fd = openSync(file, 'r+');
  let spoilt = 0;
  for (let at = 1024 * 1024 + 16 * pageBytes; at < statSync(file).size - pageBytes; at += pageBytes) {
    const page = image.subarray(at, at + pageBytes);
    if (page.every((byte) => byte === 0)) continue;
    writeSync(fd, Buffer.from([(page[100] ?? 0) ^ 0xff]), 0, 1, at + 100);
    spoilt++;
  }
  fsyncSync(fd);
  closeSync(fd);
  return spoilt;
}
