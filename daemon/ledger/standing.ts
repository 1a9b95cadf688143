// Owns: the one word for what the service can do now, with the reason and who must act. Pure: facts in, standing out.
import type { UsbSight } from '#ground/machine.ts';
import type { HolderState } from '#holder/holder.ts';
import { blankFlashAction, type ErrorCode, errorTable, unreachable } from '#ipc-schema/errors.ts';
import type { Link, Standing } from '#ipc-schema/status.ts';
import type { CloneAlarm, Contradiction } from './contradiction.ts';
import type { Verdict } from './limits.ts';

/** Why a stored PIN has not unlocked the token, and who must act. */
export interface LockedWhy {
  readonly reason: string;
  readonly action: string;
}

export type HoldingFact =
  | { readonly kind: 'starting' }
  /** `usb`: what is plugged in that a token could be; null: not known. */
  | { readonly kind: 'absent'; readonly reason: string; readonly action?: string; readonly usb?: UsbSight | null }
  /** `half`: provisioning has begun, and somebody is logged in to end it. `flash`: the KEY has its keys, and nothing is on the FLASH. */
  | { readonly kind: 'blank'; readonly what: 'token' | 'half' | 'flash' }
  | { readonly kind: 'locked'; readonly pinLocked: boolean; readonly why: LockedWhy | null }
  /** `percent`: of what is read anew; null: it goes quickly, or has just begun. */
  | { readonly kind: 'mounting'; readonly percent: number | null }
  | {
      readonly kind: 'open';
      readonly verdict: Verdict;
      readonly roomLeft: boolean;
      readonly link: Link;
      readonly refusedFor: string | null;
      readonly heldUpBy: string | null;
      readonly alarm: CloneAlarm | null;
      /** Until the KEY's certificate ends; null: nobody needs to act. */
      readonly certificateDays: number | null;
    }
  /** `by`: what the server has proven, or that another KEY is to go on; or null. */
  | { readonly kind: 'halted'; readonly reason: string; readonly action?: string; readonly by: Stop['kind'] | null };

/** What stops issuing: proven by the server, or told by the log itself. */
export interface Stop {
  readonly reason: string;
  readonly kind: Contradiction['kind'] | 'handed-over';
}

export interface StandingReport {
  readonly standing: Standing;
  readonly reason: string;
  /** Empty when nobody needs to act. */
  readonly action: string;
}

/** The table's sentence points to service.status; this is what stands there. */
const haltedAction = 'Keep the token as it is: do not unplug, format or provision it, and ask an administrator.';
const rollbackAction = 'Plug in the newest FLASH of this token, or ask an administrator to heal this one; do not format or provision it.';
const cloneAction =
  'Two copies of this token have issued: keep this one as it is, and ask the authority. What it has not uploaded must be accounted for by another token.';
const handedOverAction =
  'Plug in the spare token and put the ledger on it (ukeyctl store restore, with a recovery ticket). If the spare fails, plug this one in and take it back (ukeyctl token replace --cancel).';
const certificateAction =
  'Restore the connection to the ticket server and renew it (ukeyctl token renew); where that is refused, ask headquarters for another token and replace this one (ukeyctl token replace).';
const alarmAction = 'Ask the authority: a second copy of this token has issued. This one goes on.';

const report = (standing: Standing, reason: string, action = ''): StandingReport => ({ standing, reason, action });

/** What callers are refused with while no ledger is open, and none is on its way. */
export function codeWithoutLedger(kind: HolderState['kind'], mountFailed: boolean): 'busy' | 'no-token' | 'locked' | 'halted' {
  switch (kind) {
    case 'starting':
      return 'busy';
    case 'absent':
    case 'blank':
      return 'no-token';
    case 'locked':
    case 'halted':
      return kind;
    case 'open':
      return mountFailed ? 'halted' : 'busy';
    default:
      return unreachable(kind);
  }
}

export function blankFact({ provisioned, loggedIn }: { readonly provisioned: boolean; readonly loggedIn: boolean }): HoldingFact {
  if (!provisioned) return { kind: 'blank', what: 'token' };
  return { kind: 'blank', what: loggedIn ? 'half' : 'flash' };
}

export function standingOf(fact: HoldingFact): StandingReport {
  switch (fact.kind) {
    case 'starting':
      return report('no-token', 'the token is being opened', 'Wait a moment.');
    case 'absent':
      return report('no-token', fact.reason, fact.action ?? usbAction(fact.usb ?? null) ?? errorTable['no-token'].action);
    case 'blank':
      return blankStanding(fact.what);
    case 'locked':
      if (fact.pinLocked) return report('locked', 'the PIN is locked after too many wrong tries', errorTable['pin-locked'].action);
      return report('locked', fact.why?.reason ?? 'the token waits for its PIN', fact.why?.action ?? errorTable.locked.action);
    case 'mounting':
      return report(
        'locked',
        fact.percent === null ? 'the ledger is being read' : `the ledger is being read anew: ${fact.percent} %`,
        'Wait a moment.',
      );
    case 'halted':
      return report('halted', fact.reason, fact.action ?? haltedActions[fact.by ?? 'other']);
    case 'open':
      return openStanding(fact);
    default:
      return unreachable(fact);
  }
}

/** For whoever stands before the machine; null: nothing is known that helps. */
function usbAction(usb: UsbSight | null): string | null {
  if (usb === null) return null;
  const [smartCard, storage] = [usb.smartCards[0], usb.storage[0]];
  if (smartCard !== undefined)
    return `The smart card "${smartCard}" is plugged in, and no token can be used through it: pull it out, wait five seconds and plug it in again; if that does not help, have its driver checked (ukeyctl token probe).`;
  if (storage !== undefined)
    return `The USB storage "${storage}" is plugged in, and no smart card: if that is the token, pull it out, wait five seconds and plug it in again; else plug the token in.`;
  return 'Neither a smart card nor a USB storage is plugged in: plug the token in; if it is, use another port.';
}

function blankStanding(what: Extract<HoldingFact, { kind: 'blank' }>['what']): StandingReport {
  switch (what) {
    case 'token':
      return report('no-token', 'the token is blank', 'Provision it (ukeyctl provision).');
    case 'half':
      return report('no-token', 'the token is half provisioned', 'Repeat its provisioning with the same ticket (ukeyctl provision).');
    case 'flash':
      return report('no-token', 'the KEY is provisioned, its FLASH is blank', blankFlashAction);
    default:
      return unreachable(what);
  }
}

const refusedAction = 'Ask headquarters why the ticket server refuses; invoices wait on the token until it takes them.';

const heldUpAction =
  'Leave the token plugged in: it is tried again by itself. If it stays so, have an administrator look at the FLASH (ukeyctl store check) and mend it (ukeyctl store scrub).';

const haltedActions = { rollback: rollbackAction, clone: cloneAction, 'handed-over': handedOverAction, other: haltedAction } as const;

function openStanding(fact: Extract<HoldingFact, { kind: 'open' }>): StandingReport {
  if (!fact.roomLeft) return report('store-full', 'the FLASH has no room for another batch', errorTable['store-full'].action);
  if (fact.verdict.kind === 'refuse') return report(standingFor(fact.verdict.code), fact.verdict.why, errorTable[fact.verdict.code].action);
  if (fact.refusedFor !== null) {
    return report('issuing-offline', `the ticket server refuses what is uploaded: ${fact.refusedFor}`, refusedAction);
  }
  if (fact.heldUpBy !== null) {
    return report('issuing-offline', `what waits on the token cannot be uploaded for now: ${fact.heldUpBy}`, heldUpAction);
  }
  if (fact.alarm !== null) {
    const told = `the ticket server has refused a batch ${fact.alarm.batchIndex} that a second copy of this token sealed`;
    return report(fact.link === 'up' ? 'issuing-online' : 'issuing-offline', told, alarmAction);
  }
  const { standing, reason } = linkStanding(fact.link);
  const { certificateDays: days } = fact;
  if (days === null) return report(standing, reason);
  return report(standing, `${reason}; the token's certificate ${days === 0 ? 'has ended' : `ends in ${days} days`}`, certificateAction);
}

function linkStanding(link: Link): StandingReport {
  switch (link) {
    case 'up':
      return report('issuing-online', 'the ticket server answers');
    case 'down':
      return report('issuing-offline', 'the ticket server does not answer; invoices wait on the token');
    case 'unknown':
      return report('issuing-offline', 'the ticket server has not been reached yet; invoices wait on the token');
    default:
      return unreachable(link);
  }
}

function standingFor(code: ErrorCode): Standing {
  return code === 'clock-untrusted' ? 'clock-untrusted' : 'limit-reached';
}
