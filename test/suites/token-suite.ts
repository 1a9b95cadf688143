// Owns: the one suite that every implementation of Token runs.
// Each test works on its own blank token of `place`; what an implementation cannot do is said in `Traits`, not skipped in silence.
import { randomBytes, verify } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import { signatureHolds } from '#token/public-key.ts';
import type { Token, WrapMethod } from '#token/token.ts';

export interface TokenPlace {
  /** A blank token, apart from those given before. */
  blank(): Token;
  /** The same token as `token`, opened once more (after its close). */
  again(token: Token): Token;
  unplug(): void;
  plug(): void;
  remove(): void;
}

export interface Traits {
  /** Methods that this implementation can do; the first is its own choice. */
  readonly wrapMethods: readonly WrapMethod[];
  /** Does it lock after wrong PINs? Then after how many. */
  readonly triesMax: number | null;
  readonly moduleName: RegExp;
  /** What it is or does otherwise than a token of the standard; each has its expectation below. */
  readonly odd?: Oddities;
}

export interface Oddities {
  /** C_InitToken and C_InitPIN are of no use: its vendor's tool has made it ready, under a label that stays. One token at a time. */
  readonly madeReady?: { readonly label: string };
  readonly noDataObjects?: true;
  /** A token that has been initialised is never initialised anew. */
  readonly noReset?: true;
  /** The SO PIN sets no user PIN. */
  readonly noUnblock?: true;
  /** Takes a PIN of one byte. */
  readonly anyPin?: true;
  /** `at-use`: the module notices when it needs the token. `never`: there is nothing to pull. */
  readonly pulled?: 'at-use' | 'never';
}

export const pin = Buffer.from('2468-till');
export const otherPin = Buffer.from('1357-till');
export const soPin = Buffer.from('so-86420');
export const wrongPin = Buffer.from('0000-nope');

export function codeOf(action: () => unknown): ErrorCode | 'nothing thrown' {
  try {
    action();
  } catch (error) {
    if (error instanceof UkeyError) return error.code;
    throw error;
  }
  return 'nothing thrown';
}

export function tokenSuite(name: string, openPlace: () => TokenPlace, traits: Traits): void {
  const { madeReady, noDataObjects, noReset, noUnblock, anyPin, pulled = 'at-once' } = traits.odd ?? {};
  describe(name, () => {
    let place: TokenPlace;
    let open: Token[] = [];
    beforeEach(() => {
      place = openPlace();
    });
    afterEach(() => {
      for (const token of open) token.close();
      open = [];
      place.remove();
    });

    const blank = (): Token => {
      const token = place.blank();
      open.push(token);
      return token;
    };
    const provisioned = (label = 'till-1'): Token => {
      const token = blank();
      token.provision({ label, pin, soPin });
      return token;
    };
    const loggedIn = (label = 'till-1'): Token => {
      const token = provisioned(label);
      token.login(pin);
      return token;
    };
    const reopened = (token: Token): Token => {
      token.close();
      const again = place.again(token);
      open.push(again);
      return again;
    };

    test('a blank token says so, and gives neither key nor signature', () => {
      const token = blank();
      expect(token.facts()).toMatchObject({ provisioned: false, loggedIn: false });
      expect(token.facts().module).toMatch(traits.moduleName);
      // One that has its PIN might show the key after login.
      expect(codeOf(() => token.publicKey())).toBe(madeReady === undefined ? 'token-failed' : 'locked');
      expect(codeOf(() => token.login(pin))).toBe('token-failed');
      expect(codeOf(() => token.sign(Buffer.from('x')))).not.toBe('nothing thrown');
    });

    test('provisioning names the token, and leaves nobody logged in', () => {
      const token = provisioned('kasse 7 ä');
      expect(token.facts()).toMatchObject({ provisioned: true, loggedIn: false, label: madeReady?.label ?? 'kasse 7 ä', pinState: 'ok' });
      expect(token.facts().serial).not.toBe('');
      expect(codeOf(() => token.sign(Buffer.from('x')))).toBe('locked');
    });

    test('a token is provisioned once only, and the refusal changes nothing', () => {
      const token = provisioned();
      const before = token.publicKey().export({ type: 'spki', format: 'pem' });
      expect(codeOf(() => token.provision({ label: 'other', pin: otherPin, soPin }))).toBe('token-failed');
      const again = reopened(token);
      expect(again.facts().label).toBe(madeReady?.label ?? 'till-1');
      again.login(pin);
      expect(again.publicKey().export({ type: 'spki', format: 'pem' })).toBe(before);
    });

    test.each([
      ['an empty label', { label: '', pin, soPin }],
      ['a label that is too long', { label: 'ä'.repeat(17), pin, soPin }],
      ['an empty PIN', { label: 'a', pin: Buffer.alloc(0), soPin }],
      ['a PIN with a line feed', { label: 'a', pin: Buffer.from('246824\n'), soPin }],
      ['a PIN that is not UTF-8', { label: 'a', pin: Buffer.from([0xc3, 0x28, 0x41, 0x41, 0x41]), soPin }],
      ['an empty SO PIN', { label: 'a', pin, soPin: Buffer.alloc(0) }],
    ])('%s provisions nothing', (_, options) => {
      const token = blank();
      expect(codeOf(() => token.provision(options))).toBe('invalid-request');
      expect(token.facts().provisioned).toBe(false);
    });

    test('login, logout, login', () => {
      const token = loggedIn();
      expect(token.facts().loggedIn).toBe(true);
      token.logout();
      expect(token.facts().loggedIn).toBe(false);
      expect(codeOf(() => token.sign(Buffer.from('x')))).toBe('locked');
      expect(codeOf(() => token.readObject('anchor-a'))).toBe('locked');
      expect(codeOf(() => token.writeObject('anchor-a', Buffer.from('x')))).toBe('locked');
      expect(codeOf(() => token.wrapDataKey(randomBytes(32)))).toBe('locked');
      token.login(pin);
      expect(token.sign(Buffer.from('x')).length).toBeGreaterThan(0);
    });

    test('logging out twice and closing twice harm nothing', () => {
      const token = loggedIn();
      token.logout();
      token.logout();
      token.close();
      token.close();
    });

    test('a wrong PIN costs a try and is told as such; the right one gives the tries back', () => {
      const token = provisioned();
      expect(codeOf(() => token.login(wrongPin))).toBe('pin-incorrect');
      expect(token.facts().loggedIn).toBe(false);
      if (traits.triesMax !== null) expect(token.facts().triesLeft).toBe(traits.triesMax - 1);
      token.login(pin);
      if (traits.triesMax !== null) expect(token.facts().triesLeft).toBe(traits.triesMax);
      expect(token.facts().pinState).toBe('ok');
    });

    test('a PIN that cannot be one costs no try', () => {
      const token = provisioned();
      for (const bad of [Buffer.alloc(0), Buffer.from('2468-till\n'), Buffer.alloc(300, 0x31)]) {
        expect(codeOf(() => token.login(bad))).toBe('invalid-request');
      }
      expect(token.facts()).toMatchObject({ pinState: 'ok', loggedIn: false });
      if (traits.triesMax !== null) expect(token.facts().triesLeft).toBe(traits.triesMax);
    });

    test('tries run out, also across openings; then the right PIN is refused, and the SO PIN unblocks', () => {
      let token = provisioned();
      if (traits.triesMax === null) {
        // Neither counted nor locked: none of them is repeated or forgiven for all that.
        for (let at = 0; at < 4; at += 1) expect(codeOf(() => token.login(wrongPin))).toBe('pin-incorrect');
        expect(token.facts()).toMatchObject({ triesLeft: null, loggedIn: false });
        token.login(pin);
        return;
      }
      for (let left = traits.triesMax; left > 0; left -= 1) {
        expect(token.facts()).toMatchObject({ triesLeft: left, pinState: left === 1 ? 'last' : left <= 3 ? 'low' : 'ok' });
        token = reopened(token);
        expect(codeOf(() => token.login(wrongPin))).toBe('pin-incorrect');
      }
      expect(token.facts()).toMatchObject({ triesLeft: 0, pinState: 'locked' });
      expect(codeOf(() => token.login(pin))).toBe('pin-locked');
      token.unblockPin(soPin, otherPin);
      expect(token.facts()).toMatchObject({ triesLeft: traits.triesMax, pinState: 'ok', loggedIn: false });
      token.login(otherPin);
    });

    test('signatures verify with the public key alone, on every message, and differ from a forgery', () => {
      const token = loggedIn();
      const key = token.publicKey();
      expect(key.type).toBe('public');
      for (const message of [Buffer.alloc(0), Buffer.from('seal'), randomBytes(5000)]) {
        const signature = token.sign(message);
        expect(signatureHolds(key, message, signature)).toBe(true);
        expect(signatureHolds(key, Buffer.concat([message, Buffer.from([1])]), signature)).toBe(false);
      }
      if (token.algorithm() === 'ES256') {
        const signature = token.sign(Buffer.from('raw form'));
        expect(signature.length).toBe(64);
        expect(verify('sha256', Buffer.from('raw form'), { key, dsaEncoding: 'ieee-p1363' }, signature)).toBe(true);
      }
    });

    test('the public key is the same before login, after login and after opening again', () => {
      const token = provisioned();
      const pem = (of: Token) => of.publicKey().export({ type: 'spki', format: 'pem' });
      const first = pem(token);
      token.login(pin);
      expect(pem(token)).toBe(first);
      const again = reopened(token);
      expect(again.facts()).toMatchObject({ provisioned: true, loggedIn: false, serial: token.facts().serial });
      expect(pem(again)).toBe(first);
      again.login(pin);
      expect(signatureHolds(again.publicKey(), Buffer.from('m'), again.sign(Buffer.from('m')))).toBe(true);
    });

    test('two tokens have two keys, and one does not unwrap for the other', () => {
      const a = loggedIn('a');
      if (madeReady !== undefined) {
        expect(codeOf(blank)).toBe('no-token');
        return;
      }
      const b = loggedIn('b');
      expect(a.publicKey().equals(b.publicKey())).toBe(false);
      const wrapped = a.wrapDataKey(randomBytes(32));
      expect(codeOf(() => b.unwrapDataKey(wrapped))).toBe('token-failed');
      expect(b.facts().loggedIn).toBe(true);
    });

    test.each(traits.wrapMethods)('a data key wrapped by %s is unwrapped after opening again', (method) => {
      const token = loggedIn();
      const dataKey = randomBytes(32);
      const wrapped = token.wrapDataKey(dataKey, method);
      expect(wrapped.method).toBe(method);
      expect(Buffer.from(wrapped.blob).includes(dataKey)).toBe(false);
      const second = token.wrapDataKey(randomBytes(32), method);
      const again = reopened(token);
      expect(codeOf(() => again.unwrapDataKey(wrapped))).toBe('locked');
      again.login(pin);
      expect(Buffer.from(again.unwrapDataKey(wrapped)).equals(dataKey)).toBe(true);
      expect(Buffer.from(again.unwrapDataKey(second)).equals(dataKey)).toBe(false);
    });

    test('of its own accord it wraps by the best method, each time the same', () => {
      const token = loggedIn();
      expect(token.wrapDataKey(randomBytes(32)).method).toBe(traits.wrapMethods[0]);
      expect(token.wrapDataKey(randomBytes(32)).method).toBe(traits.wrapMethods[0]);
    });

    test.each(traits.wrapMethods)('a damaged blob of %s gives no key and costs no login', (method) => {
      const token = loggedIn();
      const dataKey = randomBytes(32);
      const wrapped = token.wrapDataKey(dataKey, method);
      for (const at of [0, Math.floor(wrapped.blob.length / 2), wrapped.blob.length - 1]) {
        const blob = Buffer.from(wrapped.blob);
        blob[at] = (blob[at] ?? 0) ^ 1;
        let given: Uint8Array | null = null;
        const code = codeOf(() => {
          given = token.unwrapDataKey({ method, blob });
        });
        // RSA-PKCS#1 and AES key wrap may by design give another key instead of an error; never the right one.
        if (given === null) expect(code).toBe('token-failed');
        else expect(Buffer.from(given).equals(dataKey)).toBe(false);
      }
      expect(codeOf(() => token.unwrapDataKey({ method, blob: new Uint8Array(3) }))).toBe('token-failed');
      expect(token.facts().loggedIn).toBe(true);
      expect(Buffer.from(token.unwrapDataKey(wrapped)).equals(dataKey)).toBe(true);
    });

    test('data objects are absent, written, replaced, and there after opening again', () => {
      const token = loggedIn();
      expect(token.readObject('anchor-a')).toBeNull();
      if (noDataObjects) {
        expect(token.writeObject('anchor-a', Buffer.from('one'))).toBe(false);
        expect(token.readObject('anchor-a')).toBeNull();
        expect(token.facts().loggedIn).toBe(true);
        return;
      }
      expect(token.writeObject('anchor-a', Buffer.from('one'))).toBe(true);
      expect(token.writeObject('anchor-b', randomBytes(4000))).toBe(true);
      for (const value of ['two', '', 'three']) expect(token.writeObject('anchor-a', Buffer.from(value))).toBe(true);
      expect(Buffer.from(token.readObject('anchor-a') ?? []).toString()).toBe('three');
      const again = reopened(token);
      again.login(pin);
      expect(Buffer.from(again.readObject('anchor-a') ?? []).toString()).toBe('three');
      expect(again.readObject('anchor-b')?.length).toBe(4000);
    });

    test('data objects with an odd name or too many bytes are refused', () => {
      const token = loggedIn();
      expect(codeOf(() => token.writeObject('../x', Buffer.from('1')))).toBe('invalid-request');
      expect(codeOf(() => token.writeObject('big', Buffer.alloc(20_000)))).toBe('invalid-request');
      expect(codeOf(() => token.readObject(''))).toBe('invalid-request');
    });

    test('the PIN is changed: the old one is wrong from then on, keys and objects stay', () => {
      const token = loggedIn();
      const kept = token.writeObject('anchor-a', Buffer.from('kept'));
      expect(kept).toBe(!noDataObjects);
      const wrapped = token.wrapDataKey(Buffer.alloc(32, 7));
      token.changePin(pin, otherPin);
      expect(token.facts().loggedIn).toBe(true);
      const again = reopened(token);
      expect(codeOf(() => again.login(pin))).toBe('pin-incorrect');
      again.login(otherPin);
      if (kept) expect(Buffer.from(again.readObject('anchor-a') ?? []).toString()).toBe('kept');
      expect(Buffer.from(again.unwrapDataKey(wrapped)).equals(Buffer.alloc(32, 7))).toBe(true);
    });

    test('a wrong old PIN, or a new one that cannot be, changes nothing', () => {
      const token = provisioned();
      expect(codeOf(() => token.changePin(wrongPin, otherPin))).toBe('pin-incorrect');
      expect(codeOf(() => token.changePin(pin, Buffer.alloc(0)))).toBe('invalid-request');
      if (!anyPin) expect(codeOf(() => token.changePin(pin, Buffer.from('1')))).toBe('invalid-request');
      token.login(pin);
      // An open token tells a wrong old PIN just so, and stays open.
      expect(codeOf(() => token.changePin(wrongPin, otherPin))).toBe('pin-incorrect');
      expect(token.facts().loggedIn).toBe(true);
      if (!anyPin) return;
      token.changePin(pin, Buffer.from('1'));
      token.logout();
      token.login(Buffer.from('1'));
    });

    test('a reset destroys keys and objects, takes the SO PIN alone, and leaves a token that is provisioned anew', () => {
      const token = loggedIn();
      const before = token.publicKey().export({ type: 'spki', format: 'pem' });
      const kept = token.writeObject('kept', Buffer.from('x'));
      expect(codeOf(() => token.reset({ label: 'till-1', soPin: wrongPin }))).toBe(noUnblock ? 'token-failed' : 'pin-incorrect');
      token.login(pin);
      expect(token.publicKey().export({ type: 'spki', format: 'pem' })).toBe(before);
      if (noReset) {
        expect(codeOf(() => token.reset({ label: 'till-1', soPin }))).toBe('token-failed');
        const untouched = reopened(token);
        untouched.login(pin);
        expect(untouched.publicKey().export({ type: 'spki', format: 'pem' })).toBe(before);
        expect(signatureHolds(untouched.publicKey(), Buffer.from('m'), untouched.sign(Buffer.from('m')))).toBe(true);
        return;
      }
      token.reset({ label: 'till-1', soPin });
      expect(token.facts()).toMatchObject({ provisioned: false, loggedIn: false });
      const again = reopened(token);
      again.provision({ label: 'till-1', pin, soPin });
      again.login(pin);
      expect(again.publicKey().export({ type: 'spki', format: 'pem' })).not.toBe(before);
      if (kept) expect(again.readObject('kept')).toBeNull();
      expect(signatureHolds(again.publicKey(), Buffer.from('m'), again.sign(Buffer.from('m')))).toBe(true);
    });

    test('the SO PIN sets a new PIN, and leaves nobody logged in', () => {
      const token = loggedIn();
      if (noUnblock) {
        expect(codeOf(() => token.unblockPin(soPin, otherPin))).toBe('token-failed');
        expect(token.facts().loggedIn).toBe(false);
        token.login(pin);
        return;
      }
      expect(codeOf(() => token.unblockPin(wrongPin, otherPin))).toBe('pin-incorrect');
      token.unblockPin(soPin, otherPin);
      expect(token.facts().loggedIn).toBe(false);
      expect(codeOf(() => token.login(pin))).toBe('pin-incorrect');
      token.login(otherPin);
      expect(signatureHolds(token.publicKey(), Buffer.from('m'), token.sign(Buffer.from('m')))).toBe(true);
    });

    test('a token that is pulled is missed; put back, it asks for the PIN and is the same', () => {
      const token = loggedIn();
      const wrapped = token.wrapDataKey(Buffer.alloc(32, 9));
      const kept = token.writeObject('anchor-a', Buffer.from('kept'));
      place.unplug();
      if (pulled === 'never') {
        expect(signatureHolds(token.publicKey(), Buffer.from('m'), token.sign(Buffer.from('m')))).toBe(true);
        expect(token.facts().loggedIn).toBe(true);
        token.close();
        place.plug();
        return;
      }
      const gone = pulled === 'at-use' ? 'token-failed' : 'no-token';
      expect(codeOf(() => token.sign(Buffer.from('m')))).toBe(gone);
      expect(codeOf(() => token.facts())).toBe(gone);
      expect(codeOf(() => token.login(pin))).toBe(gone);
      place.plug();
      expect(token.facts()).toMatchObject({ provisioned: true, loggedIn: false });
      expect(codeOf(() => token.sign(Buffer.from('m')))).toBe('locked');
      token.login(pin);
      expect(Buffer.from(token.unwrapDataKey(wrapped)).equals(Buffer.alloc(32, 9))).toBe(true);
      if (kept) expect(Buffer.from(token.readObject('anchor-a') ?? []).toString()).toBe('kept');
    });

    test('facts alone notice a pulled token, logged in or not', () => {
      const token = provisioned();
      expect(token.facts().provisioned).toBe(true);
      const told = pulled === 'at-once' ? 'no-token' : 'nothing thrown';
      place.unplug();
      expect(codeOf(() => token.facts())).toBe(told);
      place.plug();
      // Until the module finds out that the session is not worth anything: no PIN is looked at, and the next login begins anew.
      if (pulled === 'at-use') expect(codeOf(() => token.login(pin))).toBe('token-failed');
      token.login(pin);
      place.unplug();
      expect(codeOf(() => token.facts())).toBe(told);
      place.plug();
      if (pulled === 'at-once') expect(token.facts()).toMatchObject({ provisioned: true, loggedIn: false });
    });
  });
}
