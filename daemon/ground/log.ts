// Owns: the service's log; the only door to winston. JSON lines or friendly text, on stderr or in a file that is bounded (log-file.ts).
// Invariants: callers pass named facts only; never a request body, PIN, key, secret or buyer. What a caller's request causes bears its name (asking.ts).
// The log never throws into a caller and never ends the process: a line that cannot be written (full disk, closed pipe, reader that does not read) is
// lost, counted, and told once writing works again. Where stderr is the journal each line begins with its priority, as the journal wants it.
// As text, too, a line is one line, whatever its facts hold.
import { fstatSync, writeSync } from 'node:fs';
import { Writable } from 'node:stream';
import winston from 'winston';
import { askingName } from './asking.ts';
import { LogFile } from './log-file.ts';

export type LogFacts = Readonly<Record<string, string | number | boolean | null | undefined>>;

export interface Log {
  error(message: string, facts?: LogFacts): void;
  warn(message: string, facts?: LogFacts): void;
  info(message: string, facts?: LogFacts): void;
  debug(message: string, facts?: LogFacts): void;
}

export type LogLevel = keyof Log;

/** The log of a process: its level may change while it runs. */
export interface ProcessLog extends Log {
  setLevel(level: LogLevel): void;
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

export interface LogOptions {
  readonly level: LogLevel;
  /** `auto`: text for a terminal, JSON for all else. */
  readonly format: 'auto' | 'json' | 'text';
}

/** Where the lines go, and in which form. */
interface LogEnd {
  readonly write: WriteSome;
  readonly isTerminal: boolean;
  readonly isJournal: boolean;
}

/** As the configuration says: a file, else stderr. Throws invalid-request when the file cannot be written. */
export function openProcessLog(
  options: LogOptions & { readonly file?: string | undefined; readonly file_mib: number; readonly files: number },
): ProcessLog {
  if (options.file === undefined) return openLog(options);
  const file = new LogFile({ path: options.file, fileBytes: options.file_mib * 1024 * 1024, files: options.files });
  return openLogAt(options, { write: (bytes) => file.write(bytes), isTerminal: false, isJournal: false });
}

/** On stderr, or wherever `write` writes. */
export function openLog(options: LogOptions, write?: WriteSome): ProcessLog {
  if (write !== undefined) return openLogAt(options, { write, isTerminal: false, isJournal: false });
  return openLogAt(options, { write: writeStderr, isTerminal: process.stderr.isTTY === true, isJournal: isJournal() });
}

/** systemd.exec(5), $JOURNAL_STREAM: device and inode of the journal's end; it is inherited, so it may speak of another stream. */
function isJournal(): boolean {
  const told = process.env['JOURNAL_STREAM'];
  if (told === undefined) return false;
  try {
    const { dev, ino } = fstatSync(stderrDescriptor);
    return told === `${dev}:${ino}`;
  } catch {
    return false; // stderr is closed
  }
}

/** sd-daemon(3): what begins with <N> has this priority in the journal. */
const priorities: Readonly<Record<LogLevel, string>> = { error: '<3>', warn: '<4>', info: '<6>', debug: '<7>' };
/** Where winston keeps the finished line. */
const lineSymbol: unique symbol = Symbol.for('message');
const ranks: Readonly<Record<LogLevel, number>> = { error: 0, warn: 1, info: 2, debug: 3 };

/** Control characters, line separators and direction marks as `\u001b`: they could make a line of their own, or do things to a terminal. */
function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

function openLogAt(options: LogOptions, end: LogEnd): ProcessLog {
  outliveStreams();
  const sink = new LineSink(end.write);
  const { combine, timestamp, json, printf } = winston.format;
  const text = printf(({ timestamp: at, level, message, ...facts }) => {
    const said = Object.entries(facts).map(([name, value]) => `${name}=${String(value)}`);
    return oneLine([String(at), level.padEnd(5), String(message), ...said].join(' '));
  });
  const isJson = options.format === 'json' || (options.format === 'auto' && !end.isTerminal);
  const withPriority = winston.format((line) => ({
    ...line,
    [lineSymbol]: `${priorities[line.level as LogLevel]}${String(line[lineSymbol])}`,
  }));
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
  let rank = ranks[options.level];
  const logger = winston.createLogger({
    level: 'debug', // what is not wanted does not get so far
    format: combine(timestamp(), isJson ? json() : text, ...(end.isJournal ? [withPriority()] : [])),
    transports: [new winston.transports.Stream({ stream, eol: '\n' })],
    exitOnError: false,
  });
  logger.on('error', () => undefined); // the log has nobody to tell
  const say =
    (level: LogLevel): Log[LogLevel] =>
    (message, facts) => {
      if (ranks[level] > rank) return;
      const request = askingName();
      logger[level](message, request === null ? { ...facts } : { request, ...facts });
    };
  return {
    error: say('error'),
    warn: say('warn'),
    info: say('info'),
    debug: say('debug'),
    setLevel: (level) => {
      rank = ranks[level];
    },
  };
}

/** A log whose lines all carry these facts. */
export function aboutAll(log: Log, common: LogFacts): Log {
  return {
    error: (message, facts) => log.error(message, { ...common, ...facts }),
    warn: (message, facts) => log.warn(message, { ...common, ...facts }),
    info: (message, facts) => log.info(message, { ...common, ...facts }),
    debug: (message, facts) => log.debug(message, { ...common, ...facts }),
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
