// Owns: the service's log; the only door to winston. JSON lines or friendly text on stderr.
// Invariants: callers pass named facts only; never a request body, PIN, key, secret or buyer. The log never throws into a caller and never ends the
// process: a line that cannot be written (full disk, closed pipe, reader that does not read) is lost, counted, and told once writing works again.
import { writeSync } from 'node:fs';
import process from 'node:process';
import { Writable } from 'node:stream';
import winston from 'winston';

export type LogFacts = Readonly<Record<string, string | number | boolean | null | undefined>>;

export interface Log {
  error(message: string, facts?: LogFacts): void;
  warn(message: string, facts?: LogFacts): void;
  info(message: string, facts?: LogFacts): void;
  debug(message: string, facts?: LogFacts): void;
}

/** The log of a process: its level may change while it runs. */
export interface ProcessLog extends Log {
  setLevel(level: string): void;
}

/** Writes some of the bytes and says how many; throws where it cannot. */
export type WriteSome = (bytes: Uint8Array) => number;

const stderrDescriptor = 2;
const writeStderr: WriteSome = (bytes) => writeSync(stderrDescriptor, bytes);

/** Standard streams report a failed write as an event, which unheard would end the process. What was to be said is lost, whoever said it. */
function outliveStreams(): void {
  for (const stream of [process.stdout, process.stderr]) if (stream.listenerCount('error') === 0) stream.on('error', () => undefined);
}

/** Lines go straight to the descriptor: Node's stream would be of no use any more after its first error. */
export class LineSink {
  readonly #write: WriteSome;
  #lostCount = 0;
  #isTorn = false;

  constructor(write: WriteSome) {
    this.#write = write;
  }

  /** Lines lost since the last that was written; asking sets it back. */
  takeLost(): number {
    const lostCount = this.#lostCount;
    this.#lostCount = 0;
    return lostCount;
  }

  /** false: the line is lost. */
  put(line: string): boolean {
    let rest: Uint8Array = Buffer.from(this.#isTorn ? `\n${line}` : line, 'utf8');
    const fullBytes = rest.length;
    try {
      while (rest.length > 0) rest = rest.subarray(this.#write(rest));
      this.#isTorn = false;
      return true;
    } catch {
      this.#isTorn ||= rest.length < fullBytes;
      this.#lostCount += 1;
      return false;
    }
  }
}

export function openLog(options: { readonly level: string; readonly format: 'json' | 'text' }, write: WriteSome = writeStderr): ProcessLog {
  outliveStreams();
  const sink = new LineSink(write);
  const { combine, timestamp, json, printf } = winston.format;
  const text = printf(({ timestamp: at, level, message, ...facts }) => {
    const said = Object.entries(facts).map(([name, value]) => `${name}=${String(value)}`);
    return [String(at), level.padEnd(5), String(message), ...said].join(' ');
  });
  const stream = new Writable({
    decodeStrings: false,
    write: (line: string | Buffer, _encoding, done) => {
      if (sink.put(String(line))) {
        const lostCount = sink.takeLost();
        if (lostCount > 0) logger.warn('lines of this log were lost', { lostCount });
      }
      done();
    },
  });
  const logger = winston.createLogger({
    level: options.level,
    format: combine(timestamp(), options.format === 'json' ? json() : text),
    transports: [new winston.transports.Stream({ stream, eol: '\n' })],
    exitOnError: false,
  });
  logger.on('error', () => undefined); // the log has nobody to tell
  return {
    error: (message, facts = {}) => void logger.error(message, facts),
    warn: (message, facts = {}) => void logger.warn(message, facts),
    info: (message, facts = {}) => void logger.info(message, facts),
    debug: (message, facts = {}) => void logger.debug(message, facts),
    setLevel: (level) => {
      logger.level = level;
    },
  };
}

const depthMax = 5;

/** The message chain of a thrown thing, without stacks, for a log line. A cause whose sentence its error has told already is not told again. */
export function whyOf(thrown: unknown): string {
  const parts: string[] = [];
  const isTold = (sentence: string): boolean => parts.some((part) => part === sentence || part.endsWith(`: ${sentence}`));
  let depth = 0;
  for (let at = thrown; at instanceof Error && depth < depthMax; at = at.cause, depth += 1) if (!isTold(at.message)) parts.push(at.message);
  return parts.length === 0 ? String(thrown) : parts.join(': ');
}

export const silentLog: Log = { error: () => undefined, warn: () => undefined, info: () => undefined, debug: () => undefined };
