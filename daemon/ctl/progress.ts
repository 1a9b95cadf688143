// Owns: the bar that shows how far long work has come.
// Invariants: it is drawn on stderr, only when stderr is a terminal, at most ten times a second, and is wiped when the work ends,
// well or badly; elsewhere it is silent.
// Must not: decide anything.

export interface Progress {
  /** How much is done by now; `total` when it became known. */
  show(done: number, total?: number): void;
  /** Wipes the bar. Harmless when repeated. */
  end(): void;
  [Symbol.dispose](): void;
}

const drawMs = 100;
const barColumns = 30;

/** `total` null: not known yet; then only the count is shown. */
export function openProgress(label: string, total: number | null, stream: NodeJS.WriteStream = process.stderr): Progress {
  const silent = stream.isTTY !== true;
  const startedMs = performance.now();
  let known = total;
  let drawnMs = Number.NEGATIVE_INFINITY;
  const end = (): void => {
    if (!silent && drawnMs !== Number.NEGATIVE_INFINITY) stream.write('\r\x1b[K');
    drawnMs = Number.NEGATIVE_INFINITY;
  };
  return {
    show(done, newTotal) {
      known = newTotal ?? known;
      const nowMs = performance.now();
      if (silent || nowMs - drawnMs < drawMs) return;
      drawnMs = nowMs;
      stream.write(`\r${barText(label, done, known, nowMs - startedMs).slice(0, Math.max(1, stream.columns - 1))}\x1b[K`);
    },
    end,
    [Symbol.dispose]: end,
  };
}

/** One state of the bar as text. Pure. */
export function barText(label: string, done: number, total: number | null, sinceMs: number): string {
  const seconds = (sinceMs / 1000).toFixed(0);
  if (total === null || total <= 0) return `${label}  ${done}  ${seconds} s`;
  const share = Math.min(1, done / total);
  const full = Math.floor(share * barColumns);
  return `${label}  [${'#'.repeat(full)}${'.'.repeat(barColumns - full)}] ${Math.floor(share * 100)}%  ${done}/${total}  ${seconds} s`;
}
