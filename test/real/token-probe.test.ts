// Shows: `ukeyctl token probe` on SoftHSM2: what it tells, that it leaves nothing on the token, and that a module that hangs or dies is told as such.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { pin, soPin } from '#test/suites/token-suite.ts';
import { ctl, errorOf, jsonOf } from '#test/support/ctl.ts';
import { FaultyModule } from '#test/support/faulty-module.ts';
import { createSoftHsmWorld, describeSoftHsm, type SoftHsmWorld } from '#test/support/softhsm.ts';
import { ckrTable } from '#token/ckr.ts';
import { CK } from '#token/cryptoki.ts';
import { loadModule, openPkcs11Token } from '#token/pkcs11.ts';

describeSoftHsm('ukeyctl token probe', (modulePath) => {
  let world: SoftHsmWorld;
  let module: FaultyModule;
  let folder: string;
  let pinFile: string;
  beforeEach(() => {
    world = createSoftHsmWorld(modulePath);
    module = new FaultyModule(modulePath);
    folder = mkdtempSync(join(tmpdir(), 'ukeyd-probe-'));
    pinFile = join(folder, 'pin');
    writeFileSync(pinFile, pin, { mode: 0o600 });
    loadModule(modulePath).finalize();
    const token = openPkcs11Token({ modulePath, slot: { kind: 'blank' } });
    token.provision({ label: 'till-1', pin, soPin });
    token.close();
  });
  afterEach(() => {
    loadModule(modulePath).finalize();
    module.remove();
    world.remove();
    rmSync(folder, { recursive: true, force: true });
  });

  const environment = () => ({ ...world.environment, ...module.environment });
  const probe = (...args: string[]) => ctl(['token', 'probe', '--json', '--module', module.path, ...args], { env: environment() });
  const toProve = () => ['--token-label', 'till-1', '--pin-file', pinFile, '--prove'];

  /** Objects of our token that a user sees. */
  function objects(): number {
    const cryptoki = loadModule(modulePath);
    cryptoki.finalize();
    cryptoki.initialize();
    const slot = cryptoki.slots().find((each) => cryptoki.tokenInfo(each).label === 'till-1') ?? Buffer.alloc(8);
    const session = cryptoki.openSession(slot);
    cryptoki.login(session, CK.CKU_USER, pin);
    return cryptoki.find(session, []).length;
  }

  test('tells without a PIN what the module names, and tries none', { timeout: 30_000 }, async () => {
    const run = await probe();
    expect(run.status).toBe(0);
    const report = jsonOf(run) as { tokens: { label: string }[] };
    expect(report).toMatchObject({ canCarry: true, proven: false });
    expect(report.tokens.find(({ label }) => label === 'till-1')).toMatchObject({
      ...{ initialized: true, provisioned: true, pinState: 'ok', missing: [] },
      signing: { algorithm: 'ES256', ability: { kind: 'named' }, signMs: null },
    });
    expect(module.calls('C_Login')).toBe(0);
  });

  test('proves each ability, times signatures, and leaves nothing on the token', { timeout: 30_000 }, async () => {
    const before = objects();
    const run = await probe(...toProve());
    expect(run.status).toBe(0);
    const [token] = (jsonOf(run) as { tokens: Record<string, unknown>[] }).tokens;
    expect(token).toMatchObject({ signing: { algorithm: 'ES256', ability: { kind: 'proven' }, signMs: expect.any(Number) } });
    expect(token?.['wrapping']).toEqual(
      ['aes-kw', 'rsa-oaep', 'rsa-pkcs1', 'ecdh-p256-hkdf', 'data-object-kek', 'rsa-signature-hkdf'].map((method) => ({
        method,
        ability: method === 'rsa-signature-hkdf' ? expect.anything() : { kind: 'proven' },
      })),
    );
    expect(token?.['dataObjects']).toEqual({ kind: 'proven' });
    expect(objects()).toBe(before);
    expect(run.stdout + run.stderr).not.toContain(pin.toString());
  });

  test('proves by keys on the token where the module makes none for a session, and destroys them', { timeout: 30_000 }, async () => {
    const before = objects();
    module.obey({ on: 'C_GenerateKeyPair', fault: { kind: 'ckr', value: ckrTable.CKR_ATTRIBUTE_VALUE_INVALID.value }, times: 1 });
    const run = await probe(...toProve());
    const [token] = (jsonOf(run) as { tokens: Record<string, unknown>[] }).tokens;
    expect(token).toMatchObject({ canCarry: true, isOnToken: true, leftBehind: 0, signing: { ability: { kind: 'proven' } } });
    expect(objects()).toBe(before);
  });

  test('a token that nobody may write to cannot carry the service', { timeout: 30_000 }, async () => {
    module.obey({ on: 'C_GetTokenInfo', fault: { kind: 'flags', flags: CK.CKF_WRITE_PROTECTED } });
    const run = await probe();
    expect(run.status).toBe(3);
    expect(jsonOf(run)).toMatchObject({ canCarry: false });
  });

  test('is a table for people, with a verdict', { timeout: 30_000 }, async () => {
    const run = await ctl(['token', 'probe', '--module', module.path, ...toProve()], { env: environment() });
    expect(run.stdout).toMatch(/Wraps by +aes-kw/);
    expect(run.stdout).toContain('can carry the service');
  });

  test('asks for no try that the token warns of, and for one at most', { timeout: 30_000 }, async () => {
    module.obey({ on: 'C_GetTokenInfo', fault: { kind: 'flags', flags: CK.CKF_USER_PIN_FINAL_TRY } });
    expect(errorOf(await probe(...toProve()))).toMatchObject({ code: 'pin-last-try' });
    expect(module.calls('C_Login')).toBe(0);
    module.calm();
    writeFileSync(pinFile, 'wr0ng-PIN');
    expect(errorOf(await probe(...toProve()))).toMatchObject({ code: 'pin-incorrect' });
    expect(module.calls('C_Login')).toBe(1);
  });

  test('says what a module cannot do', { timeout: 30_000 }, async () => {
    module.obey({ on: 'C_GenerateKeyPair', fault: { kind: 'ckr', value: 0x54 } });
    const run = await probe(...toProve());
    expect(run.status).toBe(3);
    expect(jsonOf(run)).toMatchObject({ canCarry: false });
  });

  test('tells a module that hangs from one that dies, and where', { timeout: 30_000 }, async () => {
    module.obey({ on: 'C_OpenSession', fault: { kind: 'sleep', waitMs: 60_000 } });
    const hung = errorOf(await probe('--deadline', '3'));
    expect(hung).toMatchObject({ code: 'token-failed', message: expect.stringContaining('C_OpenSession') });
    module.obey({ on: 'C_Initialize', fault: { kind: 'segv' } });
    const died = errorOf(await probe());
    expect(died).toMatchObject({ code: 'token-failed', message: expect.stringContaining('SIGSEGV') });
  });

  test('uses a PIN only for a token that is named', { timeout: 30_000 }, async () => {
    const run = await probe('--prove', '--pin-file', pinFile);
    expect(run.status).toBe(2);
    expect(errorOf(run)).toMatchObject({ field: '--token-label' });
  });
});
