// SIGKILL at random instants while tills issue: nothing that was answered is lost, nothing is doubled, no hole anywhere.
import { request } from 'node:https';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Client, connect } from '#ipc-schema/client.ts';
import type { Issued } from '#ipc-schema/issued.ts';
import { decodeUpload, paths, uploadMaxBatches } from '#ipc-schema/upstream.ts';
import { sale } from '#test/support/rig.ts';
import { seededRandom, seedOf } from '#test/support/seed.ts';
import { softHsmModule } from '#test/support/softhsm.ts';
import { type KillRig, openKillRig } from './kill-rig.ts';

const kills = Number(process.env['TEST_KILLS'] ?? 200);
const tills = 8;
const longestRunMs = 400;

let rig: KillRig;
beforeAll(async () => {
  if (softHsmModule() === null && process.env['CI']) throw new Error('SoftHSM2 is not installed, and CI is set');
  rig = await openKillRig(softHsmModule(), 512);
}, 60_000);
afterAll(() => rig?.close());

interface Answered {
  readonly key: string;
  readonly answer: Issued;
}

/** Sells until told to stop; every sale is repeated with its key until its end is known. */
async function sell(till: number, over: () => boolean): Promise<Answered[]> {
  const client: Client = await connect({
    socketPath: rig.tillSocket,
    client: 'kill/1',
    terminal: 'till-1',
    secret: rig.secret,
    waitMs: 30_000,
  });
  const answered: Answered[] = [];
  try {
    for (let count = 0; !over(); count += 1) {
      const key = `t${till}-${count}`;
      answered.push({ key, answer: await client.issue(sale(key), { deadlineMs: 120_000 }) });
    }
  } finally {
    client.close();
  }
  return answered;
}

test(`kill -9 at ${kills} random instants, ${tills} tills`, async () => {
  const seed = seedOf();
  const random = seededRandom(seed);
  let over = false;
  const selling = Array.from({ length: tills }, (_, till) => sell(till, () => over));
  const restartsMs: number[] = [];
  for (let kill = 0; kill < kills; kill += 1) {
    const admin = await rig.admin();
    // Now and then the kill falls into the start itself; mostly into the work.
    if (random() < 0.9) {
      await untilIssuing(admin);
      await new Promise((resolve) => setTimeout(resolve, random() * longestRunMs));
    }
    admin.close();
    await rig.kill();
    const startMs = performance.now();
    await rig.start();
    const again = await rig.admin();
    await untilIssuing(again);
    again.close();
    restartsMs.push(performance.now() - startMs);
  }
  over = true;
  const answered = (await Promise.all(selling)).flat();
  const admin = await rig.admin();
  await untilIssuing(admin);
  await untilUploaded(admin);
  admin.close();

  const { report, documents, batches } = await rig.readStore();
  const inStore = new Map([...documents.values()].map((text) => [(JSON.parse(text) as { request: { key: string } }).request.key, text]));
  const lost = answered.filter(({ key, answer }) => inStore.get(key) !== answer.document);
  const doubled = documents.size - inStore.size;
  const onServer = await readServer(rig, report.tokenId, batches.length);
  restartsMs.sort((a, b) => a - b);
  const p99 = restartsMs[Math.floor(restartsMs.length * 0.99)] ?? 0;
  console.log(
    `kills=${kills} answered=${answered.length} lost=${lost.length} dup=${doubled} gaps=${report.findingsCount} restart_p99_ms=${Math.round(p99)} seed=${seed}`,
  );
  expect(answered.length).toBeGreaterThan(kills);
  expect(lost).toEqual([]);
  expect(doubled).toBe(0);
  expect(report).toMatchObject({ holds: true, findings: [] });
  // The chain of seals held from the first to the last batch, or readStore had thrown; what the server has is the same bytes.
  expect(onServer.length).toBeGreaterThan(0);
  expect(onServer.every((batch, at) => Buffer.compare(batch, batches[at] as Uint8Array) === 0)).toBe(true);
  expect(report.pending).toBe(0);
}, 900_000);

async function untilIssuing(admin: Client): Promise<void> {
  for (;;) {
    const { standing } = await admin.call('service.status', {});
    if (standing === 'issuing-online' || standing === 'issuing-offline') return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

async function untilUploaded(admin: Client): Promise<void> {
  const endMs = performance.now() + 60_000;
  for (;;) {
    const { pending, lastError } = await admin.call('backlog.status', {});
    if (pending === 0) return;
    if (performance.now() > endMs) throw new Error(`the backlog does not drain: ${lastError}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The server's batches of this token, as it stored them. */
async function readServer({ server }: KillRig, tokenId: string, upTo: number): Promise<Uint8Array[]> {
  const batches: Uint8Array[] = [];
  while (batches.length < upTo) {
    const from = batches.length + 1;
    const body = await fetchBytes(
      `${server.url}${paths.tokens}/${tokenId}/batches?from=${from}&limit=${uploadMaxBatches}`,
      server.authorityCertificate,
    );
    if (body === null) break;
    batches.push(...decodeUpload(body).batches);
  }
  return batches;
}

function fetchBytes(url: string, authority: Uint8Array): Promise<Uint8Array | null> {
  const ca = `-----BEGIN CERTIFICATE-----\n${Buffer.from(authority).toString('base64')}\n-----END CERTIFICATE-----\n`;
  return new Promise((resolve, reject) => {
    const asked = request(url, { ca }, (response) => {
      const parts: Buffer[] = [];
      response.on('data', (part: Buffer) => parts.push(part));
      response.on('end', () => resolve(response.statusCode === 200 ? Buffer.concat(parts) : null));
    });
    asked.on('error', reject);
    asked.end();
  });
}
