import { describe, expect, test } from 'vitest';
import { CK, type CryptokiTokenInfo } from '#token/cryptoki.ts';
import { chooseSlot, findAgain, identityOf, pinStateOf, type SlotChoice, type SlotEntry } from '#token/slot.ts';

const entry = (slot: number, info: Partial<CryptokiTokenInfo>): SlotEntry => ({
  slot: Buffer.from([slot]),
  info: { label: '', manufacturer: 'm', model: 'x', serial: '', flags: 0, pinMinBytes: 4, pinMaxBytes: 8, ...info },
});
const blank = (slot: number) => entry(slot, {});
const token = (slot: number, label: string, serial: string) => entry(slot, { label, serial, flags: CK.CKF_TOKEN_INITIALIZED });
const chosen = (entries: SlotEntry[], choice: SlotChoice): string | number => {
  const decision = chooseSlot(entries, choice);
  return decision.kind === 'found' ? (decision.entry.slot[0] ?? -1) : decision.kind;
};

describe('choosing a slot', () => {
  const two = [blank(1), token(2, 'a', 's1'), token(3, 'b', 's2'), blank(4)];
  test.each<[SlotEntry[], SlotChoice, string | number]>([
    [[], { kind: 'only' }, 'none'],
    [[blank(1), blank(2)], { kind: 'only' }, 1],
    [[blank(1), token(2, 'a', 's')], { kind: 'only' }, 2],
    [two, { kind: 'only' }, 'several'],
    [two, { kind: 'blank' }, 1],
    [[token(2, 'a', 's')], { kind: 'blank' }, 'none'],
    [two, { kind: 'label', label: 'b' }, 3],
    [two, { kind: 'label', label: '' }, 'none'],
    [two, { kind: 'serial', serial: 's1' }, 2],
    [two, { kind: 'serial', serial: '' }, 'none'],
    [[token(1, 'a', 's1'), token(2, 'a', 's2')], { kind: 'label', label: 'a' }, 'several'],
  ])('case %#', (entries, choice, expected) => {
    expect(chosen(entries, choice)).toBe(expected);
  });

  test('a token is known again in another slot, and not mistaken', () => {
    const identity = identityOf(token(2, 'a', 's1').info);
    expect(findAgain([blank(1), token(9, 'a', 's1')], identity)?.slot[0]).toBe(9);
    expect(findAgain([token(2, 'a', 's2'), token(2, 'b', 's1')], identity)).toBeNull();
  });
});

test('flags tell the state of the PIN, the worst first', () => {
  const { CKF_USER_PIN_COUNT_LOW: low, CKF_USER_PIN_FINAL_TRY: last, CKF_USER_PIN_LOCKED: locked } = CK;
  expect([0, low, last, low | last, locked, low | last | locked].map(pinStateOf)).toEqual([
    'ok',
    'low',
    'last',
    'last',
    'locked',
    'locked',
  ]);
});
