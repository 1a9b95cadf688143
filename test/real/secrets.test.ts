// After a full run of the real service with its log at debug: no PIN, no terminal secret, no buyer and no request key in anything that it left in the open.
import { readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connect } from '#ipc-schema/client.ts';
import { type KillRig, killRigPin, openKillRig } from '#test/crash/kill-rig.ts';
import { sale } from '#test/support/rig.ts';

const buyer = { name: 'Wilhelmina Quackenbush', reference: 'CUST-99817264', address: ['17 Larkspur Crescent'] };
const requestKey = 'order-7f3a91c2d4';

let rig: KillRig;
beforeAll(async () => {
  rig = await openKillRig(null, 32);
}, 60_000);
afterAll(() => rig?.close());

test('nothing secret lies in the open', async () => {
  const admin = await rig.admin();
  const till = await connect({ socketPath: rig.tillSocket, client: 'secrets/1', terminal: 'till-1', secret: rig.secret, waitMs: 5_000 });
  const issued = await till.issue(sale(requestKey, { buyer }));
  await till.issue(sale(`${requestKey}-2`, { buyer, kind: 'credit-note', corrects: { number: issued.number } }));
  await expect(till.call('invoice.issue', { ...sale(`${requestKey}-3`, { buyer }), total: '1.00' })).rejects.toMatchObject({
    code: 'invalid-invoice',
  });
  await expect(till.call('invoice.issue', { ...sale(requestKey, { buyer }), template: 'other' })).rejects.toMatchObject({
    code: 'key-reused',
  });
  const wrongPin = '1112223334';
  await admin.call('session.logout', {});
  await expect(admin.call('session.login', { pin: wrongPin })).rejects.toMatchObject({ code: 'pin-incorrect' });
  await admin.call('session.login', { pin: killRigPin });
  await admin.call('backlog.flush', {});
  const processes = processFacts(rig.pid());
  till.close();
  admin.close();
  await rig.kill();
  await rig.start();
  const again = await rig.admin();
  again.close();

  const secrets = [
    killRigPin,
    wrongPin,
    Buffer.from(rig.secret).toString('hex'),
    buyer.name,
    buyer.reference,
    'Larkspur',
    requestKey,
    'HANGING HEART',
  ];
  const open = [...filesBelow(rig.directory), ...processes];
  // The control: what must be found is found, or this test would find nothing anywhere.
  expect(open.find(({ name }) => name === 'pin')?.content.includes(killRigPin)).toBe(true);
  expect(
    open
      .filter(({ name }) => name === 'ukeyd.log')
      .every(({ content }) => content.includes('"level":"debug"') || content.includes('ledger')),
  ).toBe(true);
  expect(processes.length).toBeGreaterThanOrEqual(4);
  const allowed = ['pin', 'state/terminals.json'];
  // The ticket server may read: it stands for another machine.
  const hits = open
    .filter(({ name }) => !allowed.includes(name) && !name.startsWith('server/'))
    .flatMap(({ name, content }) => secrets.filter((secret) => content.includes(secret)).map((secret) => `${name}: ${secret}`));
  console.log(`files=${open.length} hits=${hits.length}`);
  expect(hits).toEqual([]);
  for (const name of allowed) expect(statSync(path.join(rig.directory, name)).mode & 0o077, name).toBe(0);
}, 60_000);

interface Open {
  readonly name: string;
  readonly content: Buffer;
}

function filesBelow(directory: string): Open[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .filter((name) => !name.startsWith('compile-cache') && statSync(path.join(directory, name)).isFile())
    .map((name) => ({ name, content: readFileSync(path.join(directory, name)) }));
}

/** Arguments and environment of the service and of its holder. */
function processFacts(pid: number): Open[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean);
  return [String(pid), ...children].flatMap((each) =>
    ['cmdline', 'environ'].map((name) => ({ name: `${each}/${name}`, content: readFileSync(`/proc/${each}/${name}`) })),
  );
}
