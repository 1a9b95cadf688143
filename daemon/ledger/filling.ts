// Owns: the facts behind the forecast, gathered from the open ledger now and then: when its oldest, its newest acknowledged and last week's batches
// were sealed, and how large a batch is in the mean.
// Invariants: everything comes from the log itself, so that it is the same after a restart and on another machine; a look reads a few batches
// (a search by halving, whose answers are remembered), never the log; it is beside the tills, and a look that fails changes nothing.
import type { Clock } from '#ground/clock.ts';
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder, HolderStatus } from '#holder/holder.ts';
import { decodeSeal } from '#ipc-schema/batch.ts';
import { type Forecast, forecastOf, windowMs } from './forecast.ts';
import type { Ledger } from './ledger.ts';
import { readBatch } from './stored.ts';

const dayMs = 86_400_000;
const pauseMs = 60_000;
/** The server has answered lately: what is written now will be acknowledged as well. */
const ackedLatelyMs = 26 * 3_600_000;
const timesMax = 512;

export class Filling {
  readonly #parts: { readonly holder: Holder; readonly clock: Clock; readonly log: Log };
  #ledger: Ledger | null = null;
  #forecast: Forecast = { kind: 'unknown' };
  readonly #sealedAtMs = new Map<number, number>();
  /** Monotonic. */
  #notBeforeMs = 0;
  #isLooking = false;

  constructor(parts: { readonly holder: Holder; readonly clock: Clock; readonly log: Log }) {
    this.#parts = parts;
  }

  /** As of the last look at this ledger. */
  forecast(ledger: Ledger): Forecast {
    return this.#ledger === ledger ? this.#forecast : { kind: 'unknown' };
  }

  /** Never rejects. */
  async look(ledger: Ledger, figures: HolderStatus): Promise<void> {
    const { clock, log } = this.#parts;
    const isNew = ledger !== this.#ledger;
    if (this.#isLooking || (!isNew && clock.monotonicMs() < this.#notBeforeMs)) return;
    this.#isLooking = true;
    this.#notBeforeMs = clock.monotonicMs() + pauseMs;
    if (isNew) this.#sealedAtMs.clear();
    try {
      const forecast = await this.#judge(ledger, figures);
      this.#ledger = ledger;
      this.#forecast = forecast;
    } catch (error) {
      log.debug('no forecast', { why: whyOf(error) });
    } finally {
      this.#isLooking = false;
    }
  }

  async #judge(ledger: Ledger, { capacityBytes, freeBytes }: HolderStatus): Promise<Forecast> {
    const { charter, tip, kept } = ledger;
    const keptBatches = tip.nextBatch - kept.oldestBatch;
    if (charter === null || keptBatches < 2) return { kind: 'unknown' };
    const newestMs = await this.#sealed(tip.nextBatch - 1);
    const nowMs = Math.max(this.#parts.clock.wallMs(), newestMs);
    const oldestMs = await this.#sealed(kept.oldestBatch);
    const from = await this.#firstSince(nowMs - windowMs, kept.oldestBatch, tip.nextBatch - 1);
    const spanMs = Math.min(windowMs, nowMs - oldestMs);
    const meanBytes = (capacityBytes - freeBytes) / keptBatches;
    const isAllAcked = tip.lastWeightyBatch <= tip.ackedBatch;
    return forecastOf({
      nowMs,
      capacityBytes,
      freeBytes,
      oldestMs,
      ackedMs: tip.ackedBatch < kept.oldestBatch ? null : await this.#sealed(tip.ackedBatch),
      lately: { bytes: (tip.nextBatch - from) * meanBytes, spanMs },
      keepMs: charter.keepDays * dayMs,
      acknowledging: charter.mode !== 'offline' && (isAllAcked || nowMs - tip.serverTimeMs < ackedLatelyMs),
    });
  }

  /** The first batch that was sealed since then; one past the last when there is none. */
  async #firstSince(sinceMs: number, oldest: number, newest: number): Promise<number> {
    let [low, high] = [oldest, newest + 1];
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if ((await this.#sealed(middle)) >= sinceMs) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  async #sealed(batch: number): Promise<number> {
    const known = this.#sealedAtMs.get(batch);
    if (known !== undefined) return known;
    const { sealBytes } = await readBatch(this.#parts.holder, batch);
    const { sealedAtMs } = decodeSeal(sealBytes).seal;
    if (this.#sealedAtMs.size >= timesMax) this.#sealedAtMs.clear();
    this.#sealedAtMs.set(batch, sealedAtMs);
    return sealedAtMs;
  }
}
