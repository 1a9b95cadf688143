// Nobody without the key can raise an alarm or keep a token's ledger from going on by writing a seal's signature in its other spelling.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { decodeBatch, encodeBatch, joinEntries, sealPayload } from '#ipc-schema/batch.ts';
import { encodeEntry } from '#ipc-schema/entry.ts';
import { otherBatch, otherSeal } from '#ipc-schema/spelling.ts';
import { decodeUpload, paths, tokenViewSchema } from '#ipc-schema/upstream.ts';
import { chainStart, verifyBatch } from '#ipc-schema/verify.ts';
import { openSqliteDatabase } from '#server/database-sqlite.ts';
import { type BuiltBatch, BuiltToken } from '#test/support/batch-builder.ts';
import { type EnrolledToken, refusalIn, ServerRig } from '#test/support/server-rig.ts';

let rig: ServerRig;
beforeAll(async () => {
  rig = await ServerRig.start();
});
afterAll(async () => await rig.stop());

const twin = ({ bytes }: BuiltBatch): Uint8Array => otherBatch(bytes) as Uint8Array;
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

async function view({ token }: EnrolledToken) {
  return tokenViewSchema.parse(JSON.parse((await rig.client.ask(`${paths.tokens}/${token.tokenId}`)).body.toString('utf8')));
}

/** What is stored, each verified behind the one before it. */
async function stored({ token, enrolment }: EnrolledToken): Promise<string[]> {
  const { batches } = decodeUpload((await rig.client.ask(`${paths.tokens}/${token.tokenId}/batches?from=1`)).body);
  let head = chainStart(Buffer.from(enrolment.certificate, 'base64'));
  for (const bytes of batches) head = verifyBatch(bytes, token.publicKey, head).head;
  return batches.map(hex);
}

const enrol = async (spelling: 'low' | 'high'): Promise<EnrolledToken> => {
  const enrolled = await rig.enrol();
  enrolled.token.spelling = spelling;
  return enrolled;
};

describe.each(['low', 'high'] as const)('of a ledger whose seals are in the %s spelling', (spelling) => {
  test('stored batches that come in their other spelling are a repeat, and the ledger goes on', async () => {
    const enrolled = await enrol(spelling);
    const { token } = enrolled;
    const batches = [token.batch(2), token.batch(1), token.batch(1)];
    await rig.acknowledged(enrolled, batches);
    for (const batch of batches) expect((await rig.acknowledged(enrolled, [twin(batch)])).upToBatch).toBe(3);
    expect((await rig.acknowledged(enrolled, batches.map(twin))).upToBatch).toBe(3);
    const four = token.batch(1);
    expect(hex((await rig.acknowledged(enrolled, [four])).headSealHash)).toBe(hex(four.head.sealHash));
    expect(await view(enrolled)).toMatchObject({ upToBatch: 4, alarm: null });
    expect(await stored(enrolled)).toEqual([...batches, four].map(({ bytes }) => hex(bytes)));
  });

  test.each([
    ['alone', (one: BuiltBatch, two: BuiltBatch) => [[twin(one)], [one.bytes, two.bytes]]],
    ['and the token sends only the next one', (one: BuiltBatch, two: BuiltBatch) => [[twin(one)], [two.bytes]]],
    ['with the next one', (one: BuiltBatch, two: BuiltBatch) => [[twin(one), two.bytes], [two.bytes]]],
    [
      'both in another spelling',
      (one: BuiltBatch, two: BuiltBatch) => [
        [twin(one), twin(two)],
        [one.bytes, two.bytes],
      ],
    ],
  ])('a stranger who is first with the newest batches in their other spelling (%s) changes nothing', async (_how, uploads) => {
    const enrolled = await enrol(spelling);
    const { token } = enrolled;
    const first = token.batch(1);
    await rig.acknowledged(enrolled, [first]);
    const [one, two] = [token.batch(1), token.batch(3)];
    for (const upload of uploads(one, two)) await rig.acknowledged(enrolled, upload);
    const last = token.batch(1);
    const ack = await rig.acknowledged(enrolled, [last]);
    expect(ack).toMatchObject({ upToBatch: 4, parked: [] });
    expect(hex(ack.headSealHash)).toBe(hex(token.head.sealHash));
    expect(await view(enrolled)).toMatchObject({ upToBatch: 4, invoices: 6, alarm: null });
    expect(await stored(enrolled)).toEqual([first, one, two, last].map(({ bytes }) => hex(bytes)));
  });
});

test('the low spelling, once it was sent, stays the newest one, whoever sends the other', async () => {
  const enrolled = await enrol('low');
  const one = enrolled.token.batch(1);
  await rig.acknowledged(enrolled, [twin(one)]);
  expect(await stored(enrolled)).toEqual([hex(twin(one))]);
  expect(hex((await rig.acknowledged(enrolled, [one])).headSealHash)).toBe(hex(one.head.sealHash));
  expect(hex((await rig.acknowledged(enrolled, [twin(one)])).headSealHash)).toBe(hex(one.head.sealHash));
  expect(await stored(enrolled)).toEqual([hex(one.bytes)]);
});

test('a batch of another ledger, or one whose signature does not hold, is told no spelling', async () => {
  const enrolled = await enrol('low');
  const { token } = enrolled;
  const one = token.batch(1);
  await rig.acknowledged(enrolled, [twin(one)]);
  const stranger = new BuiltToken();
  stranger.goOn(token);
  expect(refusalIn(await rig.send(enrolled, [stranger.batch(1)]))).toMatchObject({ code: 'bad-signature' });
  expect(await stored(enrolled)).toEqual([hex(twin(one))]);
  // Of what the key has sealed nothing is put in another spelling for a batch that does not hold.
  expect(refusalIn(await rig.send(enrolled, [token.batch(1, { count: 2 }, true)]))).toMatchObject({ code: 'poison' });
  expect(await stored(enrolled)).toEqual([hex(twin(one))]);
  expect(await view(enrolled)).toMatchObject({ alarm: null });
});

test('the same seal around other entries is poison in either spelling', async () => {
  const enrolled = await enrol('low');
  const [one, two] = [enrolled.token.batch(1), enrolled.token.batch(1)];
  await rig.acknowledged(enrolled, [one, two]);
  const entries = joinEntries(decodeBatch(two.bytes).entries.map(encodeEntry));
  for (const seal of [one.sealBytes, otherSeal(one.sealBytes) as Uint8Array])
    expect(refusalIn(await rig.send(enrolled, [encodeBatch(seal, entries)]))).toMatchObject({ status: 422, code: 'poison' });
  expect(await view(enrolled)).toMatchObject({ alarm: null });
});

test('one statement that the key has signed twice is no second batch', async () => {
  const enrolled = await enrol('low');
  const { token } = enrolled;
  const { seal } = verifyBatch(token.batch(1, {}, true).bytes, token.publicKey, token.head);
  const built = token.batch(1, { sealedAtMs: seal.sealedAtMs });
  const again = token.sign(
    sealPayload(verifyBatch(built.bytes, token.publicKey, chainStart(Buffer.from(enrolled.enrolment.certificate, 'base64'))).seal),
  );
  await rig.acknowledged(enrolled, [built]);
  const twice = encodeBatch(again, joinEntries(built.entries.map(encodeEntry)));
  expect(hex(twice)).not.toBe(hex(built.bytes));
  expect(refusalIn(await rig.send(enrolled, [twice]))).toMatchObject({ code: 'poison' });
  expect(await view(enrolled)).toMatchObject({ alarm: null });
});

test('a contradiction that the key did sign is one alarm in both spellings, also once a person has settled it', async () => {
  const enrolled = await enrol('low');
  const { token } = enrolled;
  const rival = token.batch(2, {}, true);
  await rig.acknowledged(enrolled, [token.batch(1)]);
  const database = openSqliteDatabase(`${rig.directory}/tickets.db`);
  try {
    for (const bytes of [twin(rival), rival.bytes]) expect(refusalIn(await rig.send(enrolled, [bytes]))).toMatchObject({ code: 'fork' });
    expect((await database.alarms(token.tokenId)).map(({ proof }) => hex(proof))).toEqual([hex(rival.sealBytes)]);
    expect(await database.settleAlarms(token.tokenId, 'found and destroyed', Date.now())).toBe(1);
    expect(refusalIn(await rig.send(enrolled, [twin(rival)]))).toMatchObject({ code: 'fork' });
    expect(await view(enrolled)).toMatchObject({ alarm: null });
  } finally {
    await database.close();
  }
});
