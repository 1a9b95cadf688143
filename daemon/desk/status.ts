// Owns: the errands service.status and service.identity: what the service can do now, why, and who must act.
// Invariants: answers in every state, also without a token; asks the holder for figures only while a token is open.
import type { Clock } from '#ground/clock.ts';
import type { Holder, HolderStatus } from '#holder/holder.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Result } from '#ipc-schema/methods.ts';
import type { ServiceStatus } from '#ipc-schema/status.ts';
import { termOf } from '#ledger/certificate-term.ts';
import type { CloneAlarm } from '#ledger/contradiction.ts';
import type { Custody } from '#ledger/custody.ts';
import type { Filling } from '#ledger/filling.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { floorOf } from '#ledger/tip.ts';
import { type BacklogParts, backlogOf } from './backlog.ts';
import type { UnattendedLogin } from './unattended-login.ts';
import type { UsbWatch } from './usb-watch.ts';

export interface StatusParts {
  readonly custody: Custody;
  readonly holder: Holder;
  readonly clock: Clock;
  readonly backlog: BacklogParts;
  readonly filling: Filling;
  readonly version: string;
  readonly unattended: UnattendedLogin | null;
  readonly usb: UsbWatch;
}

export async function serviceStatus(parts: StatusParts): Promise<ServiceStatus> {
  const { custody, clock, usb } = parts;
  usb.refresh(); // what is found is told to the next who asks
  const isOpen = custody.state.kind === 'open' || custody.ledger !== null;
  const figures = isOpen ? await figuresOf(parts.holder) : null;
  // From here on at one go: a state that fits itself.
  const { ledger } = custody;
  const nowMs = clock.wallMs();
  const floorMs = ledger === null ? null : floorOf(ledger.tip);
  const charter = ledger?.charter ?? null;
  return {
    ...custody.standing(),
    token: tokenStatus(parts, figures),
    usb: usb.sight === null ? null : { smartCards: [...usb.sight.smartCards], storage: [...usb.sight.storage] },
    store: ledger === null || figures === null ? null : storeStatus(parts, ledger, figures),
    templates: (ledger?.templates ?? []).map(({ id, version, currency }) => ({ id, version, currency })),
    issuer: charter === null ? null : { taxId: charter.issuer.taxId, name: charter.issuer.name },
    mode: charter?.mode ?? null,
    budget: custody.budget(),
    backlog: ledger === null ? null : backlogOf(parts.backlog, ledger),
    alarm: alarmOf(custody.alarm),
    clock: {
      now: new Date(nowMs).toISOString(),
      trusted: custody.clockTrusted(),
      floor: floorMs === null || floorMs === 0 ? null : new Date(floorMs).toISOString(),
    },
    version: parts.version,
  };
}

function alarmOf(alarm: CloneAlarm | null): ServiceStatus['alarm'] {
  return alarm === null ? null : { kind: 'clone', batchIndex: alarm.batchIndex, raisedAt: new Date(alarm.raisedAtMs).toISOString() };
}

function tokenStatus({ custody, unattended }: StatusParts, figures: HolderStatus | null): ServiceStatus['token'] {
  const { state } = custody;
  if (!('facts' in state)) return null;
  const { module, label, serial, model, triesLeft, pinState } = state.facts;
  const tokenId = state.kind === 'open' ? Buffer.from(state.mount.tokenId).toString('hex') : null;
  const term = state.kind === 'open' ? (custody.ledger?.certificateTerm ?? termOf(state.mount.certificate)) : null;
  const certificateExpires = term === null ? null : new Date(term.untilMs).toISOString();
  const storedPin = unattended?.storedPin ?? 'none';
  return {
    module,
    label,
    serial,
    model,
    tokenId,
    certificateExpires,
    triesLeft,
    pinState,
    storedPin,
    ...healthOf(state.kind === 'open' ? figures : null),
  };
}

type Health = Pick<
  NonNullable<ServiceStatus['token']>,
  'signatures' | 'meanSignMs' | 'signFailures' | 'lastFailure' | 'lastFailureAt' | 'selfTestAt' | 'restarts'
>;

function healthOf(figures: HolderStatus | null): Health {
  const { signatures = 0, meanSignMs = null, signFailures = 0, lastFailure = null, selfTestAtMs = null, restarts = 0 } = figures ?? {};
  const at = (ms: number | undefined): string | null => (ms === undefined ? null : new Date(ms).toISOString());
  return {
    ...{ signatures, meanSignMs, signFailures, restarts, lastFailure: lastFailure?.reason ?? null },
    ...{ lastFailureAt: at(lastFailure?.atMs), selfTestAt: at(selfTestAtMs ?? undefined) },
  };
}

function storeStatus({ filling }: StatusParts, ledger: Ledger, figures: HolderStatus): NonNullable<ServiceStatus['store']> {
  const { storePath, sizeBytes, usedBytes, usedPercent, capacityBytes, freeBytes, bytesWritten, mirror } = figures;
  const { nextBatch, nextSequence } = ledger.tip;
  return {
    path: storePath,
    sizeBytes,
    usedBytes,
    usedPercent,
    capacityBytes,
    freeBytes,
    bytesWritten,
    forecast: filling.forecast(ledger),
    batches: nextBatch - 1,
    entries: nextSequence - 1,
    tornBytes: ledger.mount.tornBytes,
    mirror: mirror?.mode ?? 'off',
    mirrorState: mirrorState(mirror, ledger),
  };
}

function mirrorState(mirror: HolderStatus['mirror'], ledger: Ledger): NonNullable<ServiceStatus['store']>['mirrorState'] {
  if (mirror === null) return null;
  const { behindBytes, failure } = mirror;
  const { remade = false, healedFlash = 0, healedMirror = 0 } = ledger.mount.mirror ?? {};
  return { behindBytes, failure, remade, healedFlash, healedMirror };
}

/** null: the token left while it was asked; the standing says so. */
async function figuresOf(holder: Holder): Promise<HolderStatus | null> {
  try {
    return await holder.status();
  } catch (error) {
    if (error instanceof UkeyError) return null;
    throw error;
  }
}

export async function identity(custody: Custody): Promise<Result<'service.identity'>> {
  const { mount, certificate } = await custody.use();
  return {
    tokenId: Buffer.from(mount.tokenId).toString('hex'),
    certificate: Buffer.from(certificate).toString('base64'),
    enrolmentCertificate: Buffer.from(mount.signers[0].certificate).toString('base64'),
    authorityCertificate: Buffer.from(mount.authorityCertificate).toString('base64'),
    predecessors: mount.signers
      .slice(0, -1)
      .map(({ fromBatch, certificate }) => ({ fromBatch, certificate: Buffer.from(certificate).toString('base64') })),
  };
}
