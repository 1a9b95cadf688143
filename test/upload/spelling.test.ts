// Shows: nobody without the KEY stops a till by writing its seals in their other spelling, and ledgers that hold high ones go on.
import { X509Certificate } from 'node:crypto';
import { afterEach, describe, expect, test } from 'vitest';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { decodeBatch, encodeBatch, joinEntries } from '#ipc-schema/batch.ts';
import { encodeEntry } from '#ipc-schema/entry.ts';
import { decodeEvidence } from '#ipc-schema/evidence.ts';
import type { Result } from '#ipc-schema/methods.ts';
import { isLowSeal, otherBatch, otherSeal } from '#ipc-schema/spelling.ts';
import { decodeUpload, paths, tokenViewSchema } from '#ipc-schema/upstream.ts';
import { chainStart, verifyBatch, verifyEvidence } from '#ipc-schema/verify.ts';
import { appendHigh, signingHigh } from '#test/support/old-seals.ts';
import { openRig, type Rig, rigPin, sale } from '#test/support/rig.ts';
import { HttpsClient, type Reply } from '#test/support/server-rig.ts';
import { strangerUploads } from '#test/support/stranger.ts';
import { openSoftToken } from '#token/soft-token.ts';

let rig: Rig;
afterEach(async () => await rig.close());

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const status = () => rig.admin.call('service.status', {});
const flush = () => rig.admin.call('backlog.flush', {}).catch(() => null);

async function drain(): Promise<void> {
  await expect
    .poll(
      async () => {
        await flush();
        return (await rig.admin.call('backlog.status', {})).pending;
      },
      { timeout: 20_000 },
    )
    .toBe(0);
}

/** All that the till has sealed, as an auditor reads it. */
async function sealed(): Promise<Uint8Array[]> {
  const batches: Uint8Array[] = [];
  for (let from: number | null = 1; from !== null; ) {
    const page: Result<'ledger.read'> = await rig.admin.call('ledger.read', { fromBatch: from });
    batches.push(...page.batches.map(({ bytes }) => Buffer.from(bytes, 'base64')));
    from = page.nextBatch;
  }
  return batches;
}

/** Somebody with nothing but what everybody may read, and what he was given. */
async function stranger<T>(act: (ask: HttpsClient, tokenId: string) => Promise<T>): Promise<T> {
  const client = new HttpsClient(rig.server.url, rig.server.authorityCertificate);
  try {
    return await act(client, (await status()).token?.tokenId ?? '');
  } finally {
    client.close();
  }
}

const uploads = async (batches: readonly Uint8Array[]): Promise<Reply> =>
  await strangerUploads(rig.server, (await status()).token?.tokenId ?? '', batches);

async function held() {
  return await stranger(async (client, tokenId) => {
    const view = await client.ask(`${paths.tokens}/${tokenId}`);
    const run = await client.ask(`${paths.tokens}/${tokenId}/batches?from=1`);
    return { view: tokenViewSchema.parse(JSON.parse(view.body.toString('utf8'))), batches: decodeUpload(run.body).batches };
  });
}

/** Till and server have the same bytes, each batch behind the one before, and nobody speaks of a clone. */
async function expectWhole(): Promise<void> {
  const { view, batches } = await held();
  const own = await sealed();
  expect(batches.map(hex)).toEqual(own.slice(0, batches.length).map(hex));
  const { enrolmentCertificate } = await rig.admin.call('service.identity', {});
  const certificate = Buffer.from(enrolmentCertificate, 'base64');
  const key = new X509Certificate(certificate).publicKey;
  let head = chainStart(certificate);
  for (const bytes of own) head = verifyBatch(bytes, key, head).head;
  expect(view.alarm).toBeNull();
  expect(await status()).toMatchObject({ standing: expect.stringMatching(/^issuing/), alarm: null });
}

const spellings = (batches: readonly Uint8Array[]): boolean[] => batches.map((bytes) => isLowSeal(decodeBatch(bytes).sealBytes));

describe('a till whose batch somebody uploads in its other spelling', () => {
  test('before it does so itself: a customer with a document and its evidence', async () => {
    rig = await openRig({ line: true });
    await rig.till.issue(sale('first'));
    await drain();
    rig.line.state = 'down';
    rig.line.hangUp();
    const { document = '', evidence } = await rig.till.call('invoice.issue', sale('customer'));
    const { leaf, sealBytes, count } = decodeEvidence(Buffer.from(evidence ?? '', 'base64'));
    expect(count).toBe(1);
    const mine = encodeBatch(otherSeal(sealBytes) ?? sealBytes, joinEntries([encodeEntry({ leaf, body: Buffer.from(document) })]));
    const { batches } = await held();
    const before = (await sealed()).slice(batches.length, -1);
    expect((await uploads([...before, mine])).status).toBe(200);
    expect((await held()).batches.map(hex)).toContain(hex(mine));
    rig.line.state = 'up';
    await drain();
    await expectWhole();
    expect((await held()).batches.map(hex)).not.toContain(hex(mine));
    await rig.restart();
    await rig.till.issue(sale('next'));
    await drain();
    await expectWhole();
  });

  test('after it has done so itself, and again and again', async () => {
    rig = await openRig();
    for (const key of ['a', 'b', 'c']) {
      await rig.till.issue(sale(key));
      await drain();
      for (const bytes of (await held()).batches) expect((await uploads([otherBatch(bytes) as Uint8Array])).status).toBe(200);
      await expectWhole();
    }
  });
});

describe('a token whose module returns its signatures in the high spelling', () => {
  test('is provisioned, seals and uploads in the low one', async () => {
    rig = await openRig({
      overrides: {
        startHolder: (config, events) => {
          const path = config.softTokenPath ?? '';
          const token = {
            openToken: () => signingHigh(openSoftToken({ path })),
            openBlank: () => signingHigh(openSoftToken({ path, create: true })),
          };
          return joinHolder({ ...partsOf(config), ...token, events, note: () => undefined, pollMs: 50 });
        },
      },
    });
    for (let at = 0; at < 4; at += 1) await rig.till.issue(sale(`k${at}`));
    await drain();
    expect(new Set(spellings(await sealed()))).toEqual(new Set([true]));
    for (const bytes of (await held()).batches) expect((await uploads([otherBatch(bytes) as Uint8Array])).status).toBe(200);
    await expectWhole();
  });
});

describe('a ledger that an older version has sealed in the high spelling', () => {
  test.each([
    ['nobody has touched', []],
    ['a stranger has uploaded in the low one', ['one by one']],
    ['a stranger has uploaded half in the low one', ['half']],
  ])('and that %s is opened, uploaded as it is, and verified', async (_what, how) => {
    rig = await openRig();
    await rig.till.issue(sale('first'));
    await drain();
    await rig.running.close();
    const old = await appendHigh(rig.config, rigPin, 2, 5);
    expect(spellings(old)).toEqual([false, false, false, false, false]);
    const { batches } = await heldBy(rig);
    await rig.stopServer(); // until the stranger is done
    await rig.restart();
    const own = await sealed();
    const pending = own.slice(batches.length).map((bytes) => (spellings([bytes])[0] === false ? (otherBatch(bytes) as Uint8Array) : bytes));
    await rig.startServer();
    if (how[0] === 'one by one') for (const bytes of pending) await uploads([bytes]);
    if (how[0] === 'half') await uploads(pending.slice(0, 3));
    await rig.till.issue(sale('new'));
    await drain();
    await expectWhole();
    expect((await held()).batches.map(hex)).toEqual(expect.arrayContaining(old.map(hex)));
    const { document = '', evidence } = await rig.till.call('invoice.get', { number: 'A-00000004' });
    const { enrolmentCertificate } = await rig.admin.call('service.identity', {});
    const key = new X509Certificate(Buffer.from(enrolmentCertificate, 'base64')).publicKey;
    const { seal } = verifyEvidence(decodeEvidence(Buffer.from(evidence ?? '', 'base64')), key, Buffer.from(document));
    expect(seal.count).toBe(1);
    await rig.restart();
    await expectWhole();
  });
});

/** While no service runs. */
async function heldBy({ server, directory }: Rig) {
  const client = new HttpsClient(server.url, server.authorityCertificate);
  try {
    const list = JSON.parse((await client.ask(paths.tokens)).body.toString('utf8')) as { tokens: { tokenId: string }[] };
    const [first] = list.tokens;
    if (first === undefined) throw new Error(`no token is enrolled in ${directory}`);
    return decodeUpload((await client.ask(`${paths.tokens}/${first.tokenId}/batches?from=1`)).body);
  } finally {
    client.close();
  }
}
