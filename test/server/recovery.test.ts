import { generateKeyPairSync } from 'node:crypto';
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { encodeAdminEvent } from '#ipc-schema/admin.ts';
import { sealHashOf } from '#ipc-schema/batch.ts';
import {
  keyRequestPayload,
  parseRecoveryTicket,
  type RecoveryTicket,
  recoveryPaths,
  successionAnswerSchema,
  successionRequestPayload,
} from '#ipc-schema/recovery.ts';
import { otherBatch, otherSeal } from '#ipc-schema/spelling.ts';
import { openSuccession } from '#ipc-schema/succession.ts';
import { decodeUpload, mediaTypes, paths, recoveryInfoOf, tokenViewSchema } from '#ipc-schema/upstream.ts';
import { openAuthority } from '#server/authority.ts';
import { openSqliteDatabase } from '#server/database-sqlite.ts';
import { recover } from '#server/recover-command.ts';
import { answerWaiting, recoverKey } from '#server/recovery.ts';
import { rawPublicKey, sealTo } from '#server/seal.ts';
import { openDirectory } from '#server/serve.ts';
import { BuiltToken } from '#test/support/batch-builder.ts';
import { type EnrolledToken, grantOptions, type Reply, refusalIn, ServerRig } from '#test/support/server-rig.ts';

let rig: ServerRig;
let enrolled: EnrolledToken;
let ticket: RecoveryTicket;
beforeEach(async () => {
  rig = await ServerRig.start();
  enrolled = await rig.enrol();
  await rig.acknowledged(enrolled, [enrolled.token.batch(), enrolled.token.batch()]);
  ticket = await rig.server.createRecoveryTicket({ tokenId: enrolled.token.tokenId });
});
afterEach(async () => rig.stop());

const ask = (where: keyof typeof recoveryPaths, body: Uint8Array): Promise<Reply> =>
  rig.client.ask(recoveryPaths[where], { body, type: mediaTypes.cose });

async function askKey(key: BuiltToken, { code } = ticket, tokenId = enrolled.token.tokenIdBytes): Promise<Reply> {
  const authority = await openAuthority(rig.directory, Date.now());
  const slot = await sealTo(authority.recoveryPublicKey, recoveryInfoOf(enrolled.token.tokenIdBytes), new Uint8Array(32).fill(7));
  const replyKey = rawPublicKey(generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey);
  return await ask('key', key.sign(keyRequestPayload({ spki: key.spki, serial: 'S', code, tokenId, slot, replyKey })));
}

function askSuccession(
  key: BuiltToken,
  change: { fromBatch?: number; previousSealHash?: Uint8Array; code?: string; afterSerial?: number } = {},
): Promise<Reply> {
  const { head, tokenIdBytes } = enrolled.token;
  const { fromBatch = head.batchIndex + 1, previousSealHash = head.sealHash, code = ticket.code, afterSerial = 0 } = change;
  const reason = 'token-lost';
  return ask(
    'succession',
    key.sign(successionRequestPayload({ spki: key.spki, code, tokenId: tokenIdBytes, fromBatch, previousSealHash, afterSerial, reason })),
  );
}

async function succeed(key: BuiltToken, change: { fromBatch?: number; previousSealHash?: Uint8Array } = {}): Promise<Uint8Array> {
  expect((await askKey(key)).status).toBe(200);
  const reply = await askSuccession(key, change);
  expect(reply.status).toBe(200);
  const answer = successionAnswerSchema.parse(JSON.parse(reply.body.toString('utf8')));
  return Buffer.from(answer.succession, 'base64');
}

const carried = (signed: Uint8Array) => [
  {
    kind: 'body' as const,
    entryKind: 'admin' as const,
    body: encodeAdminEvent({ event: 'succession', succession: Buffer.from(signed).toString('base64') }),
  },
];

const otherHash = (sealBytes: Uint8Array): Uint8Array => sealHashOf(otherSeal(sealBytes) ?? sealBytes);

describe('a succession behind a batch whose seal a stranger has sent in its other spelling', () => {
  test.each(['before it', 'after it'])('(%s) is given, and the next key goes on', async (when) => {
    const { token } = enrolled;
    const last = token.batch();
    const strange = otherBatch(last.bytes) as Uint8Array;
    if (when === 'before it') await rig.acknowledged(enrolled, [strange]);
    const key = new BuiltToken();
    const signed = await succeed(key);
    if (when === 'after it') await rig.acknowledged(enrolled, [strange]);
    key.goOn(token);
    expect((await rig.acknowledged({ ...enrolled, token: key }, [key.batch(carried(signed)), key.batch()])).upToBatch).toBe(5);
    const { batches } = decodeUpload((await rig.client.ask(`${paths.tokens}/${token.tokenId}/batches?from=3&limit=1`)).body);
    expect(Buffer.from(batches[0] ?? [])).toEqual(Buffer.from(last.bytes));
    const shown = tokenViewSchema.parse(JSON.parse((await rig.client.ask(`${paths.tokens}/${token.tokenId}`)).body.toString('utf8')));
    expect(shown.alarm).toBeNull();
  });

  test('is not given for the other spelling of another batch', async () => {
    const key = new BuiltToken();
    expect((await askKey(key)).status).toBe(200);
    const previousSealHash = otherHash(enrolled.token.batch(1, {}, true).sealBytes);
    expect(refusalIn(await askSuccession(key, { previousSealHash }))).toMatchObject({ code: 'fork' });
  });
});

describe('a succession', () => {
  test('is given once, the same to the same key, and names the ledger', async () => {
    const key = new BuiltToken();
    const signed = await succeed(key);
    const { publicKey } = await openAuthority(rig.directory, Date.now());
    const opened = openSuccession(signed, publicKey);
    expect(opened).toMatchObject({ tokenId: enrolled.token.tokenId, serial: 1, fromBatch: 3, reason: 'token-lost' });
    expect(Buffer.from(await succeed(key))).toEqual(Buffer.from(signed));
    ticket = await rig.server.createRecoveryTicket({ tokenId: enrolled.token.tokenId });
    expect(Buffer.from(await succeed(key))).toEqual(Buffer.from(signed));
    expect(refusalIn(await askSuccession(key, { fromBatch: 4 }))).toMatchObject({ code: 'bad-request' });
    // The key has a ledger now: it begins no other.
    const another = await rig.server.createTicket(grantOptions());
    const enrolment = await rig.client.ask(paths.enrol, { body: key.enrolment(another.code), type: mediaTypes.cose });
    expect(refusalIn(enrolment)).toMatchObject({ code: 'bad-request' });
  });

  test('is refused to another key, without its code, and with the code of another ledger', async () => {
    const key = new BuiltToken();
    expect(refusalIn(await askSuccession(key))).toMatchObject({ code: 'code-unknown', status: 403 });
    expect(refusalIn(await askKey(key, { ...ticket, code: 'AAAA' }))).toMatchObject({ code: 'code-unknown' });
    expect(refusalIn(await askKey(key, ticket, new Uint8Array(16)))).toMatchObject({ code: 'code-unknown' });
    await succeed(key);
    expect(refusalIn(await askKey(new BuiltToken()))).toMatchObject({ code: 'code-unknown' });
    expect(refusalIn(await askSuccession(enrolled.token))).toMatchObject({ code: 'code-unknown' });
  });

  test('contradicts nothing that is stored', async () => {
    const key = new BuiltToken();
    await askKey(key);
    const hash = new Uint8Array(32);
    expect(refusalIn(await askSuccession(key, { fromBatch: 2 }))).toMatchObject({ code: 'fork', status: 409 });
    expect(refusalIn(await askSuccession(key, { previousSealHash: hash }))).toMatchObject({ code: 'fork' });
    expect(refusalIn(await askSuccession(key, { fromBatch: 1 }))).toMatchObject({ code: 'bad-request' });
    expect((await askSuccession(key)).status).toBe(200);
  });

  test('at the same batch as another one needs a person to say so', async () => {
    await succeed(new BuiltToken());
    ticket = await rig.server.createRecoveryTicket({ tokenId: enrolled.token.tokenId });
    const second = new BuiltToken();
    await askKey(second);
    expect(refusalIn(await askSuccession(second))).toMatchObject({ code: 'fork' });
    ticket = await rig.server.createRecoveryTicket({ tokenId: enrolled.token.tokenId, supersedes: true });
    const third = new BuiltToken();
    const signed = await succeed(third);
    const { publicKey } = await openAuthority(rig.directory, Date.now());
    expect(openSuccession(signed, publicKey)).toMatchObject({ serial: 2, fromBatch: 3 });
  });

  test('is not given a second time from where its key, or another one, has gone on since', async () => {
    const key = new BuiltToken();
    const signed = await succeed(key);
    const before = { ...enrolled.token.head };
    key.goOn(enrolled.token);
    await rig.acknowledged(enrolled, [key.batch(carried(signed))]);
    const from = { fromBatch: before.batchIndex + 1, previousSealHash: before.sealHash };
    expect(refusalIn(await askSuccession(key, from))).toMatchObject({ code: 'fork' });
  });

  test('is not given again to a key whose place another one has taken', async () => {
    const [first, firstTicket] = [new BuiltToken(), ticket];
    await succeed(first);
    ticket = await rig.server.createRecoveryTicket({ tokenId: enrolled.token.tokenId, supersedes: true });
    await succeed(new BuiltToken());
    expect(refusalIn(await askSuccession(first, { code: firstTicket.code }))).toMatchObject({ code: 'fork' });
  });

  test('is refused from a copy that knows nothing of the key whose turn it is', async () => {
    const key = new BuiltToken();
    await succeed(key);
    enrolled.token.batch(2); // the old key, which was not dead after all
    ticket = await rig.server.createRecoveryTicket({ tokenId: enrolled.token.tokenId });
    const next = new BuiltToken();
    await askKey(next);
    expect(refusalIn(await askSuccession(next))).toMatchObject({ code: 'fork' });
    expect((await askSuccession(next, { afterSerial: 1 })).status).toBe(200);
  });

  test('is refused to a key that is enrolled, and too old a ticket is none', async () => {
    await askKey(enrolled.token);
    expect(refusalIn(await askSuccession(enrolled.token))).toMatchObject({ code: 'bad-request' });
    ticket = await rig.server.createRecoveryTicket({ tokenId: enrolled.token.tokenId, hours: -1 });
    expect(refusalIn(await askKey(new BuiltToken()))).toMatchObject({ code: 'code-unknown' });
  });
});

describe('after a succession', () => {
  test('the new key goes on, and the old one only up to it', async () => {
    const key = new BuiltToken();
    const signed = await succeed(key);
    key.goOn(enrolled.token);
    const third = key.batch(carried(signed));
    const old = enrolled.token.batch(1);
    expect(refusalIn(await rig.send(enrolled, [old]))).toMatchObject({ code: 'fork', status: 409 });
    const tokenView = JSON.parse((await rig.client.ask(`/v1/tokens/${enrolled.token.tokenId}`)).body.toString('utf8')) as {
      alarm: unknown;
    };
    expect(tokenView.alarm).not.toBeNull();
    const next = key.batch(1);
    expect(await rig.acknowledged(enrolled, [third, next])).toMatchObject({ upToBatch: 4 });
    const first = await rig.client.ask(`/v1/tokens/${enrolled.token.tokenId}/certificate`);
    const later = await rig.client.ask(`/v1/tokens/${enrolled.token.tokenId}/certificate?batch=3`);
    expect(first.body.equals(later.body)).toBe(false);
  });

  test('a first batch without it is refused, and so is one of a stranger', async () => {
    const key = new BuiltToken();
    await succeed(key);
    key.goOn(enrolled.token);
    expect(refusalIn(await rig.send(enrolled, [key.batch(1, {}, true)]))).toMatchObject({ code: 'poison' });
    const stranger = new BuiltToken();
    stranger.goOn(enrolled.token);
    expect(refusalIn(await rig.send(enrolled, [stranger.batch(1)]))).toMatchObject({ code: 'bad-signature' });
  });

  test('a batch of the old key that is being judged when the new one is let go on is not stored', async () => {
    const { token } = enrolled;
    const database = openSqliteDatabase(path.join(rig.directory, 'tickets.db'));
    const taken = database.takenNumbers.bind(database);
    const { batchIndex, sealHash: previousSealHash } = token.head;
    const old = token.batch(1);
    database.takenNumbers = async (...request) => {
      database.takenNumbers = taken;
      await succeed(new BuiltToken(), { fromBatch: batchIndex + 1, previousSealHash });
      return await taken(...request);
    };
    await rig.restart({ database });
    expect(refusalIn(await rig.send(enrolled, [old]))).toMatchObject({ code: 'fork' });
    const view = JSON.parse((await rig.client.ask(`/v1/tokens/${token.tokenId}`)).body.toString('utf8')) as { upToBatch: number };
    expect(view.upToBatch).toBe(2);
  });

  test('a backlog of the old key arrives, and one that leads elsewhere is a fork', async () => {
    const { token } = enrolled;
    const behind = token.batch(2);
    const key = new BuiltToken();
    const signed = await succeed(key);
    key.goOn(token);
    const twin = { ...token.batch(1), head: token.head };
    expect(twin.head.batchIndex).toBe(4);
    expect(await rig.acknowledged(enrolled, [behind, key.batch(carried(signed))])).toMatchObject({ upToBatch: 4 });
    expect(refusalIn(await rig.send(enrolled, [behind, twin]))).toMatchObject({ code: 'fork' });
  });
});

describe('ticket-server recover', () => {
  test('writes a ticket for its owner alone, and answers what waits with the key in a file', async () => {
    const parts = await openDirectory({ directory: rig.directory });
    const file = path.join(rig.directory, 'recovery.json');
    const base = { tokenId: enrolled.token.tokenId, file, supersede: false, recoveryKey: null };
    await recover(parts, base);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(parseRecoveryTicket(JSON.parse(readFileSync(file, 'utf8')))).toMatchObject({ tokenId: enrolled.token.tokenId });
    await expect(recover(parts, { ...base, file: `${file}.2`, tokenId: '00'.repeat(16) })).rejects.toMatchObject({
      code: 'invalid-request',
    });
    writeFileSync(`${file}.key`, 'no key');
    await expect(recover(parts, { ...base, recoveryKey: `${file}.key` })).rejects.toMatchObject({ code: 'invalid-request' });
    await expect(recover(parts, { ...base, recoveryKey: `${file}.none` })).rejects.toMatchObject({ code: 'invalid-request' });
    rmSync(file);
    await parts.database.close();
  });

  test('answers what can be answered: a request with the slot of another ledger keeps none waiting', async () => {
    const parts = await openDirectory({ directory: rig.directory });
    const { openRecovery } = parts.authority;
    if (openRecovery === null) throw new Error('the recovery key is away');
    const withoutKey = { ...parts, authority: { ...parts.authority, openRecovery: null } };
    const { tokenIdBytes: tokenId } = enrolled.token;
    const wait = async (ledger: Uint8Array): Promise<void> => {
      const { code } = await rig.server.createRecoveryTicket({ tokenId: enrolled.token.tokenId });
      const slot = await sealTo(parts.authority.recoveryPublicKey, recoveryInfoOf(ledger), new Uint8Array(32).fill(7));
      const replyKey = rawPublicKey(generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey);
      const key = new BuiltToken();
      const request = key.sign(keyRequestPayload({ spki: key.spki, serial: 'S', code, tokenId, slot, replyKey }));
      expect(await recoverKey(withoutKey, request)).toMatchObject({ kind: 'refused', refusal: { code: 'no-recovery-key' } });
    };
    await wait(new Uint8Array(16));
    await expect(answerWaiting(parts, enrolled.token.tokenId, openRecovery)).rejects.toMatchObject({ code: 'invalid-request' });
    await wait(tokenId);
    expect(await answerWaiting(parts, enrolled.token.tokenId, openRecovery)).toBe(1);
    await parts.database.close();
  });
});
