// Owns: what is said between the harness and the process that makes the load.
// Invariants: plain data; `Sent` comes once for each order that asks for one.

export interface Till {
  readonly terminal: string;
  readonly secret: Uint8Array;
}

interface Traffic {
  readonly pool: string;
  readonly tills: number;
  /** Of the keys: another for each run. */
  readonly prefix: string;
}

export type Order =
  /** JSON of requests without their keys: they are sent in turns. */
  | { readonly kind: 'requests'; readonly requests: readonly string[] }
  /** Connects; a till is introduced and proves itself, an echo needs none. */
  | { readonly kind: 'open'; readonly pool: string; readonly path: string; readonly count: number; readonly till: Till | null }
  | { readonly kind: 'shut'; readonly pool: string }
  /** Closed loop: each of the first `tills` connections has one request on its way until `count` are answered. */
  | ({
      readonly kind: 'run';
      readonly count: number;
      /** Answer the documents too. */
      readonly keep?: boolean;
      readonly pauseMs?: number;
    } & Traffic)
  /** The same without an end; answered at once, `end` answers what was sent. */
  | ({ readonly kind: 'begin'; readonly pauseMs: number } & Traffic)
  | { readonly kind: 'end' }
  /** Tries to connect and issue until one invoice is issued. */
  | { readonly kind: 'first'; readonly path: string; readonly till: Till; readonly prefix: string };

export interface Sent {
  readonly latenciesUs: Float64Array;
  /** When each was answered: milliseconds since 1970. */
  readonly atMs: Float64Array;
  readonly elapsedMs: number;
  /** Refusals by code. */
  readonly failures: Readonly<Record<string, number>>;
  /** What the service made of the requests, where that was asked for. */
  readonly documents: readonly string[];
}

export type Asked = { readonly id: number; readonly order: Order };
export type Told = { readonly id: number; readonly sent: Sent | null } | { readonly id: number; readonly failed: string };
