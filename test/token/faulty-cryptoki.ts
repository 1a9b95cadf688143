// Owns: a Cryptoki that stands between a token and its real module, counts calls, and answers wrongly when told.
import { CkrError } from '#token/ckr.ts';
import type { Cryptoki } from '#token/cryptoki.ts';

type Call = keyof Cryptoki;

export interface FaultyCryptoki {
  readonly cryptoki: Cryptoki;
  calls(call: Call): number;
  /** The next `times` calls are refused with the value, before they reach the module. */
  refuse(call: Call, ckr: number, times?: number): void;
  /** The results of the next `times` calls are replaced. */
  alter<T>(call: Call, change: (result: T) => T, times?: number): void;
  calm(): void;
}

type Fault = { kind: 'refuse'; ckr: number; times: number } | { kind: 'alter'; change: (result: unknown) => unknown; times: number };

export function faultyCryptoki(real: Cryptoki): FaultyCryptoki {
  const faults = new Map<string, Fault>();
  const counts = new Map<string, number>();
  const run = (name: string, real: () => unknown): unknown => {
    counts.set(name, (counts.get(name) ?? 0) + 1);
    const fault = faults.get(name);
    if (fault === undefined || fault.times <= 0) return real();
    fault.times -= 1;
    if (fault.kind === 'refuse') throw new CkrError(name, fault.ckr);
    return fault.change(real());
  };
  const cryptoki = new Proxy(real, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== 'function' || typeof name !== 'string') return value;
      return (...parameters: unknown[]) => run(name, () => Reflect.apply(value, target, parameters));
    },
  });
  return {
    cryptoki,
    calls: (call) => counts.get(call) ?? 0,
    refuse: (call, ckr, times = 1) => faults.set(call, { kind: 'refuse', ckr, times }),
    // The caller names the type of the call's result; nothing here depends on it.
    alter: <T>(call: Call, change: (result: T) => T, times = 1) =>
      faults.set(call, { kind: 'alter', change: change as (result: unknown) => unknown, times }),
    calm: () => faults.clear(),
  };
}
