// Shows: an older FLASH goes on only after it was brought up to what KEY and ticket server have seen; damage is found, and mended from the server, while tills go on.
import {
  closeSync,
  copyFileSync,
  cpSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import path from 'node:path';
import sqlite3 from 'sqlite3';
import { afterEach, describe, expect, test } from 'vitest';
import type { Overrides } from '#daemon/compose.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { decodeAdminEvent } from '#ipc-schema/admin.ts';
import type { Client } from '#ipc-schema/client.ts';
import type { Result } from '#ipc-schema/methods.ts';
import { isBlank, pageBytes } from '#store/format.ts';
import { openRig, type Rig, type RigOptions, rigPin, sale } from '#test/support/rig.ts';
import { WornDevice } from '#test/support/worn-device.ts';

const longMs = 60_000;
let rig: Rig;
let till: Client;
afterEach(async () => {
  till.close();
  await rig.close();
});

const open = async (options: RigOptions = {}): Promise<void> => {
  rig = await openRig({ flashMib: 16, ...options });
  till = rig.till;
};
const flash = (): string => path.join(rig.directory, 'token/flash.img');
const file = (name: string): string => path.join(rig.directory, name);
const issue = async (from: number, to: number): Promise<string[]> => {
  const numbers: string[] = [];
  for (let at = from; at <= to; at += 1) numbers.push((await till.call('invoice.issue', sale(`k${at}`))).number);
  return numbers;
};
const upload = async (): Promise<void> => {
  await expect.poll(async () => (await rig.admin.call('backlog.flush', {})).pending, { timeout: 10_000 }).toBe(0);
};
const resume = (): Promise<Result<'store.resume'>> => rig.admin.call('store.resume', { pin: rigPin }, { timeoutMs: longMs });
const login = (): Promise<Result<'session.login'>> => rig.admin.call('session.login', { pin: rigPin });
const seen = async (): Promise<void> => {
  await expect
    .poll(async () => (await rig.admin.call('service.status', {})).reason, { timeout: 10_000 })
    .not.toBe('the token is being opened');
};

/** The FLASH as it was; nobody is logged in. */
async function putBack(old: string): Promise<void> {
  await rig.running.close();
  copyFileSync(old, flash());
  await rig.startLocked();
  await seen();
}

/** A copy of the FLASH after some sales, and more sales behind it. */
async function older(): Promise<string> {
  await issue(1, 3);
  await upload();
  const old = file('old.img');
  await rig.running.close();
  copyFileSync(flash(), old);
  await rig.startLocked();
  await seen();
  await login();
  till = await rig.connectTill();
  await issue(4, 9);
  await upload();
  return old;
}

const indexFile = (): string => {
  const name = readdirSync(file('state')).find((each) => /^index-.*\.sqlite$/.test(each));
  return path.join(file('state'), name ?? 'there is none');
};

/** As another program may: nobody else reads it meanwhile. */
async function lockIndex(): Promise<sqlite3.Database> {
  const other = await new Promise<sqlite3.Database>((resolve, reject) => {
    const opened = new sqlite3.Database(indexFile(), (error) => (error === null ? resolve(opened) : reject(error)));
  });
  const lock = 'PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; DELETE FROM entry WHERE sequence = -1';
  await new Promise<void>((resolve, reject) => other.exec(lock, (error) => (error === null ? resolve() : reject(error))));
  return other;
}

/** How often the ledger says that it was healed. */
async function healedEntries(): Promise<unknown[]> {
  await upload();
  const { tokenId } = await rig.admin.call('service.identity', {});
  const url = `${rig.server.url}/v1/tokens/${tokenId}/entries?from=1&limit=100`;
  const { default: https } = await import('node:https');
  const text = await new Promise<string>((resolve, reject) => {
    https
      .get(url, { rejectUnauthorized: false }, (response) => {
        let said = '';
        response.setEncoding('utf8').on('data', (part: string) => (said += part));
        response.on('end', () => resolve(said));
      })
      .on('error', reject);
  });
  const { entries } = JSON.parse(text) as { entries: { kind: string; body: string }[] };
  return entries.filter(({ kind }) => kind === 'admin').map(({ body }) => decodeAdminEvent(Buffer.from(body, 'base64')));
}

describe('a FLASH that is older than the KEY has seen', () => {
  test('issues nothing, is brought up to date by store.resume, and tills go on by themselves', { timeout: longMs }, async () => {
    await open();
    await putBack(await older());
    await expect(login()).rejects.toMatchObject({ code: 'halted' });
    await expect(rig.connectTill().then((till) => till.call('invoice.issue', sale('x')))).rejects.toMatchObject({ code: 'halted' });
    const healed = await resume();
    expect(healed.healedToBatch).toBe(healed.serverBatch);
    expect(healed.anchoredBatch).toBeGreaterThan(healed.foundBatch);
    till = await rig.connectTill();
    expect(await issue(9, 10)).toEqual(['A-00000009', 'A-00000010']);
    expect((await till.call('invoice.issue', sale('k5'))).repeated).toBe(true);
    const { foundBatch, anchoredBatch, healedToBatch } = healed;
    expect(await healedEntries()).toEqual([{ event: 'rollback-healed', foundBatch, anchoredBatch, healedToBatch }]);
    expect(existsSync(file('state/pending-resume.json'))).toBe(false);
    await rig.restart();
    till = rig.till;
    expect(await issue(11, 11)).toEqual(['A-00000011']);
  });

  test('stays halted while the server is out of reach or lacks what the KEY has seen; nothing is written', {
    timeout: longMs,
  }, async () => {
    await open();
    const old = await older();
    await rig.stopServer();
    await issue(10, 12);
    await putBack(old);
    const before = readFileSync(flash());
    await expect(resume()).rejects.toMatchObject({ code: 'offline' });
    await rig.startServer();
    await expect(resume()).rejects.toMatchObject({ code: 'halted' });
    expect(readFileSync(flash()).equals(before)).toBe(true);
    expect(existsSync(file('state/pending-resume.json'))).toBe(false);
    await expect(login()).rejects.toMatchObject({ code: 'halted' });
  });

  test('with its index beyond what KEY and server know is told as a loss', { timeout: longMs }, async () => {
    await open();
    const old = await older();
    await rig.stopServer();
    await issue(10, 12);
    const key = readFileSync(path.join(rig.directory, 'token/key.json'));
    await rig.running.close();
    copyFileSync(old, flash());
    await rig.startServer();
    await rig.startLocked();
    await seen();
    expect(key.length).toBeGreaterThan(0);
    await expect(resume()).rejects.toMatchObject({ code: 'halted' });
  });

  test('waits for an index that cannot be asked: whether a loss is one it alone may know', { timeout: longMs }, async () => {
    await open();
    const old = await older();
    await putBack(old);
    const before = readFileSync(flash());
    const other = await lockIndex();
    await expect(resume()).rejects.toMatchObject({ code: 'busy', action: expect.stringContaining(indexFile()) });
    expect(readFileSync(flash()).equals(before)).toBe(true);
    await new Promise((resolve) => other.close(resolve));
    const healed = await resume();
    expect(healed.healedToBatch).toBe(healed.serverBatch);
  });

  test('a resumption that was cut short is refused as a ledger, goes on, and is written down once', { timeout: longMs }, async () => {
    await open();
    await putBack(await older());
    const { foundBatch, anchoredBatch, healedToBatch } = await resume();
    const plan = {
      format: 'ukey-resume/1',
      tokenId: (await rig.admin.call('service.identity', {})).tokenId,
      foundBatch,
      anchoredBatch,
      healedToBatch,
      headSealHash: '00'.repeat(32),
    };
    // As if it had died in the middle: what should be there is not.
    writeFileSync(file('state/pending-resume.json'), JSON.stringify({ ...plan, healedToBatch: healedToBatch + 50 }));
    await rig.running.close();
    await rig.startLocked();
    await seen();
    await expect(login()).rejects.toMatchObject({ code: 'halted' });
    await expect(rig.connectTill().then((till) => till.call('invoice.issue', sale('y')))).rejects.toMatchObject({ code: 'halted' });
  });

  test('a crash behind the admin entry does not write it again', { timeout: longMs }, async () => {
    await open();
    await putBack(await older());
    const { foundBatch, anchoredBatch, healedToBatch } = await resume();
    const { tokenId } = await rig.admin.call('service.identity', {});
    const { sealHash } = await import('#ipc-schema/batch.ts').then(async ({ decodeBatch, sealHashOf }) => {
      const { batches } = await rig.admin.call('ledger.read', { fromBatch: healedToBatch });
      return { sealHash: Buffer.from(sealHashOf(decodeBatch(Buffer.from(batches[0]?.bytes ?? '', 'base64')).sealBytes)).toString('hex') };
    });
    const plan = { format: 'ukey-resume/1', tokenId, foundBatch, anchoredBatch, healedToBatch, headSealHash: sealHash };
    await rig.running.close();
    writeFileSync(file('state/pending-resume.json'), JSON.stringify(plan));
    await rig.startLocked();
    await seen();
    await login();
    expect(existsSync(file('state/pending-resume.json'))).toBe(false);
    expect(await healedEntries()).toHaveLength(1);
  });
});

test('a FLASH and a KEY that are both older than what this machine has issued are refused, and the right ones go on by themselves', {
  timeout: longMs,
}, async () => {
  await open();
  await upload();
  await rig.stopServer();
  await issue(1, 2);
  const token = file('token');
  await rig.running.close();
  cpSync(token, file('older'), { recursive: true });
  await rig.startLocked();
  await seen();
  await login();
  till = await rig.connectTill();
  await issue(3, 4);
  await rig.running.close();
  cpSync(token, file('newest'), { recursive: true });
  const start = async (from: string): Promise<void> => {
    await rig.running.close();
    cpSync(file(from), token, { recursive: true });
    await rig.startLocked();
    await seen();
    await login().catch(() => undefined);
  };
  for (const _ of ['once', 'again']) {
    await start('older');
    await expect.poll(async () => (await rig.admin.call('service.status', {})).standing).toBe('halted');
    expect((await rig.admin.call('service.status', {})).reason).toMatch(/^rollback: this machine's index has batch \d+/);
    till = await rig.connectTill();
    await expect(till.call('invoice.issue', sale('k5'))).rejects.toMatchObject({ code: 'halted' });
  }
  await rig.startServer();
  await expect(resume()).rejects.toMatchObject({ code: 'halted' }); // the server lacks them: that would be a loss
  await start('newest');
  till = await rig.connectTill();
  expect(await issue(4, 5)).toEqual(['A-00000004', 'A-00000005']);
});

test('a FLASH and a KEY that are both older than the server are healed as well', { timeout: longMs }, async () => {
  await open();
  await upload();
  await rig.stopServer();
  await issue(1, 2);
  await rig.running.close();
  const key = path.join(rig.directory, 'token/key.json');
  copyFileSync(flash(), file('old.img'));
  copyFileSync(key, file('old.json'));
  await rig.startServer();
  await rig.startLocked();
  await seen();
  await login();
  till = await rig.connectTill();
  await issue(3, 5);
  await upload();
  await rig.running.close();
  copyFileSync(file('old.img'), flash());
  copyFileSync(file('old.json'), key);
  for (const name of readdirSync(file('state'))) if (name.startsWith('index-')) rmSync(path.join(file('state'), name)); // another machine
  await rig.startLocked();
  await seen();
  await login().catch(() => undefined);
  const standing = async (): Promise<string> => {
    await rig.admin.call('backlog.flush', {}).catch(() => undefined);
    return (await rig.admin.call('service.status', {})).standing;
  };
  await expect.poll(standing, { timeout: 10_000 }).toBe('halted');
  const healed = await resume();
  expect(healed.healedToBatch).toBe(healed.serverBatch);
  till = await rig.connectTill();
  expect(await issue(6, 6)).toEqual(['A-00000006']);
  expect(await healedEntries()).toHaveLength(1);
});

describe('store.check', () => {
  const walk = async (heal: boolean): Promise<{ mended: number[]; missing: number[] }> => {
    const all = { mended: [] as number[], missing: [] as number[] };
    for (let fromRun: number | null = 1; fromRun !== null; ) {
      const slice: Result<'store.check'> = await rig.admin.call('store.check', { fromRun, heal });
      all.mended.push(...slice.mended);
      all.missing.push(...slice.missing);
      fromRun = slice.nextRun;
    }
    return all;
  };
  /** Spoils the first frame of the log. */
  const spoil = (): void => {
    const image = openSync(flash(), 'r+');
    const head = Buffer.alloc(4);
    const at = 4 * 1024 * 1024 + 4096;
    readSync(image, head, 0, 4, at);
    expect(head.toString('ascii')).toBe('UKFR');
    writeSync(image, Buffer.alloc(512, 0xee), 0, 512, at + 512);
    closeSync(image);
  };

  test('finds damage, and puts it back from the ticket server byte for byte, while tills go on', { timeout: longMs }, async () => {
    await open();
    await issue(1, 5);
    expect(await walk(true)).toEqual({ mended: [], missing: [] });
    await upload();
    const before = readFileSync(flash()).subarray(4 * 1024 * 1024, 4 * 1024 * 1024 + 8_192);
    spoil();
    expect(await walk(false)).toEqual({ mended: [], missing: [1] });
    await rig.stopServer();
    expect(await walk(true)).toEqual({ mended: [], missing: [1] });
    await rig.startServer();
    const [mended, numbers] = await Promise.all([walk(true), issue(6, 8)]);
    expect(mended).toEqual({ mended: [1], missing: [] });
    expect(numbers).toEqual(['A-00000006', 'A-00000007', 'A-00000008']);
    expect(
      readFileSync(flash())
        .subarray(4 * 1024 * 1024, 4 * 1024 * 1024 + 8_192)
        .equals(before),
    ).toBe(true);
    expect(await walk(false)).toEqual({ mended: [], missing: [] });
  });

  test('lets a till go on: no invoice waits for a scrub', { timeout: longMs }, async () => {
    await open();
    await issue(1, 40);
    let isOver = false;
    const scrubbing = (async () => {
      for (let round = 0; round < 10; round += 1) await walk(true);
      isOver = true;
    })();
    const tookMs: number[] = [];
    for (let at = 41; !isOver && at < 400; at += 1) {
      const startedMs = performance.now();
      await issue(at, at);
      tookMs.push(performance.now() - startedMs);
    }
    await scrubbing;
    tookMs.sort((a, b) => a - b);
    console.log(`scrubs=10 invoices=${tookMs.length} p50_ms=${tookMs[tookMs.length >> 1]?.toFixed(1)} max_ms=${tookMs.at(-1)?.toFixed(1)}`);
    expect(tookMs.length).toBeGreaterThan(0);
    expect(tookMs.at(-1) ?? 0).toBeLessThan(3_000);
  });
});

describe('a FLASH that cannot be read where its ledger ends', () => {
  const broken = new Set<number>();
  const startHolder: NonNullable<Overrides['startHolder']> = (config, events) => {
    const parts = partsOf(config);
    const openDevice = async (readOnly: boolean): Promise<WornDevice> => new WornDevice(await parts.openDevice(readOnly), broken);
    return joinHolder({ ...parts, openDevice, events, note: () => undefined, pollMs: 50 });
  };
  /** The page behind the last one that holds anything breaks while nobody has it open, and nothing remembers where the ledger ended. */
  const breakEnd = async (): Promise<void> => {
    await rig.running.close();
    const image = readFileSync(flash());
    let page = Math.floor(image.length / pageBytes) - 1;
    while (isBlank(image.subarray(page * pageBytes, (page + 1) * pageBytes))) page -= 1;
    for (const behind of [1, 2]) broken.add((page + behind) * pageBytes);
    await rig.startLocked();
    await seen();
  };

  test('waits for a person who gives up what may stand there, goes on by itself then, and says so in the ledger', {
    timeout: longMs,
  }, async () => {
    broken.clear();
    await open({ overrides: { startHolder } });
    await issue(1, 3);
    await upload();
    await breakEnd();
    const waits = { code: 'busy', action: expect.stringContaining('ukeyctl store resume --accept-end') };
    await expect(login()).rejects.toMatchObject(waits);
    await expect(resume()).rejects.toMatchObject(waits);
    expect(broken.size).toBe(2);
    const accepted = await rig.admin.call('store.resume', { pin: rigPin, acceptEnd: true }, { timeoutMs: longMs });
    expect(accepted.healedToBatch).toBe(accepted.foundBatch);
    expect(broken.size).toBe(0);
    till = await rig.connectTill();
    expect(await issue(3, 4)).toEqual(['A-00000003', 'A-00000004']);
    const { foundBatch, anchoredBatch, healedToBatch } = accepted;
    expect(await healedEntries()).toEqual([{ event: 'rollback-healed', foundBatch, anchoredBatch, healedToBatch, endGivenUp: true }]);
    await rig.restart();
    till = rig.till;
    expect(await issue(5, 5)).toEqual(['A-00000005']);
  });

  test('gives up nothing that the ticket server knows of', { timeout: longMs }, async () => {
    broken.clear();
    await open({ overrides: { startHolder } });
    const old = await older();
    await rig.running.close();
    copyFileSync(old, flash());
    await rig.startLocked();
    await seen();
    await breakEnd();
    const accepted = await rig.admin.call('store.resume', { pin: rigPin, acceptEnd: true }, { timeoutMs: longMs });
    expect(accepted.healedToBatch).toBe(accepted.serverBatch);
    expect(accepted.healedToBatch).toBeGreaterThan(accepted.foundBatch);
    till = await rig.connectTill();
    expect(await issue(9, 10)).toEqual(['A-00000009', 'A-00000010']);
    expect(await healedEntries()).toMatchObject([{ event: 'rollback-healed', endGivenUp: true }]);
  });
});
