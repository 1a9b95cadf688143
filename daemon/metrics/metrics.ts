// Owns: the figures as they are asked for: through the loopback door, in a file for node_exporter, or not at all; and following the configuration.
// Invariants: no trouble of theirs is a till's: a door that cannot be opened, a file that cannot be written is told to the log, and the service goes on.
// The file is replaced whole. While nobody wants figures nothing runs here.
import { mkdirSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { Clock } from '#ground/clock.ts';
import type { Config } from '#ground/config.ts';
import { type Log, whyOf } from '#ground/log.ts';
import { RequestCounts } from './counts.ts';
import { type Door, openDoor, type Readiness } from './door.ts';
import { expositionText } from './exposition.ts';
import { familiesOf, type TokenFigures } from './figures.ts';

export interface MetricsParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly version: string;
  tokens(): Promise<readonly TokenFigures[]>;
  readiness(): Readiness;
  connections(): number;
}

type Wanted = Config['metrics'];

const delayStepMs = 20;
const fileMode = 0o644;

export class Metrics {
  readonly requests = new RequestCounts();
  readonly #parts: MetricsParts;
  readonly #startedMs: number;
  #wanted: Wanted | null = null;
  #door: Door | null = null;
  #timer: NodeJS.Timeout | null = null;
  #delay: ReturnType<typeof monitorEventLoopDelay> | null = null;
  #isWriting = false;
  #fileFailed = false;
  #work: Promise<void> = Promise.resolve();

  constructor(parts: MetricsParts) {
    this.#parts = parts;
    this.#startedMs = parts.clock.wallMs();
  }

  /** Port of the open door; null: there is none. */
  get port(): number | null {
    return this.#door?.port ?? null;
  }

  /** Opens and closes as the configuration wants it from now on; resolves when it is so. Never rejects. */
  follow(wanted: Wanted): Promise<void> {
    this.#work = this.#work.then(async () => {
      const before = this.#wanted;
      this.#wanted = wanted;
      if (before?.listen !== wanted.listen) await this.#reopen(wanted.listen);
      this.#writeEvery(wanted);
      this.#watchDelay(wanted.listen !== undefined || wanted.textfile !== undefined);
    });
    return this.#work;
  }

  async close(): Promise<void> {
    await this.#work;
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#watchDelay(false);
    await this.#door?.close();
    this.#door = null;
  }

  /** The figures as they are now, in Prometheus' text format. */
  async text(): Promise<string> {
    const { clock, version, connections, tokens } = this.#parts;
    const { user, system } = process.cpuUsage();
    const memory = process.memoryUsage();
    const figures = {
      ...{ version, node: process.version, nowMs: clock.wallMs(), startedMs: this.#startedMs },
      ...{ residentBytes: memory.rss, heapBytes: memory.heapUsed, cpuSeconds: (user + system) / 1e6 },
      ...{ delaySeconds: this.#takeDelay(), connections: connections(), requests: this.requests },
    };
    return expositionText(familiesOf(figures, await tokens()));
  }

  async #reopen(listen: string | undefined): Promise<void> {
    await this.#door?.close();
    this.#door = null;
    if (listen === undefined) return;
    const at = listen.lastIndexOf(':');
    const address = { host: listen.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(listen.slice(at + 1)) };
    const { log, readiness } = this.#parts;
    try {
      this.#door = await openDoor({ log, readiness, text: () => this.text() }, address);
      log.info('figures are told', { listen: `${address.host}:${this.#door.port}` });
    } catch (error) {
      log.error('the door of the figures cannot be opened; the service goes on without it', { listen, why: whyOf(error) });
    }
  }

  #writeEvery({ textfile, textfile_seconds: everySeconds }: Wanted): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
    if (textfile === undefined) return;
    this.#timer = setInterval(() => void this.#write(textfile), everySeconds * 1_000).unref(); // never rejects
    void this.#write(textfile); // never rejects
  }

  /** Whoever reads it finds the old figures or the new ones, whole. */
  async #write(file: string): Promise<void> {
    if (this.#isWriting) return;
    this.#isWriting = true;
    try {
      const fresh = `${file}.new`;
      mkdirSync(path.dirname(file), { recursive: true });
      await writeFile(fresh, await this.text(), { mode: fileMode });
      await rename(fresh, file);
      this.#fileFailed = false;
    } catch (error) {
      if (!this.#fileFailed) this.#parts.log.warn('the file of the figures cannot be written', { file, why: whyOf(error) });
      this.#fileFailed = true;
    } finally {
      this.#isWriting = false;
    }
  }

  #watchDelay(wanted: boolean): void {
    if (wanted === (this.#delay !== null)) return;
    this.#delay?.disable();
    this.#delay = wanted ? monitorEventLoopDelay({ resolution: delayStepMs }) : null;
    this.#delay?.enable();
  }

  /** The monitor counts its own step in. */
  #takeDelay(): Readonly<Record<string, number>> {
    const delay = this.#delay;
    const secondsOf = (nanoseconds: number): number => Math.max(0, nanoseconds / 1e9 - delayStepMs / 1e3);
    if (delay === null || delay.count === 0) return {};
    const told = { '0.5': secondsOf(delay.percentile(50)), '0.99': secondsOf(delay.percentile(99)), '1': secondsOf(delay.max) };
    delay.reset();
    return told;
  }
}
