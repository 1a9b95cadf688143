// Owns: the service's log; the only door to winston. JSON lines or friendly text on stderr.
// Invariants: callers pass named facts only; never a request body, PIN, key, secret or buyer. The log never throws into a caller.
import winston from 'winston';

export type LogFacts = Readonly<Record<string, string | number | boolean | null | undefined>>;

export interface Log {
  error(message: string, facts?: LogFacts): void;
  warn(message: string, facts?: LogFacts): void;
  info(message: string, facts?: LogFacts): void;
  debug(message: string, facts?: LogFacts): void;
}

export function openLog(options: { readonly level: string; readonly format: 'json' | 'text' }): Log {
  const { combine, timestamp, json, printf } = winston.format;
  const text = printf(({ timestamp: at, level, message, ...facts }) => {
    const said = Object.entries(facts).map(([name, value]) => `${name}=${String(value)}`);
    return [String(at), level.padEnd(5), String(message), ...said].join(' ');
  });
  const logger = winston.createLogger({
    level: options.level,
    format: combine(timestamp(), options.format === 'json' ? json() : text),
    transports: [new winston.transports.Console({ stderrLevels: ['error', 'warn', 'info', 'debug'] })],
    exitOnError: false,
  });
  return {
    error: (message, facts = {}) => void logger.error(message, facts),
    warn: (message, facts = {}) => void logger.warn(message, facts),
    info: (message, facts = {}) => void logger.info(message, facts),
    debug: (message, facts = {}) => void logger.debug(message, facts),
  };
}

/** The message chain of a thrown thing, without stacks, for a log line. */
export function whyOf(thrown: unknown): string {
  const parts: string[] = [];
  for (let at = thrown; at instanceof Error && parts.length < 5; at = at.cause) parts.push(at.message);
  return parts.length === 0 ? String(thrown) : parts.join(': ');
}

export const silentLog: Log = { error: () => undefined, warn: () => undefined, info: () => undefined, debug: () => undefined };
