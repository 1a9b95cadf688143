import { rmSync } from 'node:fs';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import type { Contradiction } from '#ledger/contradiction.ts';
import { graceMs } from '#ledger/waiting-room.ts';
import { fakeEnd, fakeFacts } from '#test/support/fake-holder.ts';
import { documentDraft, LedgerRig } from '#test/support/ledger-rig.ts';

let rig: LedgerRig;
afterEach(async () => {
  vi.useRealTimers();
  await rig?.close();
});

const lockedState = { kind: 'locked', facts: { ...fakeFacts, loggedIn: false } } as const;
const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'answered',
    (error: unknown) => asUkeyError(error).code,
  );
/** Longer than a mount takes. */
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const add = (key: string): Promise<unknown> => rig.custody.use().then((ledger) => ledger.add(documentDraft(key)));

describe('states that follow one another quickly', () => {
  test('leave one open ledger, the newest', async () => {
    rig = await LedgerRig.open();
    const before = rig.ledger;
    for (let at = 0; at < 10; at += 1) {
      rig.holder.become(lockedState);
      rig.holder.reopen();
    }
    const ledger = await rig.custody.use();
    expect(ledger).not.toBe(before);
    await rig.settle();
    expect(rig.custody.ledger).toBe(ledger);
    expect((await ledger.add(documentDraft('k'))).leaf.number).toBe('A-00000001');
    expect(await codeOf(before.add(documentDraft('k2')))).not.toBe('answered');
  });

  test('lose and double nothing: whoever repeats gets his one invoice', async () => {
    rig = await LedgerRig.open();
    let isOver = false;
    const tills = Array.from({ length: 8 }, async (_, till) => {
      let issued = 0;
      while (!isOver) {
        const code = await codeOf(add(`t${till}-${issued}`));
        if (code === 'answered') issued += 1;
        else expect(['busy', 'unknown-outcome', 'locked']).toContain(code);
        await new Promise((resolve) => setImmediate(resolve));
      }
      return issued;
    });
    for (let at = 0; at < 40; at += 1) {
      await new Promise((resolve) => setTimeout(resolve, at % 7));
      rig.holder.become(at % 3 === 0 ? lockedState : { kind: 'starting' });
      if (at % 2 === 0) await new Promise((resolve) => setImmediate(resolve));
      rig.holder.reopen();
      if (at % 4 === 0) await add(`witness-${at}`);
    }
    await rig.custody.use();
    isOver = true;
    const issued = (await Promise.all(tills)).reduce((sum, each) => sum + each, 10);
    expect(issued).toBeGreaterThan(18);
    const numbers = rig.leaves().flatMap((leaf) => leaf.number ?? []);
    expect(numbers).toEqual(numbers.map((_, at) => `A-${String(at + 1).padStart(8, '0')}`));
    // The last try of a till may be unknown to it, and still stand in the log.
    expect(numbers.length).toBeGreaterThanOrEqual(issued);
    expect(numbers.length).toBeLessThanOrEqual(issued + tills.length);
  });

  test('drop a mount that the token has left behind', async () => {
    rig = await LedgerRig.open();
    rig.holder.readMs = 20;
    rig.holder.become(lockedState);
    rig.holder.reopen();
    await new Promise((resolve) => setTimeout(resolve, 5));
    rig.holder.become({ kind: 'absent', reason: 'pulled' });
    rig.holder.readMs = 0;
    await rig.restart().then(() => rig.holder.become({ kind: 'absent', reason: 'pulled' }));
    await rig.settle();
    expect(rig.custody.ledger).toBeNull();
    expect(await codeOf(rig.custody.use())).toBe('no-token');
  });
});

describe('callers', () => {
  test.each([
    [lockedState, 'locked'],
    [{ kind: 'absent', reason: 'out' }, 'no-token'],
    [{ kind: 'blank', facts: fakeFacts }, 'no-token'],
    [{ kind: 'halted', reason: 'damage' }, 'halted'],
  ] as const)('hear at once where only a person can help: %j', async (state, code) => {
    rig = await LedgerRig.open();
    rig.holder.become(state);
    const startedMs = performance.now();
    expect(await codeOf(rig.custody.use())).toBe(code);
    expect(performance.now() - startedMs).toBeLessThan(1_000);
  });

  test('wait while the holder starts again, and then are served', async () => {
    rig = await LedgerRig.open();
    rig.holder.become({ kind: 'starting' });
    const waiting = ['a', 'b', 'c'].map(add);
    await new Promise((resolve) => setTimeout(resolve, 30));
    rig.holder.reopen();
    expect(await Promise.all(waiting.map(codeOf))).toEqual(['answered', 'answered', 'answered']);
  });

  test('wait through `locked` while a login is on its way, and hear `locked` when it fails', async () => {
    rig = await LedgerRig.open();
    rig.holder.become({ kind: 'starting' });
    const waiting = codeOf(add('a'));
    const login = Promise.withResolvers<void>();
    const told = rig.custody.loggingIn(login.promise).catch(() => undefined);
    rig.holder.become(lockedState);
    const alsoWaiting = codeOf(add('b'));
    await new Promise((resolve) => setTimeout(resolve, 20));
    rig.holder.reopen();
    login.resolve();
    expect(await Promise.all([waiting, alsoWaiting])).toEqual(['answered', 'answered']);
    await told;

    const wrong = Promise.withResolvers<void>();
    const second = rig.custody.loggingIn(wrong.promise).catch(() => undefined);
    rig.holder.become(lockedState);
    const refused = codeOf(add('c'));
    await new Promise((resolve) => setTimeout(resolve, 20));
    wrong.reject(new UkeyError('pin-incorrect', 'wrong'));
    expect(await refused).toBe('locked');
    await second;
  });

  test('are told `busy` after the grace, and nothing of them is left', async () => {
    rig = await LedgerRig.open();
    rig.holder.become({ kind: 'starting' });
    vi.useFakeTimers();
    const waiting = Array.from({ length: 100 }, () => codeOf(rig.custody.use()));
    await vi.advanceTimersByTimeAsync(graceMs - 1);
    expect(vi.getTimerCount()).toBe(100);
    await vi.advanceTimersByTimeAsync(1);
    expect(new Set(await Promise.all(waiting))).toEqual(new Set(['busy']));
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe('a proven clone or rollback', () => {
  /** As the server signs it: it holds another batch 1. */
  const clone = (): Contradiction => {
    const signed = rig.ack(1, { headSealHash: new Uint8Array(32).fill(9) });
    return { kind: 'clone', reason: 'a clone', evidence: { kind: 'acknowledgement', signed } };
  };

  test('stops issuing at once and stays, whatever the token does', async () => {
    rig = await LedgerRig.open();
    const { ledger } = rig;
    rig.custody.contradicted(ledger, clone());
    expect(await codeOf(ledger.add(documentDraft('k')))).toBe('halted');
    for (const again of [
      () => rig.holder.become(lockedState),
      () => rig.holder.reopen(),
      () => rig.holder.become({ kind: 'starting' }),
      () => rig.holder.reopen(),
    ]) {
      again();
      await pause(80);
      expect(rig.custody.ledger).toBeNull();
      expect(rig.custody.standing().standing).toBe('halted');
      expect(await codeOf(rig.custody.use())).toBe('halted');
    }
  });

  test('found while the ledger is being opened anew keeps it closed, and the next service too', async () => {
    rig = await LedgerRig.open();
    const { ledger } = rig;
    rig.holder.become(lockedState);
    rig.holder.readMs = 5;
    rig.holder.reopen();
    rig.custody.contradicted(ledger, clone());
    await rig.custody.settled();
    expect(rig.custody.ledger).toBeNull();
    expect(await codeOf(rig.restart())).toBe('halted');
  });
});

describe('a proof against a ledger that is open no more', () => {
  const proof = (signed: Uint8Array): Contradiction => ({
    kind: 'rollback',
    reason: 'what the ledger before was told',
    evidence: { kind: 'acknowledgement', signed },
  });

  test('stops the one that was opened since, where it speaks against that one too', async () => {
    rig = await LedgerRig.open();
    const before = rig.ledger;
    rig.holder.become(lockedState);
    rig.holder.reopen();
    await rig.custody.use();
    rig.custody.contradicted(before, proof(rig.ack(7)));
    await rig.custody.settled();
    expect(rig.custody.standing().standing).toBe('halted');
  });

  test('does not stop the right FLASH, nor is anything told while no token is there', async () => {
    rig = await LedgerRig.open();
    await add('a');
    const before = rig.ledger;
    rig.holder.become({ kind: 'absent', reason: 'out' });
    rig.custody.contradicted(before, proof(rig.ack(rig.holder.stored.length)));
    await rig.custody.settled();
    expect(rig.custody.standing().standing).toBe('no-token');
    rig.holder.reopen();
    await rig.custody.use();
    rig.custody.contradicted(before, proof(rig.ack(rig.holder.stored.length)));
    await rig.custody.settled();
    expect(await codeOf(rig.ledger.add(documentDraft('b')))).toBe('answered');
  });

  test('that handed itself over stops no other either', async () => {
    rig = await LedgerRig.open();
    const before = rig.ledger;
    rig.holder.become(lockedState);
    rig.holder.reopen();
    await rig.custody.use();
    rig.custody.handedOver(before);
    expect(await codeOf(rig.ledger.add(documentDraft('a')))).toBe('answered');
  });
});

describe('a ledger that does not fold', () => {
  test('is halted, with the reason; another login reads it again', async () => {
    rig = await LedgerRig.open();
    await add('a');
    await add('b');
    const [removed] = rig.holder.stored.splice(1, 1);
    rig.holder.become(lockedState);
    rig.holder.reopen();
    expect(await codeOf(rig.custody.use())).toBe('halted');
    expect(rig.custody.standing()).toMatchObject({ standing: 'halted' });
    if (removed !== undefined) rig.holder.stored.splice(1, 0, removed);
    rig.holder.become(lockedState);
    rig.holder.reopen();
    expect(await codeOf(rig.custody.use())).toBe('answered');
  });

  test('a batch of garbage is halted too', async () => {
    rig = await LedgerRig.open();
    await add('a');
    const last = rig.holder.stored.at(-1);
    const { nextSequence } = rig.holder.mount();
    rig.holder.nextSequence = () => nextSequence;
    rig.holder.stored[1] = { batchIndex: 2, bytes: Buffer.from('garbage') };
    rig.holder.stored.push({ batchIndex: 3, bytes: last?.bytes ?? new Uint8Array(0) });
    rig.holder.become(lockedState);
    rig.holder.reopen();
    expect(await codeOf(rig.custody.use())).toBe('halted');
  });
});

test('nothing opens after the service has closed it', async () => {
  rig = await LedgerRig.open();
  await rig.custody.close();
  rig.holder.become(lockedState);
  rig.holder.reopen();
  await pause(80);
  expect(rig.custody.ledger).toBeNull();
  expect(await codeOf(rig.custody.use())).not.toBe('answered');
});

test('closing leaves nobody in doubt', async () => {
  rig = await LedgerRig.open();
  const answers = Array.from({ length: 20 }, (_, at) => codeOf(add(`k${at}`)));
  await rig.settle(1);
  const closed = rig.custody.close();
  const codes = await Promise.all(answers);
  await closed;
  expect(codes.filter((code) => code !== 'answered' && code !== 'busy')).toEqual([]);
  expect(rig.leaves().filter((leaf) => leaf.number !== null).length).toBe(codes.filter((code) => code === 'answered').length);
});

test('a listener that fails harms no answer', async () => {
  rig = await LedgerRig.open({
    parts: {
      onCommitted: () => {
        throw new Error('a fault in a listener');
      },
    },
  });
  expect(await codeOf(add('a'))).toBe('answered');
});

test('a ledger that is read anew says how far it has come', async () => {
  rig = await LedgerRig.open();
  for (let at = 0; at < 12; at += 1)
    await Promise.all(Array.from({ length: 500 }, (_, one) => rig.ledger.add(documentDraft(`k${at}-${one}`))));
  await rig.custody.close();
  rmSync(rig.indexFile);
  rig.holder.readMs = 20;
  const told = new Set<string>();
  const restarted = rig.restart();
  for (let isDone = false; !isDone; ) {
    told.add(rig.custody.standing().reason);
    isDone = await Promise.race([restarted.then(() => true), new Promise<boolean>((resolve) => setTimeout(() => resolve(false), 2))]);
  }
  expect([...told].some((reason) => /^the ledger is being read anew: \d+ %$/.test(reason))).toBe(true);
  expect(rig.custody.standing().standing).toBe('issuing-offline');
});

describe('a mirror that waits to be taken', () => {
  const waiting = (): void =>
    rig.holder.become({ kind: 'open', facts: fakeFacts, mount: rig.holder.mount(), end: fakeEnd, mirrorWaits: true });

  test('is taken while tills sell: none is refused, and what is told meanwhile is what the ledger said', async () => {
    rig = await LedgerRig.open();
    const before = rig.ledger;
    const { standing } = rig.custody.standing();
    const told: unknown[] = [];
    let isOver = false;
    const tills = Array.from({ length: 8 }, async (_, till) => {
      for (let at = 0; !isOver; at += 1) {
        // As desk/issue does: whoever met the ledger while it was set aside goes to the next one.
        const first = await rig.custody.use();
        await first.add(documentDraft(`t${till}-${at}`)).catch(async (error: unknown) => {
          expect(asUkeyError(error).code).toBe('busy');
          expect(rig.custody.ledger).not.toBe(first);
          await (await rig.custody.use()).add(documentDraft(`t${till}-${at}`));
        });
        told.push(rig.custody.standing().standing, rig.custody.budget() === null);
        await new Promise((resolve) => setImmediate(resolve));
      }
    });
    await pause(5);
    waiting();
    await expect.poll(() => rig.custody.ledger !== null && rig.custody.ledger !== before).toBe(true);
    isOver = true;
    await Promise.all(tills);
    expect(new Set(told)).toEqual(new Set([standing, false]));
  });

  test('and has become whole before the ledger was read: who waits for it goes on waiting, and is served', async () => {
    rig = await LedgerRig.open();
    rig.holder.become({ kind: 'starting' });
    rig.holder.readMs = 20;
    const waiters = [add('w1'), add('w2')];
    waiting();
    await pause(10);
    rig.holder.readMs = 0;
    await Promise.all(waiters);
  });

  test('and cannot be taken: the ledger goes on without it, and it is not tried again and again', async () => {
    rig = await LedgerRig.open();
    let tries = 0;
    rig.holder.openAgain = async () => {
      tries += 1;
      throw new UkeyError('busy', 'asked for by the test');
    };
    for (let at = 0; at < 3; at += 1) {
      waiting();
      await add(`k${at}`);
      await rig.settle();
    }
    expect(tries).toBe(1);
  });
});
