import { expect, test } from 'vitest';
import { blankFlashAction, errorTable } from '#ipc-schema/errors.ts';
import type { Verdict } from '#ledger/limits.ts';
import { type HoldingFact, standingOf } from '#ledger/standing.ts';

const alarm = { batchIndex: 7, raisedAtMs: 1 };
const allow: Verdict = { kind: 'allow' };
const open = (change: Partial<Extract<HoldingFact, { kind: 'open' }>>): HoldingFact => ({
  kind: 'open',
  verdict: allow,
  roomLeft: true,
  link: 'up',
  refusedFor: null,
  heldUpBy: null,
  alarm: null,
  certificateDays: null,
  ...change,
});

test.each<[HoldingFact, string, boolean]>([
  [{ kind: 'starting' }, 'no-token', true],
  [{ kind: 'absent', reason: 'the token is out' }, 'no-token', true],
  [{ kind: 'blank', what: 'token' }, 'no-token', true],
  [{ kind: 'blank', what: 'half' }, 'no-token', true],
  [{ kind: 'blank', what: 'flash' }, 'no-token', true],
  [{ kind: 'locked', pinLocked: false, why: null }, 'locked', true],
  [{ kind: 'locked', pinLocked: true, why: null }, 'locked', true],
  [{ kind: 'mounting', percent: null }, 'locked', true],
  [{ kind: 'mounting', percent: 41 }, 'locked', true],
  [{ kind: 'halted', reason: 'a clone', by: null }, 'halted', true],
  [{ kind: 'halted', reason: 'a clone', by: 'clone' }, 'halted', true],
  [{ kind: 'halted', reason: 'a rollback', by: 'rollback' }, 'halted', true],
  [{ kind: 'halted', reason: 'handed over', by: 'handed-over' }, 'halted', true],
  [open({ alarm }), 'issuing-online', true],
  [open({ alarm, link: 'down' }), 'issuing-offline', true],
  [open({ alarm, roomLeft: false }), 'store-full', true],
  [open({}), 'issuing-online', false],
  [open({ certificateDays: 59 }), 'issuing-online', true],
  [open({ certificateDays: 0, link: 'down' }), 'issuing-offline', true],
  [open({ certificateDays: 0, roomLeft: false }), 'store-full', true],
  [open({ link: 'down' }), 'issuing-offline', false],
  [open({ link: 'unknown' }), 'issuing-offline', false],
  [open({ refusedFor: 'w' }), 'issuing-offline', true],
  [open({ refusedFor: 'w', link: 'down' }), 'issuing-offline', true],
  [open({ heldUpBy: 'w' }), 'issuing-offline', true],
  [open({ heldUpBy: 'w', roomLeft: false }), 'store-full', true],
  [open({ refusedFor: 'w', roomLeft: false }), 'store-full', true],
  [open({ refusedFor: 'w', verdict: { kind: 'refuse', code: 'limit-count', why: 'w' } }), 'limit-reached', true],
  [open({ roomLeft: false }), 'store-full', true],
  [open({ verdict: { kind: 'refuse', code: 'clock-untrusted', why: 'w' } }), 'clock-untrusted', true],
  [open({ verdict: { kind: 'refuse', code: 'limit-count', why: 'w' } }), 'limit-reached', true],
  [open({ verdict: { kind: 'refuse', code: 'offline', why: 'w' } }), 'limit-reached', true],
  [open({ roomLeft: false, verdict: { kind: 'refuse', code: 'limit-count', why: 'w' } }), 'store-full', true],
])('%j is %s', (fact, standing, mustAct) => {
  const report = standingOf(fact);
  expect(report.standing).toBe(standing);
  expect(report.reason).not.toBe('');
  expect(report.action !== '').toBe(mustAct);
});

test('a locked PIN and a waiting PIN ask different things of a person', () => {
  expect(standingOf({ kind: 'locked', pinLocked: true, why: null }).action).toBe(errorTable['pin-locked'].action);
  expect(standingOf({ kind: 'locked', pinLocked: false, why: null }).action).toBe(errorTable.locked.action);
});

test('a stored PIN that does not unlock says why, and what to do', () => {
  const why = { reason: 'the disk is full', action: 'Make room.' };
  expect(standingOf({ kind: 'locked', pinLocked: false, why })).toEqual({ standing: 'locked', ...why });
  expect(standingOf({ kind: 'locked', pinLocked: true, why }).action).toBe(errorTable['pin-locked'].action);
});

test('a provisioned KEY with a blank FLASH is not called a blank token', () => {
  expect(standingOf({ kind: 'blank', what: 'flash' }).action).toBe(blankFlashAction);
  for (const what of ['token', 'half'] as const) expect(standingOf({ kind: 'blank', what }).action).toContain('ukeyctl provision');
});

test('what stops says what to do, not where it is said; an absence that knows better than plugging in says it', () => {
  expect(standingOf({ kind: 'halted', reason: 'a clone', by: null }).action).not.toContain('service.status');
  expect(standingOf({ kind: 'absent', reason: 'out' }).action).toBe(errorTable['no-token'].action);
  expect(standingOf({ kind: 'absent', reason: 'no module', action: 'Install it.' }).action).toBe('Install it.');
});

test('an absence says what is seen on the USB side, unless more is known; each says something else', () => {
  const said = (smartCards: string[], storage: string[]): string =>
    standingOf({ kind: 'absent', reason: 'out', usb: { smartCards, storage } }).action;
  const actions = [said([], []), said(['Card'], []), said([], ['Stick']), standingOf({ kind: 'absent', reason: 'out', usb: null }).action];
  expect(new Set(actions).size).toBe(4);
  expect(said(['Card'], ['Stick'])).toBe(said(['Card'], []));
  expect([said(['Card'], []).includes('Card'), said([], ['Stick']).includes('Stick')]).toEqual([true, true]);
  const usb = { smartCards: ['Card'], storage: [] };
  expect(standingOf({ kind: 'absent', reason: 'no module', action: 'Install it.', usb }).action).toBe('Install it.');
});

test('the reason of what stops is passed on', () => {
  expect(standingOf({ kind: 'halted', reason: 'batch 4 has two seals', by: null }).reason).toBe('batch 4 has two seals');
  expect(standingOf(open({ verdict: { kind: 'refuse', code: 'limit-hours', why: 'too old' } })).reason).toBe('too old');
});
