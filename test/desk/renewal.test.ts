// Shows: the certificate of a token's key is renewed long before its end, by itself or by hand, through crashes; and what keeps it from being.
import { X509Certificate } from 'node:crypto';
import { afterEach, describe, expect, test } from 'vitest';
import { checkToken, validityWarning } from '#ctl/certificates.ts';
import { LedgerCheck, type LedgerReport } from '#ctl/ledger-check.ts';
import { openStore } from '#ctl/verify-store.ts';
import type { Holder } from '#holder/holder.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeEvidence } from '#ipc-schema/evidence.ts';
import type { Result } from '#ipc-schema/methods.ts';
import type { ServiceStatus } from '#ipc-schema/status.ts';
import { verifyEvidence } from '#ipc-schema/verify.ts';
import { openRig, type Rig, type RigOptions, rigPin, sale } from '#test/support/rig.ts';
import { StepClock } from '#test/support/step-clock.ts';

const dayMs = 24 * 3_600_000;
const termMs = 3_650 * dayMs;

let rig: Rig;
let clock: StepClock;
afterEach(() => rig?.close());

/** Service and server by one clock; the charter lasts longer than the certificate. */
async function shop(options: RigOptions = {}): Promise<void> {
  clock = new StepClock(Date.now(), true);
  const { overrides, grant } = options;
  rig = await openRig({
    serverWallMs: () => clock.wallMs(),
    ...options,
    overrides: { clock, ...overrides },
    grant: { validDays: 10_000, ...grant },
  });
  await expect.poll(standing).toBe('issuing-online');
}

const status = (): Promise<ServiceStatus> => rig.admin.call('service.status', {});
const standing = async (): Promise<string> => (await status()).standing;
const expires = async (): Promise<number> => Date.parse((await status()).token?.certificateExpires ?? '');
const identity = (): Promise<Result<'service.identity'>> => rig.admin.call('service.identity', {});
const renew = (): Promise<Result<'token.renewCertificate'>> => rig.admin.call('token.renewCertificate', {});
const probed = (): Promise<unknown> => rig.admin.call('backlog.flush', {});

/** The service is stopped for it: the store with public keys alone. */
async function verifyStore(): Promise<LedgerReport> {
  await rig.running.close();
  const { soft_token: softTokenPath = '', flash: flashPath } = rig.config.tokens[0];
  const store = await openStore({ module: null, softTokenPath, flashPath }, Buffer.from(rigPin), () => undefined);
  try {
    const { authorityCertificate, signers } = store.mount;
    const check = new LedgerCheck({ certificate: signers[0].certificate, authorityCertificate });
    for await (const { bytes } of store.batches()) check.add(bytes);
    return check.result();
  } finally {
    await store.close();
  }
}

/** As a customer's verifier does, with one certificate. */
function verified({ certificate, authorityCertificate }: { certificate: string; authorityCertificate: string }, evidence: string) {
  const token = checkToken(Buffer.from(certificate, 'base64'), Buffer.from(authorityCertificate, 'base64'), { kind: 'none' });
  const { seal } = verifyEvidence(decodeEvidence(Buffer.from(evidence, 'base64')), token.tokenKey);
  return validityWarning(token.certificate, seal.sealedAtMs);
}

describe('a certificate near its end', { timeout: 30_000 }, () => {
  test('is renewed by itself, long before a person is told; the ledger holds under both, and after a restart', async () => {
    await shop();
    const first = await expires();
    const old = await rig.till.issue(sale('old'));
    await probed();
    await rig.restart();
    await expect.poll(standing).toBe('issuing-online');
    expect(await expires()).toBe(first); // nothing is due yet
    const { certificate } = await identity();

    clock.pass(termMs - 100 * dayMs);
    await rig.restart();
    await expect.poll(expires).toBeGreaterThan(first + 9 * 365 * dayMs);
    const second = await expires();
    expect((await status()).action).toBe('');
    const now = await identity();
    expect(now.enrolmentCertificate).toBe(certificate);
    expect(now.certificate).not.toBe(certificate);
    expect(now.predecessors).toEqual([]);
    expect(new X509Certificate(Buffer.from(now.certificate, 'base64')).validToDate.getTime()).toBe(second);

    clock.pass(200 * dayMs); // the first one is over
    await probed();
    const sold = await rig.till.issue(sale('new'));
    await probed();
    expect((await status()).backlog?.pending).toBe(0);
    expect([verified(now, old.evidence ?? ''), verified(now, sold.evidence ?? '')]).toEqual([null, null]);
    const before = { ...now, certificate };
    expect(verified(before, old.evidence ?? '')).toBeNull();
    expect(verified(before, sold.evidence ?? '')).not.toBeNull(); // it holds, with a note
    await rig.restart();
    expect(await expires()).toBe(second);
    expect(await verifyStore()).toMatchObject({ holds: true, findings: [], byKind: { admin: 1 } });
    await rig.startLocked();
  });

  test('is renewed by hand, and says from when to when', async () => {
    await shop();
    const first = await expires();
    await expect(renew()).rejects.toMatchObject({ code: 'forbidden' }); // nothing is gained on the first day
    clock.pass(400 * dayMs);
    await probed();
    const answer = await renew();
    expect(answer).toMatchObject({ standing: 'issuing-online', tokenId: (await identity()).tokenId });
    expect([Date.parse(answer.previousExpires), Date.parse(answer.expires)]).toEqual([first, await expires()]);
    expect(await expires()).toBeGreaterThan(first + 399 * dayMs);
  });

  test('is not renewed when it has ended: tills go on, and a person is told', async () => {
    await shop();
    clock.pass(termMs + dayMs);
    await rig.restart();
    await probed();
    await expect(renew()).rejects.toMatchObject({ code: 'forbidden' });
    expect((await status()).action).toContain('token replace');
    expect((await rig.till.issue(sale('after'))).number).toBe('A-00000001');
  });

  test('is not renewed by itself in mode offline', async () => {
    await shop({ grant: { mode: 'offline' } });
    const first = await expires();
    clock.pass(termMs - 100 * dayMs);
    await rig.restart();
    await probed();
    await rig.running.custody.use();
    expect(await expires()).toBe(first);
    await renew();
    expect(await expires()).toBeGreaterThan(first);
  });

  test('without a line the request fails as such, and the next proof of the server is soon enough', async () => {
    await shop({ line: true });
    clock.pass(termMs - 100 * dayMs);
    const first = await expires();
    rig.line.state = 'down';
    rig.line.hangUp();
    await expect(renew()).rejects.toMatchObject({ code: 'offline' });
    expect(await expires()).toBe(first);
    rig.line.state = 'up';
    await rig.restart();
    await expect.poll(expires).toBeGreaterThan(first);
  });
});

describe('a renewal that is cut short', { timeout: 30_000 }, () => {
  let trouble: 'none' | 'before' | 'after' = 'none';
  afterEach(() => {
    trouble = 'none';
  });

  const startHolder: NonNullable<NonNullable<RigOptions['overrides']>['startHolder']> = (config, events) =>
    failing(joinHolder({ ...partsOf(config), events, note: () => undefined, pollMs: 50 }));

  /** `before`: nothing is written. `after`: it is written, and nobody hears of it. */
  function failing(holder: Holder): Holder {
    const commit: Holder['commit'] = (draft) => {
      if (trouble === 'none') return holder.commit(draft);
      const real = trouble === 'after' ? holder.commit(draft).durable : Promise.resolve();
      const lost = real.then(() => Promise.reject(new UkeyError('unknown-outcome', 'asked for by the test')));
      lost.catch(() => undefined);
      return { sealed: lost, durable: lost };
    };
    return new Proxy(holder, {
      get: (target, name) => {
        if (name === 'commit') return commit;
        const value: unknown = Reflect.get(target, name);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
  }

  test.each([
    ['before it is in the ledger', 'before', 1],
    ['behind its writing, before anybody heard of it', 'after', 1],
  ] as const)('%s is whole after the next start, once', async (_when, at, entries) => {
    await shop({ overrides: { startHolder } });
    const first = await expires();
    clock.pass(400 * dayMs);
    await probed();
    trouble = at;
    await expect(renew()).rejects.toMatchObject({ code: 'unknown-outcome' });
    trouble = 'none';
    await rig.restart();
    await probed();
    if (at === 'before') {
      expect(await expires()).toBe(first);
      await renew(); // the server has renewed it already, and answers the same
    }
    expect(await expires()).toBeGreaterThan(first);
    await rig.till.issue(sale('after'));
    expect(await verifyStore()).toMatchObject({ holds: true, byKind: { admin: entries } });
    await rig.startLocked();
  });
});
