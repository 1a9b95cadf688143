// Owns: the life of a token of OpenCryptoki, told as one JSON line; runs inside opencryptoki-world.sh. The module's path is the only argument.
// Each step gives what it found, or the code that it was refused with; opencryptoki.test.ts says what that must be.
import { randomBytes } from 'node:crypto';
import { asUkeyError } from '#ipc-schema/errors.ts';
import { moduleWrapMethods } from '#token/key-wrap.ts';
import { loadModule, openPkcs11Token } from '#token/pkcs11.ts';
import { signatureHolds } from '#token/public-key.ts';
import type { Token } from '#token/token.ts';

const [modulePath = ''] = process.argv.slice(2);
const [pin, otherPin, soPin, wrongPin] = ['2468', '1357', '87654321', '0000'].map((text) => Buffer.from(text)) as [
  Buffer,
  Buffer,
  Buffer,
  Buffer,
];
const found: Record<string, unknown> = {};

function step(name: string, act: () => unknown): void {
  try {
    found[name] = act() ?? 'done';
  } catch (thrown) {
    found[name] = asUkeyError(thrown).code;
  }
}

/** As a new process finds it. */
function anew(): Token {
  loadModule(modulePath).finalize();
  return openPkcs11Token({ modulePath });
}

let token = anew();
const signs = (): boolean => signatureHolds(token.publicKey(), Buffer.from('m'), token.sign(Buffer.from('m')));
step('provision', () => token.provision({ label: 'shop-7', pin, soPin }));
step('provision again', () => token.provision({ label: 'other', pin, soPin }));
step('login', () => token.login(pin));
step('algorithm', () => token.algorithm());
step('signs', signs);
step('choice', () => token.wrapDataKey(randomBytes(32)).method);
for (const method of moduleWrapMethods) {
  step(method, () => {
    const dataKey = randomBytes(32);
    return Buffer.from(token.unwrapDataKey(token.wrapDataKey(dataKey, method))).equals(dataKey);
  });
}
step('object', () => token.writeObject('anchor-a', Buffer.from('one')) && token.writeObject('anchor-a', Buffer.from('two')));
step('change', () => token.changePin(pin, otherPin));
token.close();
token = anew();
step('old PIN', () => token.login(pin));
step('after a wrong PIN', () => token.facts().pinState);
step('new PIN', () => token.login(otherPin));
step('object anew', () => Buffer.from(token.readObject('anchor-a') ?? []).toString());
step('signs anew', signs);
step('logout', () => token.logout());
for (let at = 0; at < 10 && token.facts().pinState !== 'locked'; at += 1) {
  step(`try ${at}`, () => token.login(wrongPin));
  found['tries'] = at + 1;
}
step('locked', () => token.facts().pinState);
step('right PIN of a locked token', () => token.login(otherPin));
step('unblock', () => token.unblockPin(soPin, pin));
step('unblocked', () => token.facts().pinState);
step('login after that', () => token.login(pin));
step('signs after that', signs);
step('reset with a wrong SO PIN', () => token.reset({ label: 'shop-7', soPin: wrongPin }));
step('login again', () => token.login(pin));
step('reset', () => token.reset({ label: 'shop-7', soPin }));
step('provisioned after a reset', () => token.facts().provisioned);
step('provision anew', () => token.provision({ label: 'shop-7', pin, soPin }));
step('login anew', () => token.login(pin));
step('signs with a new key', signs);
token.close();
console.log(JSON.stringify(found));
