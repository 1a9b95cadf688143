// Owns: a day of a whole service over any token: provisioned by a server, issuing, started again, uploading, and verified by ukeyctl in processes of its own,
// once from one invoice's evidence and once from the whole store with its token.
// Invariants: throws at the first step that does not hold, so that it can run where there is no test runner; answers what the token was found to do.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { decodeSeal } from '#ipc-schema/batch.ts';
import { decodeEvidence } from '#ipc-schema/evidence.ts';
import type { Issued } from '#ipc-schema/issued.ts';
import { ctl, jsonOf } from '#test/support/ctl.ts';
import { openRig, rigPin, sale } from '#test/support/rig.ts';

const sales = 3;
const flushMs = 20_000;

export interface ServiceLife {
  /** Of the seals. */
  readonly algorithm: string;
  readonly issued: number;
  /** Answered once more, byte for byte, after a restart. */
  readonly repeated: number;
  readonly pending: number;
  readonly evidenceHolds: boolean;
  readonly storeHolds: boolean;
  readonly storeInvoices: number;
  readonly restarts: number;
}

export interface DayOptions {
  /** What the module needs in another process. */
  readonly environment?: Readonly<Record<string, string>>;
  readonly soPin?: string;
}

/** `token`: lines of [token]. */
export async function liveADay(token: readonly string[], { environment = {}, ...rigOptions }: DayOptions = {}): Promise<ServiceLife> {
  const rig = await openRig({ holder: 'child', token, ...rigOptions });
  try {
    const first: Issued[] = [];
    for (let at = 0; at < sales; at += 1) first.push(await rig.till.issue(sale(`day-${at}`)));
    await rig.restart();
    const again: Issued[] = [];
    for (let at = 0; at < sales; at += 1) again.push(await rig.till.issue(sale(`day-${at}`)));
    const same = again.filter((one, at) => one.repeated && one.number === first[at]?.number && one.evidence === first[at]?.evidence);
    const later = await rig.till.issue(sale('day-after'));
    const endMs = performance.now() + flushMs;
    while ((await rig.admin.call('backlog.flush', {})).pending > 0 && performance.now() < endMs);
    const { pending } = await rig.admin.call('backlog.status', {});
    const seal = decodeSeal(decodeEvidence(Buffer.from(later.evidence ?? '', 'base64')).sealBytes);

    const authority = ['--authority', rig.server.authorityFingerprint];
    const pinFile = join(rig.directory, 'pin');
    const evidenceFile = join(rig.directory, 'evidence.json');
    await ctl(['get', '--number', later.number, '--evidence', evidenceFile, '--socket', rig.config.admin_socket]);
    const evidence = await ctl(['verify', evidenceFile, '--json', ...authority]);
    const configFile = join(rig.directory, 'ukeyd.toml');
    const { state, socket, admin_socket } = rig.config;
    const outer = Object.entries({ state, socket, admin_socket }).map(([name, value]) => `${name} = ${JSON.stringify(value)}`);
    writeFileSync(configFile, [...outer, '[token]', ...token, `flash = ${JSON.stringify(rig.config.tokens[0].flash)}`].join('\n'));
    const store = await ctl(['verify', '--json', '--config', configFile, '--pin-file', pinFile, ...authority], { env: environment });
    const { byKind } = jsonOf(store) as { byKind?: Readonly<Record<string, number>> };
    return {
      algorithm: seal.sign1.algorithm,
      issued: first.length + 1,
      repeated: same.length,
      pending,
      evidenceHolds: jsonOf(evidence)['holds'] === true && jsonOf(evidence)['trusted'] === true,
      storeHolds: jsonOf(store)['holds'] === true,
      storeInvoices: byKind?.['invoice'] ?? 0,
      restarts: (await rig.admin.call('service.status', {})).token?.restarts ?? -1,
    };
  } finally {
    await rig.close();
  }
}

export const dayOf = (algorithm: string): ServiceLife => ({
  ...{ algorithm, issued: sales + 1, repeated: sales, pending: 0 },
  ...{ evidenceHolds: true, storeHolds: true, storeInvoices: sales + 1, restarts: 0 },
});

/** The same PIN as the rig's. */
export const dayPin = rigPin;
