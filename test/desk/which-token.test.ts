// Which token a request is for: every combination of tokens, terminal and what the request names.
import { describe, expect, test } from 'vitest';
import { type Candidate, refuseOtherIssuer, whichToken } from '#desk/which-token.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';

const shop = { name: 'shop', issuer: 'GB1' };
const annex = { name: 'annex', issuer: 'GB2' };
const spare = { name: 'spare', issuer: 'GB2' };
const sole = { name: 'main', issuer: null };

/** The chosen one's name, or the refusal's code and field. */
function choose(candidates: readonly Candidate[], bound: string | null, wanted: { token?: string; issuer?: string }): string {
  try {
    return whichToken(candidates, bound, wanted).name;
  } catch (thrown) {
    const { code, field } = asUkeyError(thrown);
    return `${code} ${field}`;
  }
}

describe('a sole token', () => {
  test.each([
    [{}, 'main'],
    [{ token: 'main' }, 'main'],
    [{ token: 'other' }, 'invalid-request token'],
    [{ issuer: 'GB1' }, 'main'],
  ])('%o -> %s', (wanted, chosen) => {
    expect(choose([sole], null, wanted)).toBe(chosen);
  });

  test('that says its issuer serves no other', () => {
    expect(choose([shop], null, { issuer: 'GB1' })).toBe('shop');
    expect(choose([shop], null, { issuer: 'GB2' })).toBe('invalid-request issuer');
  });
});

describe('several tokens', () => {
  const all = [shop, annex, spare];

  test.each([
    [null, {}, 'invalid-request token'],
    [null, { token: 'annex' }, 'annex'],
    [null, { token: 'Annex' }, 'invalid-request token'],
    [null, { issuer: 'GB1' }, 'shop'],
    [null, { issuer: 'GB2' }, 'invalid-request token'],
    [null, { issuer: 'GB3' }, 'invalid-request issuer'],
    [null, { token: 'spare', issuer: 'GB2' }, 'spare'],
    [null, { token: 'spare', issuer: 'GB1' }, 'invalid-request issuer'],
    ['annex', {}, 'annex'],
    ['annex', { token: 'annex' }, 'annex'],
    ['annex', { token: 'shop' }, 'forbidden token'],
    ['annex', { issuer: 'GB2' }, 'annex'],
    ['annex', { issuer: 'GB1' }, 'invalid-request issuer'],
    ['gone', {}, 'invalid-request token'],
  ] as const)('a terminal for %s, %o -> %s', (bound, wanted, chosen) => {
    expect(choose(all, bound, wanted)).toBe(chosen);
  });

  test('a refusal names the tokens that there are', () => {
    expect(() => whichToken(all, null, {})).toThrow(expect.objectContaining({ action: expect.stringMatching(/shop.*annex.*spare/) }));
  });

  test('the order in the configuration decides nothing', () => {
    const wishes = [{}, { token: 'annex' }, { issuer: 'GB1' }, { issuer: 'GB2' }, { token: 'spare', issuer: 'GB2' }];
    for (const wanted of wishes) expect(choose([spare, annex, shop], null, wanted)).toBe(choose(all, null, wanted));
  });
});

test("a named issuer must be the charter's", () => {
  const charter = { issuer: { taxId: 'GB1' } } as Charter;
  expect(() => refuseOtherIssuer({}, charter)).not.toThrow();
  expect(() => refuseOtherIssuer({ issuer: 'GB1' }, charter)).not.toThrow();
  expect(() => refuseOtherIssuer({ issuer: 'GB2' }, charter)).toThrow(
    expect.objectContaining({ code: 'invalid-request', field: 'issuer' }),
  );
});
