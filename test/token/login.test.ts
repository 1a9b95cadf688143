// Every combination of facts and request against the rules, spelled a second time and otherwise.
import { describe, expect, test } from 'vitest';
import { decideLogin, type LoginDecision, type LoginRequest } from '#token/login.ts';
import type { PinState } from '#token/token.ts';

const bools = [true, false];
const pinStates: readonly PinState[] = ['ok', 'low', 'last', 'locked'];
const triesLefts = [null, 0, 1, 2, 3, 8];
const origins: readonly LoginRequest['origin'][] = ['person', 'stored'];

type Facts = NonNullable<Parameters<typeof decideLogin>[0]>;

function* allFacts(): Generator<Facts> {
  for (const provisioned of bools)
    for (const loggedIn of bools)
      for (const pinState of pinStates) for (const triesLeft of triesLefts) yield { provisioned, loggedIn, pinState, triesLeft };
}

function* allRequests(): Generator<LoginRequest> {
  for (const origin of origins)
    for (const useLastTry of bools) for (const storedPinTried of bools) yield { origin, useLastTry, storedPinTried };
}

const codeOf = (decision: LoginDecision): string => (decision.kind === 'refuse' ? decision.code : decision.kind);

describe('whether a try may be spent', () => {
  test('in every case the decision is the one of the rules', () => {
    let cases = 0;
    for (const facts of allFacts()) {
      for (const request of allRequests()) {
        cases += 1;
        const locked = facts.pinState === 'locked' || facts.triesLeft === 0;
        const last = facts.pinState === 'last' || facts.triesLeft === 1;
        const isPerson = request.origin === 'person';
        const code = codeOf(decideLogin(facts, request));
        const may =
          facts.provisioned && !facts.loggedIn && !locked && (isPerson ? !last || request.useLastTry : !last && !request.storedPinTried);
        expect([facts, request, code === 'try']).toEqual([facts, request, may]);
        if (!facts.provisioned) expect(code).toBe('token-failed');
        else if (facts.loggedIn) expect(code).toBe('already');
        else if (locked) expect(code).toBe('pin-locked');
        else if (!may) expect(code).toBe(!isPerson && request.storedPinTried ? 'locked' : 'pin-last-try');
      }
    }
    expect(cases).toBe(2 * 2 * 4 * 6 * 2 * 2 * 2);
  });

  test('without a token no try is spent', () => {
    for (const request of allRequests()) expect(codeOf(decideLogin(null, request))).toBe('no-token');
  });

  test('a program never burns the last try, whatever it is told', () => {
    for (const facts of allFacts()) {
      for (const request of allRequests()) {
        if (request.origin !== 'stored' || (facts.pinState !== 'last' && facts.triesLeft !== 1)) continue;
        expect(decideLogin(facts, request).kind).not.toBe('try');
      }
    }
  });
});
