// Owns: what a vendor's driver prints: cut into lines, bounded in length and number, handed to the log.
// Invariants: never more than linesMax lines in a window, each at most lineMaxChars long, printable characters only; what was
// left out is counted and said.

export const lineMaxChars = 400;
export const linesMax = 20;
const windowMs = 10_000;

export class Chatter {
  readonly #onLine: (line: string) => void;
  readonly #now: () => number;
  #rest = '';
  /** The rest of an over-long line is thrown away up to its end. */
  #skipping = false;
  #windowStartMs = Number.NEGATIVE_INFINITY;
  #lines = 0;
  #dropped = 0;

  constructor(onLine: (line: string) => void, now: () => number) {
    this.#onLine = onLine;
    this.#now = now;
  }

  take(text: string): void {
    const parts = text.split('\n');
    const last = parts.pop() ?? '';
    for (const part of parts) {
      if (!this.#skipping) this.#say(this.#rest + part);
      this.#rest = '';
      this.#skipping = false;
    }
    if (this.#skipping) return;
    this.#rest += last;
    if (this.#rest.length <= lineMaxChars) return;
    this.#say(this.#rest);
    this.#rest = '';
    this.#skipping = true;
  }

  #say(line: string): void {
    const clean = line
      .slice(0, lineMaxChars)
      .replace(/[^\x20-\x7e\u00a0-\uffff]/gu, ' ')
      .trim();
    if (clean === '') return;
    const nowMs = this.#now();
    if (nowMs - this.#windowStartMs >= windowMs) {
      if (this.#dropped > 0) this.#onLine(`(${this.#dropped} lines left out)`);
      this.#windowStartMs = nowMs;
      this.#lines = 0;
      this.#dropped = 0;
    }
    this.#lines += 1;
    if (this.#lines <= linesMax) this.#onLine(clean);
    else this.#dropped += 1;
  }
}
