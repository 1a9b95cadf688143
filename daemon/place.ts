// Owns: everything that lives from one token: its holder, custody (ledger), uploader and timetable, and the errands that callers can ask of it.
// Beside compose.ts the only file that knows all rooms. Invariants: places know nothing of one another, so that a stuck token delays no
// other; holder, custody, uploader and timetable are opened in that order and closed in reverse.
import { mkdirSync } from 'node:fs';
import { Audit, type AuditWaits, type Note } from '#desk/audit.ts';
import { auditList } from '#desk/audit-list.ts';
import { audited } from '#desk/audited.ts';
import * as backlog from '#desk/backlog.ts';
import { Deliveries } from '#desk/deliveries.ts';
import * as find from '#desk/find.ts';
import { Handover } from '#desk/handover.ts';
import { Herald } from '#desk/herald.ts';
import { IdleLock } from '#desk/idle-lock.ts';
import * as issuing from '#desk/issue.ts';
import { LedgerReading } from '#desk/ledger-read.ts';
import { finishLoss } from '#desk/loss.ts';
import type { PinPlace } from '#desk/pin-source.ts';
import * as provisioning from '#desk/provision.ts';
import { renewCertificate } from '#desk/renewal.ts';
import * as restoring from '#desk/restore.ts';
import { finishResume, resume } from '#desk/resume.ts';
import * as session from '#desk/session.ts';
import * as status from '#desk/status.ts';
import { checkStore } from '#desk/store-check.ts';
import { mendStore } from '#desk/store-mend.ts';
import { UnattendedLogin } from '#desk/unattended-login.ts';
import { UsbWatch } from '#desk/usb-watch.ts';
import { type Clock, systemClock } from '#ground/clock.ts';
import type { TokenConfig } from '#ground/config.ts';
import { type Log, whyOf } from '#ground/log.ts';
import { lookAtUsb } from '#ground/machine.ts';
import type { HolderConfig } from '#holder/configuration.ts';
import type { Holder, HolderEvents, HolderState } from '#holder/holder.ts';
import { startHolder } from '#holder/parent.ts';
import type { Handlers } from '#ipc/serve.ts';
import { isFiscal } from '#ipc-schema/entry.ts';
import type { EventNotice } from '#ipc-schema/envelope.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Methods, TokenMethod } from '#ipc-schema/methods.ts';
import { Custody } from '#ledger/custody.ts';
import { Filling } from '#ledger/filling.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { TokenCounts } from '#metrics/counts.ts';
import type { TokenFigures } from '#metrics/figures.ts';
import { CertificateRenewal } from '#upload/certificate-renewal.ts';
import { openTimetable } from '#upload/timetable.ts';
import { Uploader } from '#upload/uploader.ts';

/** What tests replace; everything else is as in production. */
export interface PlaceOverrides {
  readonly clock?: Clock;
  readonly auditWaits?: AuditWaits;
  readonly lookAtUsb?: typeof lookAtUsb;
  startHolder?(config: HolderConfig, events: HolderEvents, log: Log): Holder;
}

export interface PlaceOptions {
  readonly config: TokenConfig;
  /** Cron expression. */
  readonly probe: string;
  readonly log: Log;
  readonly version: string;
  readonly overrides: PlaceOverrides;
}

export interface Place {
  readonly name: string;
  /** Tax id of the issuer that it is for; null: of whichever issuer the token is. */
  readonly issuer: string | null;
  readonly custody: Custody;
  readonly handlers: Pick<Handlers<Methods>, TokenMethod>;
  /** For the metrics. */
  figures(): Promise<TokenFigures>;
  /** Something that concerns the whole service is done: this ledger's audit trail tells it too. */
  note(note: Note): void;
  /** Probes by this cron expression from now on. Throws invalid-request, and then goes on as before. */
  probeAt(expression: string): void;
  /** From now on events reach subscribers. */
  announce(publish: (notice: EventNotice) => void): void;
  /** Whoever still waits for an acknowledgement is answered: the service ends. */
  giveUp(): void;
  close(): Promise<void>;
}

const standingWatchMs = 1_000;
/** How full the store is changes slowly, and asking costs a message to the holder. */
const storeWatchMs = 10_000;

/** Throws what opening has thrown; then nothing of it is left open. */
export async function openPlace(options: PlaceOptions): Promise<Place> {
  const closing: (() => Promise<void> | void)[] = [];
  const close = (): Promise<void> => inTurn(closing.splice(0).reverse());
  try {
    mkdirSync(options.config.state, { recursive: true, mode: 0o700 });
    const parts = openParts(options, closing);
    const { name, issuer } = options.config;
    return {
      ...{ name, issuer, close, custody: parts.custody, handlers: parts.idle.watching(handlersOf(parts)) },
      figures: async () => ({
        ...{ name, uploads: parts.uploader.counts, counts: parts.counts },
        status: await status.serviceStatus(statusParts(parts)),
      }),
      note: (note) => parts.audit.note(note),
      probeAt: (expression) => parts.timetable.follow(expression),
      announce: (publish) => parts.herald.attach(publish),
      giveUp: () => parts.deliveries.close(),
    };
  } catch (error) {
    await close();
    throw error;
  }
}

type Parts = ReturnType<typeof openParts>;

function openParts({ config, probe, log, version, overrides }: PlaceOptions, closing: (() => Promise<void> | void)[]) {
  const clock = overrides.clock ?? systemClock;
  const deliveries = new Deliveries(() => uploader.hurry());
  const herald = new Herald(config.name, clock);
  const counts = new TokenCounts();
  // The holder calls back before the parts above it stand; its first states wait here.
  let follow: (state: HolderState) => void = () => undefined;
  const events: HolderEvents = { onState: (state) => follow(state) };
  const holder = (overrides.startHolder ?? startChild)(holderConfig(config), events, log);
  closing.push(() => holder.close());
  const usb = new UsbWatch({ clock, log, look: config.module === undefined ? null : (overrides.lookAtUsb ?? lookAtUsb) });
  const custody: Custody = new Custody({
    holder,
    clock,
    log,
    stateDirectory: config.state,
    provenNowMs: () => uploader.provenNowMs,
    link: () => uploader.link,
    refusedFor: () => uploader.report.refusedFor,
    alarm: () => uploader.alarm,
    usb: () => usb.sight,
    whyLocked: () => unattended?.why ?? idle.why,
    onCommitted: (entries, _batchIndex, commitMs) => {
      if (entries.some(({ leaf }) => isFiscal(leaf.kind))) idle.used();
      counts.committed(
        entries.map(({ leaf }) => leaf.kind),
        commitMs,
      );
      uploader.committed();
      for (const { leaf } of entries)
        if (isFiscal(leaf.kind)) herald.tell('issued', { sequence: leaf.sequence, number: leaf.number, total: leaf.total });
      herald.limit(custody);
    },
    onChange: () => {
      herald.standing(custody);
      probeNewLedger();
      audit.look();
    },
    onOpened: async (ledger) => {
      await restoring.finish({ log }, ledger); // first: nothing else may stand before it in its batch
      await handover.finish(ledger); // nor between a handover and what takes it back
      await provisioning.finish(provision, ledger);
      await finishLoss(provision, ledger);
      await finishResume(provision, ledger);
      checkIssuer(config, ledger);
    },
  });
  // What waited while the token was away goes up at once, and in the mode `online` tills need not wait for the timetable.
  let probed: Ledger | null = null;
  const probeNewLedger = (): void => {
    if (custody.ledger === probed) return;
    probed = custody.ledger;
    if (probed === null) return;
    idle.used(); // reading it may have taken longer than a token may be idle
    void uploader.probe().then(() => renewal.look()); // neither rejects
    lookAtStore();
  };
  const filling = new Filling({ holder, clock, log });
  const { auditWaits: waits } = overrides;
  const audit: Audit = new Audit({ custody, holder, clock, log, stateDirectory: config.state, ...(waits === undefined ? {} : { waits }) });
  const lookAtStore = (): void => {
    const { ledger } = custody;
    if (ledger === null) return;
    // Where the holder cannot answer, its state tells why.
    void holder.status().then(
      (figures) => {
        const { usedPercent } = figures;
        const step = herald.store(usedPercent);
        if (step > 0) log.warn('the FLASH fills up', { usedPercent, step });
        void filling.look(ledger, figures); // never rejects
      },
      (error: unknown) => log.debug('the holder gives no figures', { why: whyOf(error) }),
    );
  };
  const provision = { holder, custody, stateDirectory: config.state, log, issuer: config.issuer };
  const handover = new Handover({ holder, custody, log, unattended: () => unattended });
  const uploader = new Uploader({
    custody,
    holder,
    clock,
    log,
    random: Math.random,
    onLink: (link) => {
      if (link === 'down') deliveries.giveUp();
      log.info('link', { link });
      herald.tell('link', { link });
      herald.standing(custody);
    },
    onAlarm: (alarm) => {
      if (alarm === null) return log.info('the alarm is settled');
      const { reason, action } = custody.standing();
      log.error('a second copy of this token issues', { batch: alarm.batchIndex });
      herald.tell('alarm', { batchIndex: alarm.batchIndex, raisedAt: new Date(alarm.raisedAtMs).toISOString(), reason, action });
    },
    onAcknowledged: (upToBatch) => {
      deliveries.acknowledged(upToBatch);
      herald.tell('acknowledged', { upToBatch });
      void custody.reclaim(); // never rejects
      herald.standing(custody);
    },
  });
  const renewal = new CertificateRenewal({
    ...{ custody, holder, clock, log },
    link: () => uploader.link,
    provenNowMs: () => uploader.provenNowMs,
  });
  const pin = pinPlace(config);
  const unattended: UnattendedLogin | null =
    pin === null
      ? null
      : new UnattendedLogin({
          ...{ pin, stateDirectory: config.state, holder, log },
          onRetry: (attempt) => void custody.loggingIn(attempt),
          onTried: (code) => audit.note({ what: 'stored-pin.login', who: 'service', outcome: code ?? 'done' }),
        });
  const idle: IdleLock = new IdleLock({
    ...{ custody, holder, clock, log, unattended },
    isUploading: () => uploader.link === 'up' && uploader.report.refusedFor === null && (custody.ledger?.tip.pending.count ?? 0) > 0,
    onLocked: () => audit.note({ what: 'session.logout', who: 'service', outcome: 'done' }),
  });
  follow = (state) => {
    idle.follow(state);
    usb.follow(state);
    log.info('token', { state: state.kind, reason: 'reason' in state ? state.reason : undefined });
    // The login first: callers then know that `locked` is a moment.
    if (unattended !== null && state.kind === 'locked')
      void custody.loggingIn(unattended.attempt(state)); // never rejects
    else unattended?.leave();
    if (state.kind === 'absent' || state.kind === 'open') unattended?.resume();
    custody.follow(state);
  };
  follow(holder.state());
  const timetable = openTimetable(probe, clock, log, () => uploader.probe());
  const watch = setInterval(() => {
    idle.look();
    herald.standing(custody);
  }, standingWatchMs);
  const storeWatch = setInterval(() => {
    if (custody.ledger === null) return;
    void custody.reclaim(); // never rejects; time passes also without acknowledgements
    void renewal.look(); // never rejects
    lookAtStore();
  }, storeWatchMs);
  closing.push(async () => {
    clearInterval(watch);
    clearInterval(storeWatch);
    unattended?.close();
    timetable.close();
    await audit.close();
    await uploader.close();
    await custody.close();
  });
  return {
    ...{ clock, version, log, holder, custody, uploader, timetable, deliveries, herald },
    ...{ provision, handover, unattended, filling, renewal, idle, usb, counts, audit },
  };
}

function waitingParts({ custody, uploader, timetable }: Parts): backlog.BacklogParts {
  return {
    ...{ custody, link: () => uploader.link, report: () => uploader.report },
    ...{ nextProbe: () => timetable.nextRun(), probe: () => uploader.probe() },
  };
}

function statusParts(parts: Parts): status.StatusParts {
  const { clock, version, custody, holder, filling, unattended, usb } = parts;
  return { custody, holder, clock, backlog: waitingParts(parts), filling, version, unattended, usb };
}

function handlersOf(parts: Parts): Place['handlers'] {
  const { clock, log, custody, holder, uploader, deliveries, provision, handover, unattended, renewal, idle, audit } = parts;
  const door = { custody, holder, unattended };
  const reading = new LedgerReading(custody, holder);
  const issue = { custody, clock, deliveries, log, link: () => uploader.link };
  const waiting = waitingParts(parts);
  const standing = statusParts(parts);
  return audited(audit, {
    'invoice.issue': (caller, params) => issuing.issue(issue, caller.terminal, params),
    'invoice.preview': (caller, params) => issuing.preview(issue, caller.terminal, params),
    'invoice.get': (caller, params) => find.get(custody, caller.terminal, params),
    'invoice.last': (caller) => find.last(custody, caller.roles.includes('auditor') ? null : caller.terminal),
    'ledger.read': (_caller, params) => reading.read(params),
    'audit.list': (_caller, params) => auditList({ custody, holder, audit, reading }, params),
    'session.login': (_caller, params) => idle.working(() => session.login(door, params)),
    'session.logout': () => idle.leaveToPerson(() => session.logout(door)),
    'session.changePin': (_caller, params) => session.changePin(door, params),
    'session.unblock': (_caller, params) => session.unblock(door, params),
    'backlog.status': () => backlog.status(waiting),
    'backlog.flush': () => backlog.flush(waiting),
    'service.status': () => status.serviceStatus(standing),
    'service.identity': () => status.identity(custody),
    'token.provision': (_caller, params) => provisioning.provision(provision, params),
    'token.handOver': () => handover.handOver(),
    'token.takeBack': (_caller, params) => handover.takeBack(params),
    'token.renewCertificate': () => renewCertificate(custody, renewal),
    'store.restore': (_caller, params) => restoring.restore(provision, params),
    'store.check': (_caller, params) => idle.working(() => checkStore({ custody, holder, log: provision.log }, params)),
    'store.mend': (_caller, params) => mendStore({ custody, holder, unattended, log: provision.log }, params),
    'store.resume': (_caller, params) => resume({ ...provision, unattended }, params),
  });
}

function startChild(config: HolderConfig, events: HolderEvents, log: Log): Holder {
  return startHolder({ config, events, onChatter: (line) => log.info('holder', { line }) });
}

/** Where the stored PIN is, or null: a person logs in. */
function pinPlace({ pin_file: file, pin_credential: name }: TokenConfig): PinPlace | null {
  if (name !== undefined) return { kind: 'credential', name, directory: process.env['CREDENTIALS_DIRECTORY'] ?? null };
  return file === undefined ? null : { kind: 'file', path: file };
}

function holderConfig(config: TokenConfig): HolderConfig {
  const { mirror, state } = config;
  const place = mirror.path === undefined ? ({ kind: 'folder', folder: state } as const) : ({ kind: 'file', path: mirror.path } as const);
  return {
    module: config.module ?? null,
    ...(config.module_sha256 === undefined ? {} : { moduleSha256: config.module_sha256 }),
    ...(config.module_parameters === undefined ? {} : { moduleParameters: config.module_parameters }),
    ...(config.label === undefined ? {} : { tokenLabel: config.label }),
    ...(config.soft_token === undefined ? {} : { softTokenPath: config.soft_token }),
    flashPath: config.flash,
    imageBytes: config.flash_mib * 1024 * 1024,
    ...(mirror.mode === 'off' ? {} : { mirror: { mode: mirror.mode, place } }),
    presencePaths: config.presence,
  };
}

/** A token that was plugged in where another issuer's belongs must not be used by mistake. */
function checkIssuer({ name, issuer }: TokenConfig, { charter }: Ledger): void {
  if (issuer === null || charter === null || charter.issuer.taxId === issuer) return;
  throw new UkeyError('halted', `the token at ${name} is of the issuer ${charter.issuer.taxId}, and this place is for ${issuer}`, {
    action: 'Plug the right token in, or correct its issuer in the configuration.',
  });
}

/** Whatever one step says, the others are done; the first failure is thrown. */
export async function inTurn(steps: readonly (() => Promise<void> | void)[]): Promise<void> {
  const failures: unknown[] = [];
  for (const step of steps)
    await Promise.resolve()
      .then(step)
      .catch((error: unknown) => failures.push(error));
  if (failures.length > 0) throw failures[0];
}
