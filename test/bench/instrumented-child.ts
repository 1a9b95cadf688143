// Owns: the holder process with instruments: a signature takes as long as the file `sign-ms` beside the FLASH says (a slow card), and signatures and
// writes are timed. Otherwise the very parts of production.
import { existsSync, readFileSync, watch } from 'node:fs';
import path from 'node:path';
import { serveParent } from '#holder/child-loop.ts';
import type { HolderConfig } from '#holder/configuration.ts';
import { type OpenedFromConfig, partsOf } from '#holder/parts.ts';
import type { Device } from '#store/device.ts';
import type { Token } from '#token/token.ts';
import { profileOnSignal, Stopwatch } from './instruments.ts';

const stopwatch = new Stopwatch();

/** Blocks this process as a driver does. */
function block(waitMs: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, waitMs);
}

function slowness(file: string): () => number {
  const read = (): number => (existsSync(file) ? Number(readFileSync(file, 'utf8')) : 0);
  let signMs = read();
  watch(path.dirname(file), () => {
    signMs = read();
  }).unref();
  return () => signMs;
}

function timedToken(token: Token, signMs: () => number): Token {
  return new Proxy(token, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== 'function') return value;
      if (name !== 'sign') return (...args: unknown[]): unknown => Reflect.apply(value, target, args);
      return (message: Uint8Array): Uint8Array => {
        const startedMs = performance.now();
        if (signMs() > 0) block(signMs());
        const signature = target.sign(message);
        stopwatch.note('sign and verify', startedMs);
        return signature;
      };
    },
  });
}

function timedDevice(device: Device): Device {
  return new Proxy(device, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== 'function') return value;
      if (name !== 'writeAndSync') return (...args: unknown[]): unknown => Reflect.apply(value, target, args);
      return async (positionBytes: number, bytes: Uint8Array): Promise<void> => {
        const startedMs = performance.now();
        await target.writeAndSync(positionBytes, bytes);
        stopwatch.note('write and sync', startedMs);
      };
    },
  });
}

function timed(config: HolderConfig): OpenedFromConfig {
  const parts = partsOf(config);
  const folder = path.dirname(config.flashPath);
  const signMs = slowness(path.join(folder, 'sign-ms'));
  profileOnSignal(folder, 'holder', stopwatch);
  const { openBlank } = parts;
  return {
    ...parts,
    openToken: () => timedToken(parts.openToken(), signMs),
    ...(openBlank === undefined ? {} : { openBlank: () => timedToken(openBlank(), signMs) }),
    openDevice: async (readOnly) => timedDevice(await parts.openDevice(readOnly)),
  };
}

serveParent(timed);
