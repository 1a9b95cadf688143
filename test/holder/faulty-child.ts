// Owns: a holder process for tests: the real message loop, FLASH and soft token, but a driver that does what a folder tells it to.
// How: files in the token's folder: `hang-sign` and `hang-facts` block for ever, `die-sign` dies by SIGSEGV, `slow-sign` takes 200 ms;
// `chatter` prints at each signature. They are looked up at each call, so that a test may put them there at any time.
import { existsSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { serveParent } from '#holder/child-loop.ts';
import { partsOf } from '#holder/parts.ts';
import type { Token } from '#token/token.ts';

function block(waitMs: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, waitMs);
}

function withFaults(token: Token, folder: string): Token {
  const isAsked = (fault: string): boolean => existsSync(join(folder, fault));
  return new Proxy(token, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]): unknown => {
        if (name === 'sign') {
          if (isAsked('chatter')) process.stdout.write('driver: signing\n');
          if (isAsked('slow-sign')) block(200);
          if (isAsked('die-sign')) {
            rmSync(join(folder, 'die-sign'));
            process.kill(process.pid, 'SIGSEGV');
            block(10_000);
          }
        }
        if (isAsked(`hang-${String(name)}`)) block(Number.POSITIVE_INFINITY);
        return Reflect.apply(value, target, args);
      };
    },
  });
}

serveParent((config) => {
  const parts = partsOf(config);
  const folder = dirname(config.flashPath);
  return { ...parts, openToken: () => withFaults(parts.openToken(), folder) };
});
