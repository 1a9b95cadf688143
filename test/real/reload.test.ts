// The service as a process: SIGHUP takes up what may change while it runs, and nothing of a configuration that is not right.
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type KillRig, openKillRig } from '#test/crash/kill-rig.ts';

let rig: KillRig;
beforeAll(async () => {
  rig = await openKillRig(null, 32);
}, 60_000);
afterAll(() => rig?.close());

interface Line {
  readonly level: string;
  readonly changed?: string;
  readonly keys?: string;
}

const lines = (): Line[] =>
  readFileSync(path.join(rig.directory, 'ukeyd.log'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);

/** Writes the file, signals, and gives the lines that came of it, once one of them is of this level. */
async function reload(text: string, level: string): Promise<Line[]> {
  const before = lines().length;
  writeFileSync(path.join(rig.directory, 'ukeyd.toml'), text);
  process.kill(rig.pid(), 'SIGHUP');
  const news = (): Line[] => lines().slice(before);
  await expect.poll(() => news().some((line) => line.level === level), { timeout: 10_000 }).toBe(true);
  return news();
}

const nextProbe = async (): Promise<string | null> => {
  const admin = await rig.admin();
  const { nextProbe: at } = await admin.call('backlog.status', {});
  admin.close();
  return at;
};

test('a reload changes the timetable, names what waits, and refuses what is wrong as a whole', { timeout: 60_000 }, async () => {
  const text = readFileSync(path.join(rig.directory, 'ukeyd.toml'), 'utf8');
  const pid = rig.pid();
  const probe = (expression: string): string => text.replace(/^probe = .*$/m, `probe = "${expression}"`);
  expect(probe('x')).not.toBe(text);

  const taken = await reload(probe('0 0 0 29 2 *').replace('[token]', '[token]\nlabel = "other"'), 'warn');
  expect(taken.find((line) => line.changed !== undefined)?.changed).toBe('upload.probe');
  expect(taken.find((line) => line.level === 'warn')?.keys).toBe('token.label');
  expect(await nextProbe()).toMatch(/-02-29T/);

  await reload(`${probe('0 0 0 1 3 *')}\n[mirror]\nmode = "of"\n`, 'error');
  expect(await nextProbe()).toMatch(/-02-29T/);

  const quiet = await reload(`${probe('0 0 0 1 3 *')}\n`, 'info');
  expect(quiet.filter((line) => line.level === 'warn')).toEqual([]);
  expect(await nextProbe()).toMatch(/-03-01T/);
  expect(rig.pid()).toBe(pid);
  process.kill(pid, 0); // throws where it is gone
});
