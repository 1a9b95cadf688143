// Where a sandbox keeps its things, and what it remembers.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { knownMemory } from '#ctl/world/claim.ts';
import {
  keepPin,
  layoutOf,
  type Memory,
  makeFolders,
  plugToken,
  pullToken,
  readMemory,
  readPinFile,
  storeOf,
  writeMemory,
} from '#ctl/world/layout.ts';
import { chooseLinePort, openLine } from '#ctl/world/line.ts';
import { refusal } from '#test/support/refusal.ts';

const socketPathMaxBytes = 103;
let dir: string;

beforeEach(() => {
  dir = mkdtempSync(path.join(tmpdir(), 'ukeyd-layout-'));
});

afterEach(() => rmSync(dir, { recursive: true, force: true }));

test('everything is under the folder', () => {
  const { memory, ...layout } = layoutOf(dir);
  for (const file of Object.values(layout)) expect(file.startsWith(dir), file).toBe(true);
  expect(path.dirname(memory)).toBe(dir);
});

test('sockets of a folder with a long path stand where the kernel can reach them, apart from those of any other', () => {
  const long = (letter: string) => layoutOf(path.join(dir, letter.repeat(200)));
  for (const { socket, adminSocket, controlSocket } of [long('a'), long('b')]) {
    for (const file of [socket, adminSocket, controlSocket]) expect(Buffer.byteLength(file)).toBeLessThanOrEqual(socketPathMaxBytes);
  }
  expect(long('a').socket).not.toBe(long('b').socket);
  expect(long('a').socket).toBe(long('a').socket);
  expect(long('a').flash.startsWith(dir)).toBe(true);
});

test('folders and PINs are their owner’s alone; a PIN that is there is kept', () => {
  const layout = layoutOf(path.join(dir, 'world'));
  makeFolders(layout, null);
  for (const folder of [layout.dir, layout.token, path.dirname(layout.socket)]) expect(statSync(folder).mode & 0o777).toBe(0o700);
  keepPin(layout.pinFile);
  const pin = readPinFile(layout.pinFile);
  expect(pin).toMatch(/^\d{8}$/);
  expect(statSync(layout.pinFile).mode & 0o777).toBe(0o600);
  keepPin(layout.pinFile);
  expect(readPinFile(layout.pinFile)).toBe(pin);
});

test('a token is pulled and plugged as a whole, and only once each', () => {
  const layout = layoutOf(dir);
  makeFolders(layout, null);
  writeFileSync(layout.flash, 'ledger');
  expect([pullToken(layout), pullToken(layout)]).toEqual([true, false]);
  expect(existsSync(layout.token)).toBe(false);
  // A start while it is out must not put an empty one in its place.
  makeFolders(layout, null);
  expect(existsSync(layout.token)).toBe(false);
  expect([plugToken(layout), plugToken(layout)]).toEqual([true, false]);
  expect(readFileSync(layout.flash, 'utf8')).toBe('ledger');
});

test('what was written is remembered; a file of another form is refused, not overwritten', () => {
  const layout = layoutOf(dir);
  const memory: Memory = {
    format: 'ukey-sandbox/1',
    module: null,
    store: null,
    linePort: 20_001,
    serverPort: 20_002,
    provisioned: true,
  };
  expect(readMemory(layout)).toBeNull();
  writeMemory(layout, memory);
  expect(readMemory(layout)).toEqual(memory);
  for (const text of ['', '{}', JSON.stringify({ ...memory, linePort: 0 }), JSON.stringify({ ...memory, more: 1 })]) {
    writeFileSync(layout.memory, text);
    expect(refusal(() => readMemory(layout)).field).toBe('--dir');
  }
});

test('a name that is taken by a file is no folder for sockets', () => {
  const layout = layoutOf(dir);
  mkdirSync(layout.state);
  writeFileSync(path.dirname(layout.socket), '');
  expect(() => makeFolders(layout, null)).toThrow();
});

test('a copied world has its own FLASH; only one that was named stays where it is', () => {
  const first = layoutOf(path.join(dir, 'first'));
  const second = layoutOf(path.join(dir, 'second'));
  const memory: Memory = { format: 'ukey-sandbox/1', module: null, store: null, linePort: 20_001, serverPort: 20_002, provisioned: true };
  makeFolders(first, null);
  // As it was once written.
  writeFileSync(first.memory, JSON.stringify({ ...memory, store: first.flash }));
  expect(readMemory(first)).toEqual(memory);
  expect(storeOf(second, memory)).toBe(second.flash);
  expect(storeOf(second, { ...memory, store: '/dev/sdz' })).toBe('/dev/sdz');
});

test('a server port that is taken is replaced, and the line’s is kept', async () => {
  const taken = await openLine(await chooseLinePort(Math.random));
  try {
    const memory: Memory = {
      format: 'ukey-sandbox/1',
      module: null,
      store: null,
      linePort: 19_999,
      serverPort: taken.port,
      provisioned: true,
    };
    const known = await knownMemory(layoutOf(dir), memory, {});
    expect(known.linePort).toBe(memory.linePort);
    expect(known.serverPort).not.toBe(taken.port);
    expect(await knownMemory(layoutOf(dir), known, {})).toEqual(known);
  } finally {
    await taken.close();
  }
});

test('only a world with a module gets what SoftHSM2 needs', () => {
  const layout = layoutOf(dir);
  makeFolders(layout, null);
  expect(existsSync(layout.softhsmTokens)).toBe(false);
  makeFolders(layout, '/usr/lib/module.so');
  expect(existsSync(layout.softhsmTokens)).toBe(true);
});
