// Uploads packed here and in a thread are the same to the server, and a thread that is gone is no reason to stop.
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { decodeUpload, uploadInfo } from '#ipc-schema/upstream.ts';
import { summaryOf } from '#ledger/batches.ts';
import { readBatch } from '#ledger/stored.ts';
import { unpack } from '#server/accept.ts';
import { makeOpener, type Opener, rawPublicKey } from '#server/seal.ts';
import { documentDraft, LedgerRig } from '#test/support/ledger-rig.ts';
import { Packer } from '#upload/packer.ts';
import type { PackedUpload, ToPack } from '#upload/packing.ts';

const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const tokenId = new Uint8Array(randomBytes(16));
const everythingAside = { hereMaxBytes: 0 };

let toPack: ToPack;
let open: Opener;
let rig: LedgerRig;
const packers: Packer[] = [];

beforeAll(async () => {
  rig = await LedgerRig.open();
  for (let at = 0; at < 5; at += 1) await rig.ledger.add(documentDraft(`k-${at}`));
  open = await makeOpener(privateKey);
  toPack = { tokenId, sealKey: rawPublicKey(privateKey), batches: await rig.holder.readPacked(1, 1_000_000) };
  return () => rig.close();
});
afterEach(async () => {
  for (const packer of packers.splice(0)) await packer.close();
});

function packerOf(options: ConstructorParameters<typeof Packer>[0]): Packer {
  const packer = new Packer(options);
  packers.push(packer);
  return packer;
}

async function expectRight({ body, summaries }: PackedUpload): Promise<void> {
  const upload = decodeUpload(await unpack(await open(body, uploadInfo)));
  expect(Buffer.compare(upload.tokenId, tokenId)).toBe(0);
  expect(upload.batches.map((batch) => Buffer.from(batch).toString('hex'))).toEqual(
    toPack.batches.map(({ packed }) => Buffer.from(packed.bytes).toString('hex')),
  );
  const expected = await Promise.all(toPack.batches.map(({ batchIndex }) => readBatch(rig.holder, batchIndex)));
  expect(summaries.map(({ count, amount, oldestMs }) => ({ count, amount, oldestMs }))).toEqual(
    expected.map(({ leaves, sealBytes }) => {
      const { count, amount, oldestMs } = summaryOf(leaves, sealBytes);
      return { count, amount, oldestMs };
    }),
  );
  expect(summaries.reduce((sum, { count }) => sum + count, 0)).toBe(5);
}

describe('an upload', () => {
  test('that is small is packed here, without a thread', async () => {
    const packer = packerOf({});
    await expectRight(await packer.pack(toPack));
    expect(packer.hasThread).toBe(false);
  });

  test('that is large is packed in a thread; several at once, each its own', async () => {
    const packer = packerOf(everythingAside);
    const packed = await Promise.all([packer.pack(toPack), packer.pack({ ...toPack, batches: toPack.batches.slice(0, 1) })]);
    expect(packer.hasThread).toBe(true);
    await expectRight(packed[0]);
    expect(packed[1].summaries.length).toBe(1);
    await expectRight(await packer.pack(toPack));
  });

  test.each([
    { place: 'here', options: {} },
    { place: 'in a thread', options: everythingAside },
  ])('with a batch that does not open is halted, $place', async ({ options }) => {
    const [first] = toPack.batches;
    const spoilt = { batchIndex: 1, packed: { isZstd: true, bytes: first?.packed.bytes ?? new Uint8Array(), plainBytes: 10 } };
    await expect(packerOf(options).pack({ ...toPack, batches: [spoilt] })).rejects.toMatchObject({ code: 'halted' });
  });

  test('whose thread is ended under way is packed all the same', async () => {
    const packer = packerOf(everythingAside);
    const packing = packer.pack(toPack);
    await packer.close();
    await expectRight(await packing);
    expect(packer.hasThread).toBe(false);
    await expectRight(await packer.pack(toPack));
    expect(packer.hasThread).toBe(false);
  });

  test('that a thread cannot be given is packed here, and it is told why', async () => {
    const told: unknown[] = [];
    const packer = packerOf({ ...everythingAside, onFailed: (cause) => told.push(cause) });
    const batches = toPack.batches.map((batch) => ({ ...batch, packed: { ...batch.packed, isOfNoThread: () => true } }));
    await expectRight(await packer.pack({ ...toPack, batches }));
    expect(told).toHaveLength(1);
    await packer.close();
    expect(told).toHaveLength(1); // ending it is no fault
  });
});
