// After a full run of the real service with its log at debug: no PIN, no terminal secret, no buyer and no request key in anything that it left in the open.
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connect } from '#ipc-schema/client.ts';
import { type KillRig, killRigPin, openKillRig } from '#test/crash/kill-rig.ts';
import { sale } from '#test/support/rig.ts';

const buyer = { name: 'Wilhelmina Quackenbush', reference: 'CUST-99817264', address: ['17 Larkspur Crescent'] };
const requestKey = 'order-7f3a91c2d4';

let rig: KillRig;
beforeAll(async () => {
  rig = await openKillRig(null, 32, 'file', ['[metrics]', 'textfile = "metrics/ukeyd.prom"', 'textfile_seconds = 5']);
}, 60_000);
afterAll(() => rig?.close());

const wrongPin = '1112223334';
const otherPin = '86420864208';
const soPin = '97531000';
let terminalSecret = '';

/** All that a shop and its administrator do, with what must not be seen in it. */
async function wholeLife(): Promise<void> {
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
  await till.call('invoice.preview', sale(`${requestKey}-4`, { buyer }));
  await till.call('invoice.get', { key: requestKey });
  terminalSecret = (await admin.call('terminal.enrol', { terminal: 'erp-1', role: 'erp' })).secret;
  const erp = await connect({
    ...{ socketPath: rig.tillSocket, client: 'secrets/1', terminal: 'erp-1', waitMs: 5_000 },
    secret: Buffer.from(terminalSecret, 'hex'),
  });
  await erp.call('ledger.read', { fromBatch: 1 });
  erp.close();
  await admin.call('backlog.flush', {});
  await admin.call('session.changePin', { pin: killRigPin, newPin: otherPin });
  await expect(admin.call('session.changePin', { pin: wrongPin, newPin: otherPin })).rejects.toMatchObject({ code: 'pin-incorrect' });
  await admin.call('session.logout', {});
  await admin.call('session.unblock', { soPin, newPin: killRigPin });
  await expect(admin.call('session.login', { pin: wrongPin })).rejects.toMatchObject({ code: 'pin-incorrect' });
  await admin.call('session.login', { pin: killRigPin });
  const trail = async (): Promise<string> => JSON.stringify((await admin.call('audit.list', {})).entries);
  await expect.poll(trail, { timeout: 20_000 }).toContain('session.unblock');
  await admin.call('backlog.flush', {});
  till.close();
  admin.close();
}

const linesOf = (name: string): Record<string, unknown>[] =>
  readFileSync(path.join(rig.directory, name), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

test('a request is followed by its name from the till to the server', async () => {
  const till = await connect({ socketPath: rig.tillSocket, client: 'trace/1', terminal: 'till-1', secret: rig.secret, waitMs: 5_000 });
  const { sequence } = await till.issue(sale('trace'));
  till.close();
  const document = (): Record<string, unknown> | undefined => linesOf('ukeyd.log').find((line) => line['sequence'] === sequence);
  const request = (): Record<string, unknown> | undefined =>
    linesOf('ukeyd.log').find((line) => line['message'] === 'request' && line['request'] === document()?.['request']);
  const upload = (): Record<string, unknown> | undefined =>
    linesOf('ukeyd.log').find(
      (line) =>
        line['message'] === 'upload' &&
        Number(line['fromBatch']) <= Number(document()?.['batch']) &&
        Number(document()?.['batch']) <= Number(line['toBatch']),
    );
  const stored = (): Record<string, unknown> | undefined =>
    linesOf('server.log').find((line) => line['event'] === 'upload-stored' && line['request'] === upload()?.['upload']);
  await expect.poll(() => stored()?.['request'], { timeout: 20_000 }).toMatch(/^u-[0-9a-f]{16}$/);
  expect(document()?.['request']).toMatch(/^\d+:\S+$/);
  expect(request()).toMatchObject({ method: 'invoice.issue', caller: 'till-1' });
}, 60_000);

test('nothing secret lies in the open', async () => {
  await wholeLife();
  const processes = processFacts(rig.pid());
  const metrics = path.join(rig.directory, 'metrics/ukeyd.prom');
  await expect
    .poll(() => existsSync(metrics) && readFileSync(metrics, 'utf8').includes('code="pin-incorrect"'), { timeout: 20_000 })
    .toBe(true);
  await rig.kill();
  await rig.start();
  const again = await rig.admin();
  again.close();

  const secrets = [
    killRigPin,
    wrongPin,
    otherPin,
    soPin,
    terminalSecret,
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
      .every(
        ({ content }) =>
          content.includes('"level":"debug"') && content.includes('"message":"request"') && content.includes('"message":"audit"'),
      ),
  ).toBe(true);
  for (const name of ['server.log', 'metrics/ukeyd.prom'])
    expect(open.find((one) => one.name === name)?.content.length, name).toBeGreaterThan(0);
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

/** All files; begun anew when one was moved into its place meanwhile, as the figures are each five seconds. */
function filesBelow(directory: string): Open[] {
  for (let triesLeft = 5; ; triesLeft -= 1) {
    try {
      return filesNow(directory);
    } catch (thrown) {
      const isMoved = thrown instanceof Error && 'code' in thrown && thrown.code === 'ENOENT';
      if (!isMoved || triesLeft === 0) throw thrown;
    }
  }
}

function filesNow(directory: string): Open[] {
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
