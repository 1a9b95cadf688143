import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { compose } from '#daemon/compose.ts';
import { parseConfig } from '#ground/config.ts';
import { writeDurably } from '#ground/durable-file.ts';
import { silentLog } from '#ground/log.ts';
import { stateFault, stateFolderFault } from '#ground/state-fault.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

const system = (code: string): Error => Object.assign(new Error(code), { code });

test.each(['ENOSPC', 'EDQUOT', 'EROFS', 'EACCES', 'EPERM'])(
  'a state file that %s keeps from being written is halted, and what to do names it',
  (code) => {
    const fault = stateFault(system(code), '/state/terminals.json');
    expect(fault).toMatchObject({ code: 'halted', action: expect.stringContaining('/state/terminals.json') });
  },
);

test('what else befalls a state file stays what it is', () => {
  for (const thrown of [system('EIO'), new UkeyError('internal', 'x')]) expect(stateFault(thrown, '/f')).toBe(thrown);
  expect(() => writeDurably('/nowhere/at-all', '')).toThrow(expect.objectContaining({ code: 'ENOENT' }));
});

test('a state folder that cannot be used is a fault of the configuration; one that another service has is not', () => {
  const locked = new UkeyError('internal', 'the lock file cannot be opened', { cause: system('EACCES') });
  for (const thrown of [system('EACCES'), system('ENOTDIR'), system('ENOSPC'), locked])
    expect(stateFolderFault(thrown, '/state')).toMatchObject({ code: 'invalid-request', field: 'state' });
  const busy = new UkeyError('busy', 'another process holds it');
  expect(stateFolderFault(busy, '/state')).toBe(busy);
});

test('a service is refused a state folder that is a file', async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'ukeyd-state-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  writeFileSync(path.join(folder, 'state'), '');
  const config = parseConfig('state = "state"\nsocket = "a"\nadmin_socket = "b"\n[token]\nsoft_token = "key.json"\nflash = "f"\n', folder);
  await expect(compose(config, silentLog)).rejects.toMatchObject({ code: 'invalid-request', field: 'state' });
});
