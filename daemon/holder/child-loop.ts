// Owns: the holder process's end of the channel: messages in, calls on a Holder, answers out.
// Invariants: the first message is the configuration and nothing is opened before it; one message per turn of the event loop, so that
// a `sealed` leaves, and its write begins, before the next batch is signed (Node hands over all that lies in the channel at once); when the channel closes the process ends at once, whatever a driver is doing: nothing that is not durable was promised.
// Must not: read argv or environment; print anything that is not for the log.
import { type UkeyError, unreachable } from '#ipc-schema/errors.ts';
import type { Seen } from './anchor.ts';
import type { HolderConfig } from './configuration.ts';
import type { Holder } from './holder.ts';
import { joinHolder } from './joined.ts';
import { type Answer, type Call, encodeError, type FromChild, isToChild, pinsOf, type ToChild } from './messages.ts';
import type { OpenedFromConfig } from './parts.ts';
import { receivePins } from './pin-pipe.ts';

const lastAnswersMs = 50;

/** Runs until the parent goes. `open` is `partsOf`; tests compose it with faulty tokens. */
export function serveParent(open: (config: HolderConfig) => OpenedFromConfig): void {
  let holder: Holder | null = null;
  const inbox: ToChild[] = [];
  let isTurnTaken = false;
  const takeOne = (): void => {
    const message = inbox.shift();
    isTurnTaken = message !== undefined;
    if (message === undefined) return;
    setImmediate(takeOne);
    if (message.kind === 'configure') holder ??= start(open(message.config), message.seen);
    else if (holder === null) refuse(message.id, new Error('the configuration comes first'));
    else answer(holder, message);
  };
  process.on('disconnect', die);
  process.on('message', (message: unknown) => {
    if (!isToChild(message)) return note('a message of no known kind was dropped', null);
    receivePins(pinsOf(message));
    inbox.push(message);
    if (!isTurnTaken) takeOne();
  });
}

/** SIGKILL: an orderly exit would run the vendor module's exit handlers, which may hang like the rest of it. */
function die(): void {
  process.kill(process.pid, 'SIGKILL');
}

function start(parts: OpenedFromConfig, seen: Seen | null): Holder {
  return joinHolder({
    ...parts,
    seen,
    events: { onState: (state) => tell({ kind: 'state', state }) },
    onLooked: () => tell({ kind: 'alive' }),
    onHopeless: (reason) => {
      note('this process gives up for a new one', new Error(reason));
      setTimeout(die, lastAnswersMs); // refusals that are on their way are definite answers
    },
    note,
  });
}

function tell(message: FromChild): void {
  // A channel that breaks reports itself by `disconnect`; the callback keeps the same news from being thrown as well.
  process.send?.(message, undefined, undefined, () => undefined);
}

function refuse(id: number, thrown: unknown): void {
  tell({ kind: 'refused', id, error: encodeError(thrown) });
}

/** To the parent's log, by way of stderr. */
function note(what: string, error: unknown): void {
  const parts = [what];
  for (let at = error; at instanceof Error && parts.length < 5; at = at.cause) parts.push(at.message);
  process.stderr.write(`${parts.join(': ')}\n`);
}

function answer(holder: Holder, call: Call): void {
  if (call.kind === 'commit') {
    const { sealed, durable } = holder.commit(call.draft);
    sealed.then((sealBytes) => tell({ kind: 'sealed', id: call.id, sealBytes })).catch(() => undefined); // `durable` tells the same error
    durable.then(
      () => tell({ kind: 'durable', id: call.id }),
      (error: UkeyError) => refuse(call.id, error),
    );
    return;
  }
  perform(holder, call).then(
    (done) => tell({ kind: 'answer', id: call.id, answer: done }),
    (error: unknown) => refuse(call.id, error),
  );
}

async function perform(holder: Holder, call: Exclude<Call, { kind: 'commit' }>): Promise<Answer> {
  switch (call.kind) {
    case 'login':
      return { kind: 'mount', mount: await holder.login(call.pin, call.useLastTry) };
    case 'logout':
      await holder.logout();
      return { kind: 'done' };
    case 'changePin':
      return { kind: 'facts', facts: await holder.changePin(call.change) };
    case 'unblockPin':
      return { kind: 'facts', facts: await holder.unblockPin(call.unblock) };
    case 'provision':
      return { kind: 'enrolment', request: await holder.provision(call.options) };
    case 'format':
      return { kind: 'mount', mount: await holder.format(call.request) };
    case 'beginRestore':
      return { kind: 'restoreBegun', begun: await holder.beginRestore(call.options) };
    case 'unlockRestore':
      return { kind: 'enrolment', request: await holder.unlockRestore(call.sealedDataKey) };
    case 'finishRestore':
      return { kind: 'mount', mount: await holder.finishRestore(call.grant) };
    case 'openAgain':
      return { kind: 'mount', mount: await holder.openAgain() };
    case 'requestRenewal':
      return { kind: 'enrolment', request: await holder.requestRenewal(call.certificateHash) };
    case 'read':
      return { kind: 'batches', batches: await holder.readPacked(call.fromBatch, call.maxBytes) };
    case 'carry':
      await holder.carry(call.carried);
      return { kind: 'done' };
    case 'release':
      return { kind: 'released', ...(await holder.release(call.upToBatch)) };
    case 'check':
      return { kind: 'checked', checked: await holder.check(call.fromRun, call.heal) };
    case 'mend':
      return { kind: 'mended', batches: await holder.mend(call.batches) };
    case 'resume':
      return { kind: 'resumed', answer: await holder.resume(call.step) };
    case 'status':
      return { kind: 'status', status: await holder.status() };
    case 'close':
      await holder.close();
      return { kind: 'done' };
    default:
      return unreachable(call);
  }
}
