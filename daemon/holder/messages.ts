// Owns: the closed union of messages between front and holder process (Node's IPC channel, structured clone).
// Invariants: every call carries an id and gets exactly one `answer` or `refused`; a commit gets `sealed`, then `durable`, or `refused`
// at either point; messages of one direction arrive in the order in which they were sent. A PIN never travels here: its place is filled with
// zeros, and its bytes take pin-pipe.ts.
// Must not: know processes or deadlines.
import { asUkeyError, isErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import type { TokenFacts } from '#token/token.ts';
import type { Seen } from './anchor.ts';
import type { HolderConfig } from './configuration.ts';
import type {
  BatchDraft,
  Carried,
  FormatRequest,
  HolderState,
  HolderStatus,
  Mount,
  PackedBatch,
  PinChange,
  PinUnblock,
  ProvisionOptions,
  RestoreBegun,
  RestoreOptions,
  ResumeAnswer,
  ResumeStep,
  SegmentCheck,
  StoredBatch,
  SuccessionGrant,
} from './holder.ts';

export type Call =
  | { readonly kind: 'login'; readonly id: number; readonly pin: Uint8Array; readonly useLastTry: boolean }
  | { readonly kind: 'logout'; readonly id: number }
  | { readonly kind: 'changePin'; readonly id: number; readonly change: PinChange }
  | { readonly kind: 'unblockPin'; readonly id: number; readonly unblock: PinUnblock }
  | { readonly kind: 'provision'; readonly id: number; readonly options: ProvisionOptions }
  | { readonly kind: 'format'; readonly id: number; readonly request: FormatRequest }
  | { readonly kind: 'beginRestore'; readonly id: number; readonly options: RestoreOptions }
  | { readonly kind: 'unlockRestore'; readonly id: number; readonly sealedDataKey: Uint8Array }
  | { readonly kind: 'finishRestore'; readonly id: number; readonly grant: SuccessionGrant | null }
  | { readonly kind: 'openAgain'; readonly id: number }
  | { readonly kind: 'commit'; readonly id: number; readonly draft: BatchDraft }
  | { readonly kind: 'requestRenewal'; readonly id: number; readonly certificateHash: Uint8Array }
  | { readonly kind: 'read'; readonly id: number; readonly fromBatch: number; readonly maxBytes: number }
  | { readonly kind: 'carry'; readonly id: number; readonly carried: Carried }
  | { readonly kind: 'release'; readonly id: number; readonly upToBatch: number }
  | { readonly kind: 'check'; readonly id: number; readonly fromRun: number; readonly heal: boolean }
  | { readonly kind: 'mend'; readonly id: number; readonly batches: readonly StoredBatch[] }
  | { readonly kind: 'resume'; readonly id: number; readonly step: ResumeStep }
  | { readonly kind: 'status'; readonly id: number }
  | { readonly kind: 'close'; readonly id: number };

export type ToChild =
  /** `seen`: how far the ledger was durable that the process before had open last. */
  { readonly kind: 'configure'; readonly config: HolderConfig; readonly seen: Seen | null } | Call;

export type Answer =
  | { readonly kind: 'done' }
  | { readonly kind: 'mount'; readonly mount: Mount }
  | { readonly kind: 'facts'; readonly facts: TokenFacts }
  | { readonly kind: 'enrolment'; readonly request: Uint8Array }
  | { readonly kind: 'restoreBegun'; readonly begun: RestoreBegun }
  | { readonly kind: 'batches'; readonly batches: PackedBatch[] }
  | { readonly kind: 'checked'; readonly checked: SegmentCheck }
  | { readonly kind: 'mended'; readonly batches: readonly number[] }
  | { readonly kind: 'resumed'; readonly answer: ResumeAnswer }
  | { readonly kind: 'released'; readonly segments: number; readonly oldestBatch: number }
  | { readonly kind: 'status'; readonly status: HolderStatus };

export type FromChild =
  | { readonly kind: 'state'; readonly state: HolderState }
  /** Sent after each look at the token: the process is not stuck in a driver. */
  | { readonly kind: 'alive' }
  | { readonly kind: 'answer'; readonly id: number; readonly answer: Answer }
  | { readonly kind: 'refused'; readonly id: number; readonly error: WireError }
  | { readonly kind: 'sealed'; readonly id: number; readonly sealBytes: Uint8Array }
  | { readonly kind: 'durable'; readonly id: number };

const kindsFromChild: ReadonlySet<unknown> = new Set<FromChild['kind']>(['state', 'alive', 'answer', 'refused', 'sealed', 'durable']);
const kindsToChild: ReadonlySet<unknown> = new Set<ToChild['kind']>([
  'configure',
  'login',
  'logout',
  'changePin',
  'unblockPin',
  'provision',
  'format',
  'beginRestore',
  'unlockRestore',
  'finishRestore',
  'openAgain',
  'commit',
  'requestRenewal',
  'read',
  'carry',
  'release',
  'check',
  'mend',
  'resume',
  'status',
  'close',
]);

type WithoutId<Each> = Each extends Call ? Omit<Each, 'id'> : never;
export type CallBody = WithoutId<Call>;

/** The places of a call's PINs, in one order for both ends. */
export function pinsOf(call: ToChild | CallBody): readonly Uint8Array[] {
  switch (call.kind) {
    case 'login':
      return [call.pin];
    case 'changePin':
      return [call.change.oldPin, call.change.newPin];
    case 'unblockPin':
      return [call.unblock.soPin, call.unblock.newPin];
    case 'provision':
      return [call.options.pin, call.options.soPin];
    case 'beginRestore':
      return call.options.soPin === null ? [call.options.pin] : [call.options.pin, call.options.soPin];
    case 'resume':
      return pinsIn(call.step);
    default:
      return [];
  }
}

/** What is overwritten when the step ends. */
export function pinsIn(step: ResumeStep): readonly Uint8Array[] {
  if (step.kind === 'inspect' || step.kind === 'survey') return [step.pin];
  return step.kind === 'renew' ? [step.renewal.pin, step.renewal.soPin] : [];
}

/** Both ends are this program, so the shape behind a known kind is believed. */
export function isFromChild(value: unknown): value is FromChild {
  return typeof value === 'object' && value !== null && 'kind' in value && kindsFromChild.has(value.kind);
}

export function isToChild(value: unknown): value is ToChild {
  return typeof value === 'object' && value !== null && 'kind' in value && kindsToChild.has(value.kind);
}

/** A UkeyError as plain data; the causes become text. */
export interface WireError {
  readonly code: string;
  readonly message: string;
  readonly action: string;
  readonly field: string | undefined;
  readonly retryAfterMs: number | undefined;
  readonly causes: readonly string[];
}

const causesMax = 5;

export function encodeError(thrown: unknown): WireError {
  const error = asUkeyError(thrown);
  const causes: string[] = [];
  for (let at = error.cause; at instanceof Error && causes.length < causesMax; at = at.cause) causes.push(at.message);
  const { code, message, action, field, retryAfterMs } = error;
  return { code, message, action, field, retryAfterMs, causes };
}

export function decodeError(wire: WireError): UkeyError {
  const cause = wire.causes.reduceRight<Error | undefined>(
    (inner, message) => new Error(message, inner === undefined ? undefined : { cause: inner }),
    undefined,
  );
  return new UkeyError(isErrorCode(wire.code) ? wire.code : 'internal', wire.message, {
    action: wire.action,
    field: wire.field,
    retryAfterMs: wire.retryAfterMs,
    ...(cause === undefined ? {} : { cause }),
  });
}
