// Owns: telling subscribers what has happened on one token, each change once.
// Must not: know who subscribed; before `attach` nobody has.
import type { Clock } from '#ground/clock.ts';
import type { EventNotice } from '#ipc-schema/envelope.ts';
import type { EventName } from '#ipc-schema/methods.ts';
import type { Custody } from '#ledger/custody.ts';

const limitSteps = [50, 75, 90, 100] as const;
const storeSteps = [75, 90] as const;

export class Herald {
  readonly #token: string;
  readonly #clock: Clock;
  #publish: (notice: EventNotice) => void = () => undefined;
  #standing = '';
  #limitStep = 0;
  #storeStep = 0;

  /** `token`: its name in the configuration. */
  constructor(token: string, clock: Clock) {
    this.#token = token;
    this.#clock = clock;
  }

  attach(publish: (notice: EventNotice) => void): void {
    this.#publish = publish;
  }

  tell(event: EventName, facts: Readonly<Record<string, unknown>>): void {
    this.#publish({ event, at: new Date(this.#clock.wallMs()).toISOString(), token: this.#token, ...facts });
  }

  standing(custody: Custody): void {
    const report = custody.standing();
    if (report.standing === this.#standing) return;
    this.#standing = report.standing;
    this.tell('standing', { ...report });
    this.limit(custody);
  }

  /** At 75 and 90 %, once on the way up; freed segments set the steps back. Answers the step that was told, or 0. */
  store(usedPercent: number): number {
    const step = storeSteps.findLast((at) => usedPercent >= at) ?? 0;
    const isNews = step > this.#storeStep;
    this.#storeStep = step;
    if (isNews) this.tell('store', { usedPercent, step });
    return isNews ? step : 0;
  }

  /** At 50, 75, 90 and 100 %, once on the way up; an acknowledgement sets the steps back. */
  limit(custody: Custody): void {
    const usedPercent = custody.budget()?.usedPercent ?? 0;
    const step = limitSteps.findLast((at) => usedPercent >= at) ?? 0;
    if (step > this.#limitStep) this.tell('limit', { usedPercent, step });
    this.#limitStep = step;
  }
}
