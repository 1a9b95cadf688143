// The token suite against a real PKCS#11 module, SoftHSM2; and the ladder, with a faulty Cryptoki between token and module.
import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { errorTable, isErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import { codeOf, otherPin, pin, soPin, tokenSuite, wrongPin } from '#test/suites/token-suite.ts';
import { createSoftHsmWorld, describeSoftHsm, type SoftHsmWorld } from '#test/support/softhsm.ts';
import { type FaultyCryptoki, faultyCryptoki } from '#test/token/faulty-cryptoki.ts';
import { ckrTable } from '#token/ckr.ts';
import { CK, type CryptokiTokenInfo } from '#token/cryptoki.ts';
import { signedKeyText } from '#token/key-wrap.ts';
import { loadModule, openPkcs11Token } from '#token/pkcs11.ts';
import { createPkcs11Token, type Pkcs11Token } from '#token/pkcs11-token.ts';
import { signatureHolds } from '#token/public-key.ts';

describeSoftHsm('SoftHSM2', (modulePath) => {
  tokenSuite(
    'a token of SoftHSM2',
    () => {
      const world = createSoftHsmWorld(modulePath);
      loadModule(modulePath).finalize();
      return {
        blank: () => openPkcs11Token({ modulePath, slot: { kind: 'blank' } }),
        again: (token) => openPkcs11Token({ modulePath, slot: { kind: 'serial', serial: token.facts().serial } }),
        unplug: () => world.unplug(),
        plug: () => world.plug(),
        remove: () => {
          loadModule(modulePath).finalize();
          world.remove();
        },
      };
    },
    { wrapMethods: ['aes-kw', 'rsa-oaep', 'rsa-pkcs1', 'ecdh-p256-hkdf', 'data-object-kek'], triesMax: null, moduleName: /^SoftHSM/u },
  );
});

describeSoftHsm('SoftHSM2 with faults in between', (modulePath) => {
  let world: SoftHsmWorld;
  let faults: FaultyCryptoki;
  let token: Pkcs11Token;
  beforeEach(() => {
    world = createSoftHsmWorld(modulePath);
    const module = loadModule(modulePath);
    module.finalize();
    faults = faultyCryptoki(module);
    token = createPkcs11Token(faults.cryptoki, { kind: 'blank' });
    token.provision({ label: 'till-1', pin, soPin });
  });
  afterEach(() => {
    faults.calm();
    token.close();
    loadModule(modulePath).finalize();
    world.remove();
  });

  const message = Buffer.from('a seal');
  const signs = (): boolean => signatureHolds(token.publicKey(), message, token.sign(message));

  test('neither the seal key nor the wrapping keys can leave the token, and the seal key signs only', () => {
    token.login(pin);
    for (const method of ['aes-kw', 'rsa-oaep', 'ecdh-p256-hkdf'] as const) token.wrapDataKey(randomBytes(32), method);
    const { cryptoki } = faults;
    const slot = cryptoki.slots().find((each) => cryptoki.tokenInfo(each).label === 'till-1') ?? Buffer.alloc(8);
    const session = cryptoki.openSession(slot);
    const keys = [CK.CKO_PRIVATE_KEY, CK.CKO_SECRET_KEY].flatMap((objectClass) =>
      cryptoki.find(session, [{ type: CK.CKA_CLASS, value: objectClass }]),
    );
    // Exactly these: no session copy of a data key or shared secret stayed behind.
    const labels = keys.map((key) => cryptoki.attribute(session, key, CK.CKA_LABEL).toString()).sort();
    expect(labels).toEqual(['ukeyd-seal', 'ukeyd-wrap-aes', 'ukeyd-wrap-ec', 'ukeyd-wrap-rsa']);
    for (const key of keys) {
      expect(cryptoki.attribute(session, key, CK.CKA_EXTRACTABLE)).toEqual(Buffer.from([0]));
      expect(cryptoki.attribute(session, key, CK.CKA_SENSITIVE)).toEqual(Buffer.from([1]));
      for (const secret of [CK.CKA_VALUE, 0x123 /* CKA_PRIVATE_EXPONENT */])
        expect(() => cryptoki.attribute(session, key, secret)).toThrow();
    }
    const [seal] = cryptoki.find(session, [
      { type: CK.CKA_CLASS, value: CK.CKO_PRIVATE_KEY },
      { type: CK.CKA_LABEL, value: 'ukeyd-seal' },
    ]);
    expect(cryptoki.attribute(session, seal ?? Buffer.alloc(8), CK.CKA_DERIVE)).toEqual(Buffer.from([0]));
    cryptoki.closeSession(session);
  });

  test('one empty or wrong signature is repeated on a fresh session, without a login', () => {
    token.login(pin);
    const logins = faults.calls('login');
    for (const change of [
      () => Buffer.alloc(0),
      (good: Buffer) => good.map((byte, at) => (at === 40 ? byte ^ 1 : byte)),
      () => Buffer.alloc(64),
    ]) {
      const sessions = faults.calls('openSession');
      faults.alter<Uint8Array>('sign', (good) => Buffer.from(change(Buffer.from(good))));
      expect(signs()).toBe(true);
      expect(faults.calls('openSession')).toBe(sessions + 1);
    }
    expect(faults.calls('login')).toBe(logins);
  });

  test('a second wrong signature is never released, and the next good one is', () => {
    token.login(pin);
    const before = faults.calls('sign');
    faults.alter<Uint8Array>('sign', () => Buffer.alloc(64, 1), 2);
    expect(codeOf(() => token.sign(message))).toBe('token-failed');
    expect(faults.calls('sign')).toBe(before + 2);
    expect(signs()).toBe(true);
  });

  test('every return value at one signature ends as its row says, and never costs a PIN try', () => {
    token.login(pin);
    let logins = faults.calls('login');
    for (const [name, { value, reaction, code }] of Object.entries(ckrTable)) {
      if (reaction === 'ok') continue;
      faults.refuse('sign', value);
      const ended = codeOf(() => expect(signs()).toBe(true));
      expect([name, ended]).toEqual([name, reaction === 'retry-session' ? 'nothing thrown' : code]);
      expect(faults.calls('login')).toBe(logins);
      if (reaction !== 'login-again') continue;
      expect(token.facts().loggedIn).toBe(false);
      token.login(pin);
      logins = faults.calls('login');
    }
  });

  test('a value outside the table counts as a lost session', () => {
    token.login(pin);
    faults.refuse('sign', 0x80001234);
    expect(signs()).toBe(true);
  });

  test('a session that stays lost ends with a new module, which is logged out', () => {
    token.login(pin);
    const initialized = faults.calls('initialize');
    faults.refuse('sign', ckrTable.CKR_GENERAL_ERROR.value, 2);
    expect(codeOf(() => token.sign(message))).toBe('locked');
    expect(faults.calls('finalize')).toBe(1);
    expect(faults.calls('initialize')).toBeGreaterThan(initialized);
    expect(token.facts()).toMatchObject({ provisioned: true, loggedIn: false });
    token.login(pin);
    expect(signs()).toBe(true);
  });

  test('every call, refused once with every return value: a code of the table, no second login, and all well afterwards', () => {
    const reading = ['initialize', 'slots', 'tokenInfo', 'openSession', 'sessionState', 'find', 'attribute', 'sign'] as const;
    const writing = ['createObject', 'destroyObject'] as const;
    token.login(pin);
    token.writeObject('anchor-a', message);
    let ends = 0;
    for (const call of [...reading, ...writing]) {
      const writes = writing.some((each) => each === call);
      const actions = writes
        ? [() => token.writeObject('anchor-a', message)]
        : [() => token.facts(), () => token.sign(message), () => token.readObject('anchor-a')];
      for (const { value, reaction } of Object.values(ckrTable)) {
        if (reaction === 'ok') continue;
        const logins = faults.calls('login');
        for (const action of actions) {
          faults.refuse(call, value);
          const code = codeOf(action);
          expect(code === 'nothing thrown' || isErrorCode(code)).toBe(true);
          ends += 1;
        }
        expect(faults.calls('login')).toBe(logins);
        faults.calm();
        if (!token.facts().loggedIn) token.login(pin);
        expect(Buffer.from(token.readObject('anchor-a') ?? []).equals(message)).toBe(true);
      }
    }
    expect(ends).toBe((reading.length * 3 + writing.length) * (Object.keys(ckrTable).length - 1));
    expect(signs()).toBe(true);
  }, 60_000);

  test('a hiccup while looking for the token does not cost the login', () => {
    token.login(pin);
    for (const call of ['slots', 'tokenInfo'] as const) {
      for (const { value, reaction } of Object.values(ckrTable)) {
        if (reaction !== 'retry-session') continue;
        faults.refuse(call, value);
        expect(token.facts().loggedIn).toBe(true);
      }
    }
    expect(faults.calls('finalize')).toBe(0);
  });

  test('a refused login is not repeated, whatever the module says', () => {
    for (const { value, reaction } of Object.values(ckrTable)) {
      if (reaction === 'ok' || reaction === 'already') continue;
      const before = faults.calls('login');
      faults.refuse('login', value, 5);
      expect(codeOf(() => token.login(pin))).not.toBe('nothing thrown');
      expect(faults.calls('login')).toBe(before + 1);
    }
    faults.calm();
    token.login(pin);
  });

  test('a login that finds no chip behind the session is not repeated, and the next one begins with the module anew', () => {
    const finalized = faults.calls('finalize');
    faults.refuse('login', ckrTable.CKR_GENERAL_ERROR.value);
    expect(codeOf(() => token.login(pin))).toBe('token-failed');
    expect(faults.calls('finalize')).toBe(finalized + 1);
    token.login(pin);
    expect(signs()).toBe(true);
  });

  test('a lock that the flags do not tell of asks for patience first, one that they tell of for the SO-PIN', () => {
    const actionOf = (): string | undefined => {
      faults.refuse('login', ckrTable.CKR_PIN_LOCKED.value);
      try {
        token.login(pin);
      } catch (error) {
        if (error instanceof UkeyError && error.code === 'pin-locked') return error.action;
        throw error;
      }
      return undefined;
    };
    expect(actionOf()).not.toBe(errorTable['pin-locked'].action);
    faults.alter<CryptokiTokenInfo>('tokenInfo', (info) => ({ ...info, flags: info.flags | CK.CKF_USER_PIN_LOCKED }), 99);
    expect(actionOf()).toBe(errorTable['pin-locked'].action);
  });

  test('a wrong old PIN is told as such also by a module that gives no reason; one try, and the login stays', () => {
    token.login(pin);
    const sets = faults.calls('setPin');
    faults.refuse('setPin', ckrTable.CKR_GENERAL_ERROR.value);
    expect(codeOf(() => token.changePin(pin, otherPin))).toBe('pin-incorrect');
    expect([faults.calls('setPin'), token.facts().loggedIn]).toEqual([sets + 1, true]);
    // A token that does not sign either has another trouble than the PIN.
    faults.refuse('setPin', ckrTable.CKR_GENERAL_ERROR.value);
    faults.refuse('sign', ckrTable.CKR_GENERAL_ERROR.value);
    expect(codeOf(() => token.changePin(pin, otherPin))).toBe('token-failed');
    faults.calm();
    token.logout();
    // Nobody is logged in: C_Login says it, and C_SetPIN is not asked.
    expect(codeOf(() => token.changePin(wrongPin, otherPin))).toBe('pin-incorrect');
    expect(faults.calls('setPin')).toBe(sets + 2);
    token.changePin(pin, otherPin);
    expect(token.facts().loggedIn).toBe(false);
    token.login(otherPin);
  });

  test('a reset destroys nothing before the SO PIN has been proven', () => {
    for (const value of [ckrTable.CKR_PIN_INCORRECT.value, ckrTable.CKR_USER_TYPE_INVALID.value]) {
      faults.refuse('login', value);
      expect(codeOf(() => token.reset({ label: 'till-1', soPin }))).not.toBe('nothing thrown');
    }
    expect(faults.calls('initToken')).toBe(1);
    token.login(pin);
    expect(signs()).toBe(true);
  });

  test('a user PIN that is told to be there, and is not, is set when provisioning goes on', () => {
    const second = createPkcs11Token(faults.cryptoki, { kind: 'blank' });
    faults.refuse('generateKeyPair', ckrTable.CKR_HOST_MEMORY.value, 9);
    expect(codeOf(() => second.provision({ label: 'till-2', pin, soPin }))).toBe('token-failed');
    faults.calm();
    const pins = faults.calls('initPin');
    faults.refuse('login', ckrTable.CKR_USER_PIN_NOT_INITIALIZED.value);
    second.provision({ label: 'till-2', pin, soPin });
    expect(faults.calls('initPin')).toBe(pins + 1);
    second.login(pin);
    second.close();
  });

  test('an empty PIN does not reach the module', () => {
    const before = faults.calls('login');
    expect(codeOf(() => token.login(Buffer.alloc(0)))).toBe('invalid-request');
    expect(faults.calls('login')).toBe(before);
  });

  test('a wrong PIN shows as low in the flags', () => {
    expect(codeOf(() => token.login(Buffer.from('0000-nope')))).toBe('pin-incorrect');
    expect(token.facts()).toMatchObject({ pinState: 'low', triesLeft: null });
  });

  test('a private key that is not the one of the public key is found at login, and nobody stays logged in', () => {
    faults.alter<Uint8Array>('sign', () => Buffer.alloc(64, 1), 9);
    expect(codeOf(() => token.login(pin))).toBe('token-failed');
    faults.calm();
    expect(token.facts().loggedIn).toBe(false);
  });

  test('a crash between writing a data object and destroying the old one leaves the new one, and the next write clears up', () => {
    token.login(pin);
    token.writeObject('anchor-a', Buffer.from('old'));
    faults.refuse('destroyObject', ckrTable.CKR_FUNCTION_REJECTED.value);
    expect(codeOf(() => token.writeObject('anchor-a', Buffer.from('new')))).toBe('token-failed');
    expect(Buffer.from(token.readObject('anchor-a') ?? []).toString()).toBe('new');
    token.writeObject('anchor-a', Buffer.from('newest'));
    expect(Buffer.from(token.readObject('anchor-a') ?? []).toString()).toBe('newest');
    const before = faults.calls('destroyObject');
    token.writeObject('anchor-a', Buffer.from('last'));
    expect(faults.calls('destroyObject')).toBe(before + 1);
  });

  test('a module without data objects says so once: null and false', () => {
    token.login(pin);
    faults.refuse('createObject', ckrTable.CKR_ATTRIBUTE_VALUE_INVALID.value);
    expect(token.writeObject('anchor-a', Buffer.from('x'))).toBe(false);
    expect(token.readObject('anchor-a')).toBeNull();
  });

  test('a method that the module refuses is passed over without losing the login', () => {
    token.login(pin);
    for (const refusal of ['CKR_MECHANISM_INVALID', 'CKR_GENERAL_ERROR', 'CKR_ARGUMENTS_BAD'] as const) {
      faults.refuse('wrapKey', ckrTable[refusal].value, 9);
      expect(token.wrapDataKey(randomBytes(32)).method).toBe('rsa-oaep');
      expect(token.facts().loggedIn).toBe(true);
    }
  });

  test('a method that gives back another key is not used', () => {
    token.login(pin);
    faults.alter<Uint8Array>('attribute', (value) => (value.length === 32 ? Buffer.alloc(32) : value), 99);
    expect(token.wrapDataKey(randomBytes(32)).method).toBe('rsa-oaep');
  });
});

describeSoftHsm('SoftHSM2 as a token that knows RSA only', (modulePath) => {
  let world: SoftHsmWorld;
  let faults: FaultyCryptoki;
  let token: Pkcs11Token;
  beforeEach(() => {
    world = createSoftHsmWorld(modulePath);
    const module = loadModule(modulePath);
    module.finalize();
    faults = faultyCryptoki(module);
    const known = new Set<number>([CK.CKM_RSA_PKCS_KEY_PAIR_GEN, CK.CKM_RSA_PKCS]);
    faults.alter<ReadonlySet<number>>('mechanisms', () => known, 99);
    token = createPkcs11Token(faults.cryptoki, { kind: 'blank' });
    token.provision({ label: 'rsa-only', pin, soPin });
    token.login(pin);
  });
  afterEach(() => {
    token.close();
    loadModule(modulePath).finalize();
    world.remove();
  });

  test('it seals with RS256', () => {
    expect(token.algorithm()).toBe('RS256');
    const message = randomBytes(100);
    expect(signatureHolds(token.publicKey(), message, token.sign(message))).toBe(true);
  });

  test.each(['rsa-pkcs1', 'data-object-kek', 'rsa-signature-hkdf'] as const)('it wraps by %s', (method) => {
    const dataKey = randomBytes(32);
    const wrapped = token.wrapDataKey(dataKey, method);
    token.logout();
    token.login(pin);
    expect(Buffer.from(token.unwrapDataKey(wrapped)).equals(dataKey)).toBe(true);
  });

  test('the text whose signature is a key is never signed for a caller', () => {
    expect(codeOf(() => token.sign(signedKeyText))).toBe('internal');
    expect(codeOf(() => token.sign(Buffer.concat([signedKeyText, Buffer.from('!')])))).toBe('internal');
  });
});

describeSoftHsm('finding a token of SoftHSM2', (modulePath) => {
  let world: SoftHsmWorld;
  beforeEach(() => {
    world = createSoftHsmWorld(modulePath);
    loadModule(modulePath).finalize();
  });
  afterEach(() => {
    loadModule(modulePath).finalize();
    world.remove();
  });
  const make = (label: string): string => {
    const token = openPkcs11Token({ modulePath, slot: { kind: 'blank' } });
    token.provision({ label, pin, soPin });
    const { serial } = token.facts();
    token.close();
    return serial;
  };

  test('the only token is found without a choice; of two, one must be named', () => {
    const first = make('one');
    expect(openPkcs11Token({ modulePath }).facts().serial).toBe(first);
    const second = make('two');
    expect(codeOf(() => openPkcs11Token({ modulePath }))).toBe('no-token');
    expect(openPkcs11Token({ modulePath, slot: { kind: 'label', label: 'two' } }).facts().serial).toBe(second);
    expect(openPkcs11Token({ modulePath, slot: { kind: 'serial', serial: first } }).facts().label).toBe('one');
    expect(codeOf(() => openPkcs11Token({ modulePath, slot: { kind: 'label', label: 'three' } }))).toBe('no-token');
  });

  test('a world without a token offers a blank one', () => {
    expect(openPkcs11Token({ modulePath }).facts().provisioned).toBe(false);
  });

  test('another token in place of the first is not taken for it', () => {
    const token = openPkcs11Token({ modulePath, slot: { kind: 'blank' } });
    token.provision({ label: 'same', pin, soPin });
    token.login(pin);
    world.unplug();
    loadModule(modulePath).finalize();
    make('same');
    expect(codeOf(() => token.sign(Buffer.from('x')))).toBe('no-token');
    expect(codeOf(() => token.facts())).toBe('no-token');
  });

  test('provisioning goes on where a crash cut it, with the same PINs', () => {
    for (const step of ['initPin', 'generateKeyPair'] as const) {
      const faults = faultyCryptoki(loadModule(modulePath));
      const token = createPkcs11Token(faults.cryptoki, { kind: 'blank' });
      faults.refuse(step, ckrTable.CKR_HOST_MEMORY.value, 9);
      expect(codeOf(() => token.provision({ label: step, pin, soPin }))).toBe('token-failed');
      expect(token.facts().provisioned).toBe(false);
      token.close();
      const again = openPkcs11Token({ modulePath, slot: { kind: 'label', label: step } });
      again.provision({ label: step, pin, soPin });
      again.login(pin);
      expect(signatureHolds(again.publicKey(), Buffer.from('m'), again.sign(Buffer.from('m')))).toBe(true);
      again.close();
    }
  });

  test('a module is loaded by its absolute path only, and only when its SHA-256 is the allowed one', () => {
    expect(codeOf(() => openPkcs11Token({ modulePath: 'libsofthsm2.so' }))).toBe('token-failed');
    expect(codeOf(() => openPkcs11Token({ modulePath: '/nowhere/module.so' }))).toBe('token-failed');
    expect(codeOf(() => openPkcs11Token({ modulePath: process.execPath, moduleSha256: '0'.repeat(64) }))).toBe('token-failed');
  });
});
