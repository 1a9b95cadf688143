import { X509Certificate } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { sha256 } from '#ipc-schema/merkle.ts';
import { renewalPath, renewalPayload } from '#ipc-schema/renewal.ts';
import { checkRenewal } from '#ipc-schema/signers.ts';
import { mediaTypes, paths } from '#ipc-schema/upstream.ts';
import { BuiltToken } from '#test/support/batch-builder.ts';
import { type EnrolledToken, type Reply, refusalIn, ServerRig } from '#test/support/server-rig.ts';

const dayMs = 24 * 3_600_000;
const yearMs = 365 * dayMs;
const startMs = Date.now();

let nowMs: number;
let rig: ServerRig;
let enrolled: EnrolledToken;
let first: Buffer;
beforeEach(async () => {
  nowMs = startMs;
  rig = await ServerRig.start({ wallMs: () => nowMs });
  enrolled = await rig.enrol();
  first = Buffer.from(enrolled.enrolment.certificate, 'base64');
  await rig.acknowledged(enrolled, [enrolled.token.batch(), enrolled.token.batch()]);
});
afterEach(async () => rig.stop());

function ask(renewed: Uint8Array = first, key: BuiltToken = enrolled.token, tokenId = enrolled.token.tokenIdBytes): Promise<Reply> {
  const body = key.sign(renewalPayload({ spki: key.spki, tokenId, certificateHash: sha256(renewed) }));
  return rig.client.ask(renewalPath, { body, type: mediaTypes.cose });
}

async function renew(renewed: Uint8Array = first): Promise<Buffer> {
  const reply = await ask(renewed);
  expect(reply).toMatchObject({ status: 200, headers: { 'content-type': mediaTypes.certificate } });
  checkRenewal(reply.body, renewed, enrolled.token.tokenIdBytes, new X509Certificate(rig.server.authorityCertificate).publicKey);
  return reply.body;
}

const untilMs = (der: Uint8Array): number => new X509Certificate(der).validToDate.getTime();
const certificateAt = async (query: string): Promise<Buffer> =>
  (await rig.client.ask(`${paths.tokens}/${enrolled.token.tokenId}/certificate${query}`)).body;

describe('a certificate is renewed', () => {
  test('for ten years more, and the same request gets the same one, from whomever, whenever', async () => {
    nowMs += 9.8 * yearMs;
    const second = await renew();
    expect(untilMs(second)).toBeGreaterThan(untilMs(first) + 9 * yearMs);
    nowMs += 90 * dayMs; // the first one has ended
    expect(await renew()).toEqual(second);
    const laterMs = nowMs;
    nowMs = startMs; // the TLS certificate that it starts with must be valid today
    await rig.restart({ wallMs: () => nowMs });
    nowMs = laterMs;
    expect(await renew()).toEqual(second);
    const third = await renew(second);
    expect(untilMs(third)).toBeGreaterThan(untilMs(second));
    expect([await renew(), await renew(second)]).toEqual([second, third]);
  });

  test('once, when two ask at the same time', async () => {
    nowMs += 9.8 * yearMs;
    const [one, ...others] = await Promise.all(Array.from({ length: 8 }, () => renew()));
    for (const other of others) expect(other).toEqual(one);
    nowMs += 2 * dayMs;
    expect(await renew(one)).not.toEqual(one);
  });

  test('and the ledger goes on: batches that follow are taken, the enrolment certificate is the same, the newest is shown', async () => {
    nowMs += 9.8 * yearMs;
    const second = await renew();
    await rig.acknowledged(enrolled, [enrolled.token.batch(), enrolled.token.batch()]);
    expect(await certificateAt('')).toEqual(first);
    expect([await certificateAt('?batch=1'), await certificateAt('?batch=4')]).toEqual([second, second]);
  });
});

describe('a certificate is not renewed', () => {
  test('when it has ended', async () => {
    nowMs = untilMs(first);
    expect(refusalIn(await ask())).toMatchObject({ code: 'not-renewable', status: 409 });
  });

  test('where nothing is gained: on the day of its making, or when the authority itself ends', async () => {
    expect(refusalIn(await ask())).toMatchObject({ code: 'not-renewable' });
    nowMs += 2 * dayMs;
    const second = await renew();
    expect(refusalIn(await ask(second))).toMatchObject({ code: 'not-renewable' });
    nowMs += 10 * yearMs - dayMs;
    const last = await renew(second);
    expect(untilMs(last)).toBe(untilMs(rig.server.authorityCertificate));
    nowMs += 5 * yearMs;
    expect(refusalIn(await ask(last))).toMatchObject({ code: 'not-renewable' });
  });

  test('by the key of a stranger, of another token, or of nobody', async () => {
    nowMs += 9.8 * yearMs;
    const stranger = new BuiltToken();
    expect(refusalIn(await ask(first, stranger))).toMatchObject({ code: 'unknown-token', status: 404 });
    expect(refusalIn(await ask(first, stranger, stranger.tokenIdBytes))).toMatchObject({ code: 'unknown-token' });
    const other = await rig.enrol();
    expect(refusalIn(await ask(first, other.token))).toMatchObject({ code: 'unknown-token' });
    const otherFirst = Buffer.from(other.enrolment.certificate, 'base64');
    expect(refusalIn(await ask(otherFirst, other.token, other.token.tokenIdBytes))).toMatchObject({ code: 'not-renewable' });
  });

  test('without the proof that the key is there, or for something else', async () => {
    nowMs += 9.8 * yearMs;
    const { token } = enrolled;
    const payload = renewalPayload({ spki: token.spki, tokenId: token.tokenIdBytes, certificateHash: sha256(first) });
    const forged = await rig.client.ask(renewalPath, { body: new BuiltToken().sign(payload), type: mediaTypes.cose });
    expect(refusalIn(forged)).toMatchObject({ code: 'bad-request', status: 400 });
    const misused = await rig.client.ask(renewalPath, { body: token.enrolment('CODE'), type: mediaTypes.cose });
    expect(refusalIn(misused)).toMatchObject({ code: 'bad-request' });
    const plain = await rig.client.ask(renewalPath, { body: token.sign(payload), type: mediaTypes.json });
    expect(refusalIn(plain)).toMatchObject({ code: 'bad-request' });
  });

  test('that is not the one in force', async () => {
    nowMs += 9.8 * yearMs;
    expect(refusalIn(await ask(Buffer.from('another')))).toMatchObject({ code: 'bad-request' });
  });

  test('while an alarm stands against the token, and again once it is settled', async () => {
    nowMs += 9.8 * yearMs;
    const { token } = enrolled;
    const head = token.head;
    await rig.acknowledged(enrolled, [token.batch()]);
    token.head = head;
    expect(refusalIn(await rig.send(enrolled, [token.batch(2)]))).toMatchObject({ code: 'fork' });
    expect(refusalIn(await ask())).toMatchObject({ code: 'fork', status: 409 });
    const { openDirectory } = await import('#server/serve.ts');
    const { database } = await openDirectory({ directory: rig.directory });
    await database.settleAlarms(token.tokenId, 'a test', nowMs);
    await database.close();
    await renew();
  });
});
