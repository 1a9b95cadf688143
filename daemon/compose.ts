// Owns: from configuration to a running service: parts opened in order, closed in reverse. The only file that knows all rooms.
// Order: state folder and its lock -> holder -> custody (ledger) -> uploader and timetable -> desk -> doors. The doors open last: who can connect is served.
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { Audit, type AuditWaits } from '#desk/audit.ts';
import { auditList } from '#desk/audit-list.ts';
import { audited } from '#desk/audited.ts';
import * as backlog from '#desk/backlog.ts';
import { Deliveries } from '#desk/deliveries.ts';
import * as find from '#desk/find.ts';
import { Handover } from '#desk/handover.ts';
import { Herald } from '#desk/herald.ts';
import * as issuing from '#desk/issue.ts';
import { LedgerReading } from '#desk/ledger-read.ts';
import { finishLoss } from '#desk/loss.ts';
import type { PinPlace } from '#desk/pin-source.ts';
import * as provisioning from '#desk/provision.ts';
import * as restoring from '#desk/restore.ts';
import { finishResume, resume } from '#desk/resume.ts';
import * as session from '#desk/session.ts';
import * as status from '#desk/status.ts';
import { checkStore } from '#desk/store-check.ts';
import { mendStore } from '#desk/store-mend.ts';
import { Terminals } from '#desk/terminals.ts';
import { UnattendedLogin } from '#desk/unattended-login.ts';
import { type Clock, systemClock } from '#ground/clock.ts';
import { type Config, digestOf } from '#ground/config.ts';
import { takeLock } from '#ground/lock.ts';
import { type Log, whyOf } from '#ground/log.ts';
import { machineFacts } from '#ground/machine.ts';
import type { HolderConfig } from '#holder/configuration.ts';
import type { Holder, HolderEvents, HolderState } from '#holder/holder.ts';
import { startHolder } from '#holder/parent.ts';
import { type Handlers, type Service, serve } from '#ipc/serve.ts';
import { isFiscal } from '#ipc-schema/entry.ts';
import { type Methods, methods } from '#ipc-schema/methods.ts';
import { isIssuing } from '#ipc-schema/status.ts';
import { Custody } from '#ledger/custody.ts';
import { Filling } from '#ledger/filling.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { TokenCounts } from '#metrics/counts.ts';
import { Metrics } from '#metrics/metrics.ts';
import { openTimetable, type Timetable } from '#upload/timetable.ts';
import { Uploader } from '#upload/uploader.ts';

/** What tests replace; everything else is as in production. */
export interface Overrides {
  readonly clock?: Clock;
  readonly auditWaits?: AuditWaits;
  startHolder?(config: HolderConfig, events: HolderEvents, log: Log): Holder;
}

export interface RunningService {
  readonly custody: Custody;
  readonly service: Service;
  readonly metrics: Metrics;
  /** Takes up what may change while it runs. Throws invalid-request, and then nothing has changed. */
  reload(config: Config): void;
  close(): Promise<void>;
}

const standingWatchMs = 1_000;
/** How full the store is changes slowly, and asking costs a message to the holder. */
const storeWatchMs = 10_000;

export async function compose(config: Config, log: Log, overrides: Overrides = {}): Promise<RunningService> {
  const clock = overrides.clock ?? systemClock;
  const closing: (() => Promise<void> | void)[] = [];
  const close = async (): Promise<void> => {
    const failures: unknown[] = [];
    // Whatever one part says, the others are closed, down to the lock.
    for (const step of closing.splice(0).reverse())
      await Promise.resolve()
        .then(step)
        .catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw failures[0];
  };
  try {
    mkdirSync(config.state, { recursive: true, mode: 0o700 });
    const lock = takeLock(path.join(config.state, 'ukeyd.lock'));
    closing.push(() => lock.release());
    const parts = openParts(config, log, clock, overrides, closing);
    parts.audit.note({ what: 'service.start', who: 'service', outcome: 'done', digest: digestOf(config) });
    const version = serverVersion();
    const metrics = openMetrics(parts, { log, clock, version, connections: () => service.connectionCount });
    const service = await openDoors(config, { log, clock, version, metrics }, parts);
    closing.push(() => metrics.close());
    closing.push(async () => {
      const closed = service.close();
      parts.deliveries.close();
      await closed;
    });
    parts.announce(service);
    await metrics.follow(config.metrics); // never rejects
    machineFacts().then(
      (facts) => log.info('machine', { ...facts }),
      (error: unknown) => log.debug('the machine tells nothing about itself', { why: whyOf(error) }),
    );
    const reload = (next: Config): void => {
      parts.timetable.follow(next.upload.probe); // first: it may refuse
      void metrics.follow(next.metrics); // never rejects
      parts.audit.note({ what: 'service.reload', who: 'service', outcome: 'done', digest: digestOf(next) });
    };
    return { custody: parts.custody, service, metrics, reload, close };
  } catch (error) {
    await close();
    throw error;
  }
}

interface Parts {
  readonly holder: Holder;
  readonly custody: Custody;
  readonly uploader: Uploader;
  readonly timetable: Timetable;
  readonly deliveries: Deliveries;
  readonly terminals: Terminals;
  readonly provision: provisioning.ProvisionParts;
  readonly handover: Handover;
  readonly unattended: UnattendedLogin | null;
  readonly filling: Filling;
  readonly counts: TokenCounts;
  readonly audit: Audit;
  /** From now on events reach subscribers. */
  announce(service: Service): void;
}

function openParts(config: Config, log: Log, clock: Clock, overrides: Overrides, closing: (() => Promise<void> | void)[]): Parts {
  const terminals = new Terminals(config.state);
  const deliveries = new Deliveries(() => uploader.hurry());
  const herald = new Herald(clock);
  const counts = new TokenCounts();
  // The holder calls back before the parts above it stand; its first states wait here.
  let follow: (state: HolderState) => void = () => undefined;
  const events: HolderEvents = { onState: (state) => follow(state) };
  const holder = (overrides.startHolder ?? startChild)(holderConfig(config), events, log);
  closing.push(() => holder.close());
  const custody: Custody = new Custody({
    holder,
    clock,
    log,
    stateDirectory: config.state,
    provenNowMs: () => uploader.provenNowMs,
    link: () => uploader.link,
    refusedFor: () => uploader.report.refusedFor,
    alarm: () => uploader.alarm,
    whyLocked: () => unattended?.why ?? null,
    onCommitted: (entries, _batchIndex, commitMs) => {
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
    },
  });
  // What waited while the token was away goes up at once, and in the mode `online` tills need not wait for the timetable.
  let probed: Ledger | null = null;
  const probeNewLedger = (): void => {
    if (custody.ledger === probed) return;
    probed = custody.ledger;
    if (probed === null) return;
    void uploader.probe(); // never rejects
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
  const provision = { holder, custody, stateDirectory: config.state, log };
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
  const pin = pinPlace(config);
  const unattended: UnattendedLogin | null =
    pin === null
      ? null
      : new UnattendedLogin({
          ...{ pin, stateDirectory: config.state, holder, log },
          onRetry: (attempt) => void custody.loggingIn(attempt),
          onTried: (code) => audit.note({ what: 'stored-pin.login', who: 'service', outcome: code ?? 'done' }),
        });
  follow = (state) => {
    log.info('token', { state: state.kind, reason: 'reason' in state ? state.reason : undefined });
    // The login first: callers then know that `locked` is a moment.
    if (unattended !== null && state.kind === 'locked')
      void custody.loggingIn(unattended.attempt(state)); // never rejects
    else unattended?.leave();
    if (state.kind === 'absent' || state.kind === 'open') unattended?.resume();
    custody.follow(state);
  };
  follow(holder.state());
  const timetable = openTimetable(config.upload.probe, clock, log, () => uploader.probe());
  const watch = setInterval(() => herald.standing(custody), standingWatchMs);
  const storeWatch = setInterval(() => {
    if (custody.ledger === null) return;
    void custody.reclaim(); // never rejects; time passes also without acknowledgements
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
    holder,
    custody,
    uploader,
    timetable,
    deliveries,
    terminals,
    provision,
    handover,
    unattended,
    filling,
    counts,
    audit,
    announce: (service) => herald.attach((notice) => service.publish(notice)),
  };
}

function startChild(config: HolderConfig, events: HolderEvents, log: Log): Holder {
  return startHolder({ config, events, onChatter: (line) => log.info('holder', { line }) });
}

/** Where the stored PIN is, or null: a person logs in. */
function pinPlace({ token: { pin_file: file, pin_credential: name } }: Config): PinPlace | null {
  if (name !== undefined) return { kind: 'credential', name, directory: process.env['CREDENTIALS_DIRECTORY'] ?? null };
  return file === undefined ? null : { kind: 'file', path: file };
}

function holderConfig(config: Config): HolderConfig {
  const { token, mirror, state } = config;
  const place = mirror.path === undefined ? ({ kind: 'folder', folder: state } as const) : ({ kind: 'file', path: mirror.path } as const);
  return {
    module: token.module ?? null,
    ...(token.label === undefined ? {} : { tokenLabel: token.label }),
    ...(token.soft_token === undefined ? {} : { softTokenPath: token.soft_token }),
    flashPath: token.flash,
    imageBytes: token.flash_mib * 1024 * 1024,
    ...(mirror.mode === 'off' ? {} : { mirror: { mode: mirror.mode, place } }),
    presencePaths: token.presence,
  };
}

/** What stands beside the parts. */
interface Surroundings {
  readonly log: Log;
  readonly clock: Clock;
  readonly version: string;
}

/** The name of the one token in the figures. */
const onlyToken = 'main';

function openMetrics(parts: Parts, around: Surroundings & { connections(): number }): Metrics {
  const { custody, uploader, counts } = parts;
  const asked = statusParts(parts, around);
  return new Metrics({
    ...around,
    tokens: async () => [{ name: onlyToken, status: await status.serviceStatus(asked), uploads: uploader.counts, counts }],
    readiness: () => {
      const { standing, reason, action } = custody.standing();
      const text = [`${onlyToken}: ${standing}: ${reason}`, action].filter((part) => part !== '').join('. ');
      return { ready: isIssuing(standing), text: `${text}\n` };
    },
  });
}

async function openDoors(config: Config, around: Surroundings & { readonly metrics: Metrics }, parts: Parts): Promise<Service> {
  const { log, clock, version, metrics } = around;
  return serve({
    methods,
    handlers: handlersOf(parts, around),
    tillSocketPath: config.socket,
    adminSocketPath: config.admin_socket,
    group: config.socket_group,
    findTerminal: (id) => parts.terminals.find(id),
    standing: () => parts.custody.standing().standing,
    serverName: `ukeyd/${version}`,
    clock,
    randomBytes,
    report: (level, what, facts) => log[level](what, facts),
    onAnswered: ({ method, caller, code, tookMs }) => {
      metrics.requests.answered(method, code, tookMs);
      log.debug('request', { method, caller, code: code ?? undefined, ms: Math.round(tookMs * 100) / 100 });
    },
  });
}

function waitingParts({ custody, uploader, timetable }: Parts): backlog.BacklogParts {
  return {
    ...{ custody, link: () => uploader.link, report: () => uploader.report },
    ...{ nextProbe: () => timetable.nextRun(), probe: () => uploader.probe() },
  };
}

function statusParts(parts: Parts, { clock, version }: Surroundings): status.StatusParts {
  const { custody, holder, filling, unattended } = parts;
  return { custody, holder, clock, backlog: waitingParts(parts), filling, version, unattended };
}

function handlersOf(parts: Parts, around: Surroundings): Handlers<Methods> {
  const { custody, holder, uploader, deliveries, terminals, provision, handover, unattended, audit } = parts;
  const { log, clock } = around;
  const door = { custody, holder, unattended };
  const reading = new LedgerReading(custody, holder);
  const issue = { custody, clock, deliveries, log, link: () => uploader.link };
  const waiting = waitingParts(parts);
  const standing = statusParts(parts, around);
  return audited(audit, {
    'invoice.issue': (caller, params) => issuing.issue(issue, caller.terminal, params),
    'invoice.preview': (caller, params) => issuing.preview(issue, caller.terminal, params),
    'invoice.get': (caller, params) => find.get(custody, caller.terminal, params),
    'invoice.last': (caller) => find.last(custody, caller.roles.includes('auditor') ? null : caller.terminal),
    'ledger.read': (_caller, params) => reading.read(params),
    'audit.list': (_caller, params) => auditList({ custody, holder, audit }, params),
    'session.login': (_caller, params) => session.login(door, params),
    'session.logout': () => session.logout(door),
    'session.changePin': (_caller, params) => session.changePin(door, params),
    'session.unblock': (_caller, params) => session.unblock(door, params),
    'backlog.status': () => backlog.status(waiting),
    'backlog.flush': () => backlog.flush(waiting),
    'service.status': () => status.serviceStatus(standing),
    'service.identity': () => status.identity(custody),
    'token.provision': (_caller, params) => provisioning.provision(provision, params),
    'token.handOver': () => handover.handOver(),
    'token.takeBack': (_caller, params) => handover.takeBack(params),
    'store.restore': (_caller, params) => restoring.restore(provision, params),
    'store.check': (_caller, params) => checkStore({ custody, holder, log: provision.log }, params),
    'store.mend': (_caller, params) => mendStore({ custody, holder, unattended, log: provision.log }, params),
    'store.resume': (_caller, params) => resume({ ...provision, unattended }, params),
    'terminal.enrol': async (_caller, params) => terminals.enrol(params.terminal, params.role),
    'terminal.list': async () => ({ terminals: terminals.list() }),
    'terminal.remove': async (_caller, params) => terminals.remove(params.terminal),
  });
}

function serverVersion(): string {
  const content = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string };
  return content.version;
}
