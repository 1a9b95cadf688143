// Owns: everything that lives from one token: its holder, custody (ledger), uploader and timetable, and the errands that callers can ask of it.
// With compose.ts and errands.ts the only files that know all rooms. Invariants: places know nothing of one another, so that a stuck token delays no
// other; holder, custody, uploader and timetable are opened in that order and closed in reverse.
import { Audit, type AuditWaits, type Note } from '#desk/audit.ts';
import type { BacklogParts } from '#desk/backlog.ts';
import { Deliveries } from '#desk/deliveries.ts';
import { Handover } from '#desk/handover.ts';
import { Herald } from '#desk/herald.ts';
import { IdleLock } from '#desk/idle-lock.ts';
import { finishLoss } from '#desk/loss.ts';
import { pinPlaceOf } from '#desk/pin-source.ts';
import * as provisioning from '#desk/provision.ts';
import * as restoring from '#desk/restore.ts';
import { finishResume } from '#desk/resume.ts';
import * as status from '#desk/status.ts';
import { UnattendedLogin } from '#desk/unattended-login.ts';
import { UsbWatch } from '#desk/usb-watch.ts';
import { type Clock, systemClock } from '#ground/clock.ts';
import type { TokenConfig } from '#ground/config.ts';
import { type Log, whyOf } from '#ground/log.ts';
import { lookAtUsb } from '#ground/machine.ts';
import { type HolderConfig, holderConfigOf } from '#holder/configuration.ts';
import type { Holder, HolderEvents, HolderState } from '#holder/holder.ts';
import { startHolder } from '#holder/parent.ts';
import { isFiscal } from '#ipc-schema/entry.ts';
import type { EventNotice } from '#ipc-schema/envelope.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { Custody } from '#ledger/custody.ts';
import { Filling } from '#ledger/filling.ts';
import type { Ledger } from '#ledger/ledger.ts';
import type { PlannedEntry } from '#ledger/numbering.ts';
import { TokenCounts } from '#metrics/counts.ts';
import type { TokenFigures } from '#metrics/figures.ts';
import { CertificateRenewal } from '#upload/certificate-renewal.ts';
import { openTimetable, type Timetable } from '#upload/timetable.ts';
import { Uploader } from '#upload/uploader.ts';
import { type Errands, errandsOf } from './errands.ts';

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
  readonly handlers: Errands;
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

type Closing = (() => Promise<void> | void)[];

/** Throws what opening has thrown; then nothing of it is left open. */
export async function openPlace(options: PlaceOptions): Promise<Place> {
  const closing: Closing = [];
  try {
    return new TokenPlace(options, closing);
  } catch (error) {
    await inTurn(closing.reverse());
    throw error;
  }
}

class TokenPlace implements Place {
  readonly name: string;
  readonly issuer: string | null;
  readonly custody: Custody;
  readonly handlers: Errands;
  readonly #options: PlaceOptions;
  readonly #closing: Closing;
  readonly #clock: Clock;
  readonly #holder: Holder;
  readonly #deliveries: Deliveries;
  readonly #herald: Herald;
  readonly #counts = new TokenCounts();
  readonly #usb: UsbWatch;
  readonly #filling: Filling;
  readonly #audit: Audit;
  readonly #provision: provisioning.ProvisionParts;
  readonly #handover: Handover;
  readonly #uploader: Uploader;
  readonly #renewal: CertificateRenewal;
  readonly #unattended: UnattendedLogin | null;
  readonly #idle: IdleLock;
  readonly #timetable: Timetable;
  /** The holder calls back before the parts above it stand; what it says until then is looked up afterwards. */
  #isWhole = false;
  /** The ledger that was greeted last. */
  #greeted: Ledger | null = null;

  /** Parts name one another in callbacks only: until all stand, none is called. */
  constructor(options: PlaceOptions, closing: Closing) {
    const { config, probe, log, overrides } = options;
    const clock = overrides.clock ?? systemClock;
    this.#options = options;
    this.#closing = closing;
    this.#clock = clock;
    this.name = config.name;
    this.issuer = config.issuer;
    this.#deliveries = new Deliveries(() => this.#uploader.hurry());
    this.#herald = new Herald(config.name, clock);
    const holder = this.#startHolder();
    this.#holder = holder;
    closing.push(() => holder.close());
    this.#usb = new UsbWatch({ clock, log, look: config.module === undefined ? null : (overrides.lookAtUsb ?? lookAtUsb) });
    this.custody = this.#openCustody();
    const { custody } = this;
    this.#filling = new Filling({ holder, clock, log });
    const waits = overrides.auditWaits === undefined ? {} : { waits: overrides.auditWaits };
    this.#audit = new Audit({ custody, holder, clock, log, stateDirectory: config.state, ...waits });
    this.#provision = { holder, custody, stateDirectory: config.state, log, issuer: config.issuer };
    this.#handover = new Handover({ holder, custody, log, unattended: () => this.#unattended });
    this.#uploader = this.#openUploader();
    this.#renewal = new CertificateRenewal({
      ...{ custody, holder, clock, log },
      link: () => this.#uploader.link,
      provenNowMs: () => this.#uploader.provenNowMs,
    });
    this.#unattended = this.#openUnattended();
    this.#idle = this.#openIdleLock();
    this.#isWhole = true;
    this.#follow(holder.state());
    this.#timetable = openTimetable(probe, clock, log, () => this.#uploader.probe());
    this.#watch();
    this.handlers = this.#idle.watching(this.#errands());
  }

  async figures(): Promise<TokenFigures> {
    const { name } = this;
    return { name, uploads: this.#uploader.counts, counts: this.#counts, status: await status.serviceStatus(this.#statusParts()) };
  }

  note(note: Note): void {
    this.#audit.note(note);
  }

  probeAt(expression: string): void {
    this.#timetable.follow(expression);
  }

  announce(publish: (notice: EventNotice) => void): void {
    this.#herald.attach(publish);
  }

  giveUp(): void {
    this.#deliveries.close();
  }

  close(): Promise<void> {
    return inTurn(this.#closing.splice(0).reverse());
  }

  // ---- Parts

  #startHolder(): Holder {
    const { config, log, overrides } = this.#options;
    const events: HolderEvents = { onState: (state) => (this.#isWhole ? this.#follow(state) : undefined) };
    return (overrides.startHolder ?? startChild)(holderConfigOf(config), events, log);
  }

  #openCustody(): Custody {
    const { config, log } = this.#options;
    return new Custody({
      ...{ holder: this.#holder, clock: this.#clock, log, stateDirectory: config.state },
      provenNowMs: () => this.#uploader.provenNowMs,
      link: () => this.#uploader.link,
      refusedFor: () => this.#uploader.report.refusedFor,
      heldUpBy: () => this.#uploader.report.heldUpBy,
      alarm: () => this.#uploader.alarm,
      usb: () => this.#usb.sight,
      whyLocked: () => this.#unattended?.why ?? this.#idle.why,
      onCommitted: (entries, _batchIndex, commitMs) => this.#committed(entries, commitMs),
      onChange: () => {
        this.#herald.standing(this.custody);
        this.#greet();
        this.#audit.look();
      },
      onOpened: (ledger) => this.#finishBegun(ledger),
    });
  }

  #openUploader(): Uploader {
    const { log } = this.#options;
    return new Uploader({
      ...{ custody: this.custody, holder: this.#holder, clock: this.#clock, log, random: Math.random },
      onLink: (link) => {
        if (link === 'down') this.#deliveries.giveUp();
        log.info('link', { link });
        this.#herald.tell('link', { link });
        this.#herald.standing(this.custody);
      },
      onAlarm: (alarm) => {
        if (alarm === null) return log.info('the alarm is settled');
        const { reason, action } = this.custody.standing();
        log.error('a second copy of this token issues', { batch: alarm.batchIndex });
        const raisedAt = new Date(alarm.raisedAtMs).toISOString();
        this.#herald.tell('alarm', { batchIndex: alarm.batchIndex, raisedAt, reason, action });
      },
      onAcknowledged: (tokenId, upToBatch) => {
        this.#deliveries.acknowledged(tokenId, upToBatch);
        this.#herald.tell('acknowledged', { upToBatch });
        void this.custody.reclaim(); // never rejects
        this.#herald.standing(this.custody);
      },
    });
  }

  #openUnattended(): UnattendedLogin | null {
    const { config, log } = this.#options;
    const pin = pinPlaceOf(config);
    if (pin === null) return null;
    return new UnattendedLogin({
      ...{ pin, stateDirectory: config.state, holder: this.#holder, log },
      onRetry: (attempt) => void this.custody.loggingIn(attempt),
      onTried: (code) => this.#audit.note({ what: 'stored-pin.login', who: 'service', outcome: code ?? 'done' }),
    });
  }

  #openIdleLock(): IdleLock {
    const { log } = this.#options;
    return new IdleLock({
      ...{ custody: this.custody, holder: this.#holder, clock: this.#clock, log, unattended: this.#unattended },
      isUploading: () => {
        const { link, report } = this.#uploader;
        return link === 'up' && report.refusedFor === null && report.heldUpBy === null && (this.custody.ledger?.tip.pending.count ?? 0) > 0;
      },
      onLocked: () => this.#audit.note({ what: 'session.logout', who: 'service', outcome: 'done' }),
    });
  }

  #watch(): void {
    const watch = setInterval(() => {
      this.#idle.look();
      this.#herald.standing(this.custody);
    }, standingWatchMs);
    const storeWatch = setInterval(() => {
      if (this.custody.ledger === null) return;
      void this.custody.reclaim(); // never rejects; time passes also without acknowledgements
      void this.#renewal.look(); // never rejects
      this.#lookAtStore();
    }, storeWatchMs);
    this.#closing.push(async () => {
      clearInterval(watch);
      clearInterval(storeWatch);
      this.#unattended?.close();
      this.#timetable.close();
      await this.#audit.close();
      await this.#uploader.close();
      await this.custody.close();
    });
  }

  // ---- What happens

  #follow(state: HolderState): void {
    const { log } = this.#options;
    const unattended = this.#unattended;
    this.#idle.follow(state);
    this.#usb.follow(state);
    log.info('token', { state: state.kind, reason: 'reason' in state ? state.reason : undefined });
    // The login first: callers then know that `locked` is a moment.
    if (unattended !== null && state.kind === 'locked')
      void this.custody.loggingIn(unattended.attempt(state)); // never rejects
    else unattended?.leave();
    const isAway = state.kind === 'absent' && state.plugged !== true;
    if (isAway || state.kind === 'open') unattended?.resume();
    this.custody.follow(state);
  }

  /** Before anybody may use the ledger: what was cut short is finished. */
  async #finishBegun(ledger: Ledger): Promise<void> {
    const { config, log } = this.#options;
    await restoring.finish({ log }, ledger); // first: nothing else may stand before it in its batch
    await this.#handover.finish(ledger); // nor between a handover and what takes it back
    await provisioning.finish(this.#provision, ledger);
    await finishLoss(this.#provision, ledger);
    await finishResume(this.#provision, ledger);
    checkIssuer(config, ledger);
  }

  #committed(entries: readonly PlannedEntry[], commitMs: number): void {
    const kinds = entries.map(({ leaf }) => leaf.kind);
    if (kinds.some(isFiscal)) this.#idle.used();
    this.#counts.committed(kinds, commitMs);
    this.#uploader.committed();
    for (const { leaf } of entries)
      if (isFiscal(leaf.kind)) this.#herald.tell('issued', { sequence: leaf.sequence, number: leaf.number, total: leaf.total });
    this.#herald.limit(this.custody);
  }

  /** What waited while the token was away goes up at once, and in the mode `online` tills need not wait for the timetable. */
  #greet(): void {
    const { ledger } = this.custody;
    if (ledger === this.#greeted) return;
    this.#greeted = ledger;
    if (ledger === null) return;
    this.#deliveries.opened(ledger.mount.tokenId);
    this.#idle.used(); // reading it may have taken longer than a token may be idle
    void this.#uploader.probe().then(() => this.#renewal.look()); // neither rejects
    this.#lookAtStore();
  }

  #lookAtStore(): void {
    const { log } = this.#options;
    const { ledger } = this.custody;
    if (ledger === null) return;
    // Where the holder cannot answer, its state tells why.
    void this.#holder.status().then(
      (figures) => {
        const { usedPercent } = figures;
        const step = this.#herald.store(usedPercent);
        if (step > 0) log.warn('the FLASH fills up', { usedPercent, step });
        void this.#filling.look(ledger, figures); // never rejects
      },
      (error: unknown) => log.debug('the holder gives no figures', { why: whyOf(error) }),
    );
  }

  // ---- Errands

  #waitingParts(): BacklogParts {
    const uploader = this.#uploader;
    return {
      ...{ custody: this.custody, link: () => uploader.link, report: () => uploader.report },
      ...{ nextProbe: () => this.#timetable.nextRun(), probe: () => uploader.probe() },
    };
  }

  #statusParts(): status.StatusParts {
    return {
      ...{ custody: this.custody, holder: this.#holder, clock: this.#clock, backlog: this.#waitingParts() },
      ...{ filling: this.#filling, version: this.#options.version, unattended: this.#unattended, usb: this.#usb },
    };
  }

  #errands(): Errands {
    return errandsOf({
      ...{ custody: this.custody, holder: this.#holder, clock: this.#clock, log: this.#options.log, deliveries: this.#deliveries },
      ...{ link: () => this.#uploader.link, waiting: this.#waitingParts(), standing: this.#statusParts() },
      ...{ unattended: this.#unattended, idle: this.#idle, audit: this.#audit, renewal: this.#renewal },
      ...{ provision: this.#provision, handover: this.#handover },
    });
  }
}

function startChild(config: HolderConfig, events: HolderEvents, log: Log): Holder {
  return startHolder({ config, events, onChatter: (line) => log.info('holder', { line }) });
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
