// Shows: the token suite on tpm2-pkcs11 over a TPM in software; the lock of a chip that really locks, and that it lets go by itself; and a token that the
// vendor's own tool has made.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import { errorTable, UkeyError } from '#ipc-schema/errors.ts';
import { codeOf, otherPin, pin, soPin, tokenSuite, wrongPin } from '#test/suites/token-suite.ts';
import { ctl, errorOf, jsonOf } from '#test/support/ctl.ts';
import { FaultyModule } from '#test/support/faulty-module.ts';
import { describeTpm } from '#test/support/tpm.ts';
import { faultyCryptoki } from '#test/token/faulty-cryptoki.ts';
import { ckrTable } from '#token/ckr.ts';
import { CK } from '#token/cryptoki.ts';
import { moduleWrapMethods } from '#token/key-wrap.ts';
import { loadModule, openPkcs11Token } from '#token/pkcs11.ts';
import { createPkcs11Token } from '#token/pkcs11-token.ts';
import { signatureHolds } from '#token/public-key.ts';
import type { Token } from '#token/token.ts';

describeTpm('tpm2-pkcs11', (modulePath, world) => {
  afterAll(() => loadModule(modulePath).finalize());
  const clear = (): void => {
    loadModule(modulePath).finalize();
    world().clear();
  };
  const blank = () => openPkcs11Token({ modulePath, slot: { kind: 'blank' } });
  const provisioned = (): Token => {
    const token = blank();
    token.provision({ label: 'till-1', pin, soPin });
    return token;
  };
  const signs = (token: Token): boolean => signatureHolds(token.publicKey(), Buffer.from('m'), token.sign(Buffer.from('m')));

  tokenSuite(
    'a token of a TPM',
    () => {
      clear();
      return {
        blank,
        // Each token of a TPM has the same serial number.
        again: (token) => openPkcs11Token({ modulePath, slot: { kind: 'label', label: token.facts().label } }),
        unplug: () => world().switchOff(),
        plug: () => world().switchOn(),
        remove: () => undefined,
      };
    },
    {
      wrapMethods: ['rsa-oaep', 'rsa-pkcs1', 'data-object-kek'],
      triesMax: null,
      moduleName: /^tpm2-software/u,
      odd: { noReset: true, anyPin: true, pulled: 'at-use' },
    },
  );

  describe('a TPM that locks', () => {
    beforeEach(clear);

    /** The code, and whether what a person is told to do is another thing than the table says. */
    function refusal(action: () => unknown): { readonly code: string; readonly ownAction: boolean } {
      try {
        action();
      } catch (error) {
        if (error instanceof UkeyError) return { code: error.code, ownAction: error.action !== errorTable[error.code].action };
        throw error;
      }
      return { code: 'nothing thrown', ownAction: false };
    }

    test('refuses the right PIN and the SO PIN too, says that waiting helps, and counts no try while it does', () => {
      const token = provisioned();
      world().setPatience({ triesMax: 3, forgetsSeconds: 1_000 });
      // The right PIN forgives nothing: only time does.
      expect(codeOf(() => token.login(wrongPin))).toBe('pin-incorrect');
      token.login(pin);
      token.logout();
      for (let at = 0; at < 2; at += 1) expect(codeOf(() => token.login(wrongPin))).toBe('pin-incorrect');
      for (const locked of [() => token.login(pin), () => token.unblockPin(soPin, otherPin), () => token.changePin(pin, otherPin)])
        expect(refusal(locked)).toEqual({ code: 'pin-locked', ownAction: true });
      expect(world().wrongTries()).toBe(3);
      // The module tells nothing of it.
      expect(token.facts()).toMatchObject({ provisioned: true, loggedIn: false, triesLeft: null, pinState: 'ok' });
      world().unlock();
      token.login(pin);
      expect(signs(token)).toBe(true);
    });

    test('because of others ends a login at the next signature, and takes the PIN again when it lets go', async () => {
      const token = provisioned();
      token.login(pin);
      world().setPatience({ triesMax: 2, forgetsSeconds: 1 });
      for (let at = 0; at < 2; at += 1) expect(codeOf(() => token.changePin(wrongPin, otherPin))).not.toBe('nothing thrown');
      expect(codeOf(() => token.sign(Buffer.from('m')))).toBe('locked');
      const giveUpAtMs = performance.now() + 20_000;
      while (codeOf(() => token.login(pin)) === 'pin-locked' && performance.now() < giveUpAtMs) await setTimeout(200);
      expect(signs(token)).toBe(true);
    });
  });

  describe('making a token of a TPM ready', () => {
    beforeEach(clear);

    test('goes on where a crash left it, though the module says that a PIN is there', () => {
      for (const step of ['initPin', 'generateKeyPair'] as const) {
        const faults = faultyCryptoki(loadModule(modulePath));
        const cut = createPkcs11Token(faults.cryptoki, { kind: 'blank' });
        faults.refuse(step, ckrTable.CKR_HOST_MEMORY.value, 9);
        expect(codeOf(() => cut.provision({ label: step, pin, soPin }))).toBe('token-failed');
        loadModule(modulePath).finalize();
        const token = openPkcs11Token({ modulePath, slot: { kind: 'label', label: step } });
        expect(token.facts().provisioned).toBe(false);
        token.provision({ label: step, pin, soPin });
        token.login(pin);
        expect(signs(token)).toBe(true);
        token.close();
      }
      expect(world().wrongTries()).toBe(0);
    });

    test("takes a token that the vendor's own tool has made, under the label and PINs that it was given there", () => {
      world().makeToken({ label: 'by-ptool', pin: pin.toString(), soPin: soPin.toString() });
      const token = openPkcs11Token({ modulePath, slot: { kind: 'label', label: 'by-ptool' } });
      expect(codeOf(() => token.provision({ label: 'by-ptool', pin: wrongPin, soPin }))).toBe('pin-incorrect');
      token.provision({ label: 'by-ptool', pin, soPin });
      token.login(pin);
      expect(signs(token)).toBe(true);
      expect(token.wrapDataKey(Buffer.alloc(32, 5)).method).toBe('rsa-oaep');
      token.unblockPin(soPin, otherPin);
      token.login(otherPin);
      expect(signs(token)).toBe(true);
    });
  });

  describe('ukeyctl token probe on a TPM', () => {
    let folder: string;
    beforeEach(() => {
      clear();
      folder = mkdtempSync(join(tmpdir(), 'ukeyd-probe-'));
      writeFileSync(join(folder, 'pin'), pin, { mode: 0o600 });
      provisioned().close();
    });
    afterEach(() => rmSync(folder, { recursive: true, force: true }));
    const probe = (module: string, env: Readonly<Record<string, string>> = {}) =>
      ctl(['token', 'probe', '--json', '--module', module, '--token-label', 'till-1', '--pin-file', join(folder, 'pin'), '--prove'], {
        env: { ...world().environment, ...env },
      });

    /** Labels of what is on the token, as a user sees it. */
    function labels(): string[] {
      const cryptoki = loadModule(modulePath);
      cryptoki.finalize();
      cryptoki.initialize();
      const slot = cryptoki.slots().find((each) => cryptoki.tokenInfo(each).label === 'till-1') ?? Buffer.alloc(8);
      const session = cryptoki.openSession(slot);
      cryptoki.login(session, CK.CKU_USER, pin);
      const found = cryptoki.find(session, []).map((object) => cryptoki.attribute(session, object, CK.CKA_LABEL).toString());
      cryptoki.finalize();
      return found;
    }

    test('proves what works by keys that it has to make on the token, and destroys them', { timeout: 60_000 }, async () => {
      const run = await probe(modulePath);
      expect(run.status).toBe(0);
      expect(jsonOf(run)).toMatchObject({ canCarry: true, proven: true });
      const [token] = (jsonOf(run) as { tokens: Record<string, unknown>[] }).tokens;
      const works = ['rsa-oaep', 'rsa-pkcs1', 'data-object-kek'];
      expect(token).toMatchObject({
        ...{ label: 'till-1', provisioned: true, canCarry: true, missing: [], isOnToken: true, leftBehind: 0 },
        signing: { algorithm: 'ES256', ability: { kind: 'proven' }, signMs: expect.any(Number) },
        wrapping: moduleWrapMethods.map((method) => ({ method, ability: { kind: works.includes(method) ? 'proven' : 'absent' } })),
        dataObjects: { kind: 'proven' },
      });
      expect(labels()).toEqual(['ukeyd-seal', 'ukeyd-seal']);
      console.log(`tpm: ${JSON.stringify(token?.['signing'])}`);
    });

    test('leaves no key under the name of a ledger when the module dies; the next probe sweeps', { timeout: 60_000 }, async () => {
      const module = new FaultyModule(modulePath);
      try {
        module.obey({ on: 'C_Sign', fault: { kind: 'segv' } });
        expect(errorOf(await probe(module.path, module.environment))).toMatchObject({ code: 'token-failed' });
        expect(labels().filter((label) => label !== 'ukeyd-seal')).toEqual(['probe-ukeyd-seal', 'probe-ukeyd-seal']);
      } finally {
        module.remove();
      }
      expect(jsonOf(await probe(modulePath))).toMatchObject({ canCarry: true });
      expect(labels()).toEqual(['ukeyd-seal', 'ukeyd-seal']);
    });
  });
});
