// Owns: how a PIN or a terminal's secret comes into ukeyctl: a file, stdin, or a prompt that does not echo.
// Invariants: no secret is an argument or in the environment, is printed, or stands in an error; what can be wiped is wiped.
// A PIN is one line of UTF-8 without control characters; its line end does not belong to it.
// Known limit: the local API carries the PIN as JSON, so a string of it is made where it is sent; a string cannot be wiped.
import { isUtf8 } from 'node:buffer';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import type { ReadStream } from 'node:tty';
import { usage } from '#ctl/exit-codes.ts';
import { promptInput, stdinName, takeStdin } from '#ctl/input.ts';
import type { Screen } from '#ctl/screen.ts';
import { secretBytes } from '#ipc-schema/handshake.ts';

const secretMaxBytes = 255;
/** Of the local API (methods.ts): any PIN, and a new one. */
const pinMaxChars = 64;
const newPinMinChars = 4;
const othersMayRead = 0o044;

export interface PinSource {
  /** `--pin-file`'s value; undefined: prompt on a terminal, else stdin. */
  readonly file: string | undefined;
  /** For the prompt and for errors: `PIN`. */
  readonly what: string;
  /** The option to name in errors. */
  readonly option: string;
  /** A new PIN is asked for twice. */
  readonly twice?: boolean;
}

/** The PIN's bytes; the caller wipes them. Throws usage. */
export async function readPin(source: PinSource, screen: Screen): Promise<Buffer> {
  const { file, what, option } = source;
  if (file !== undefined && file !== stdinName) return firstLine(readSecretFile(file, option, screen), source);
  if (file === undefined && process.stdin.isTTY === true) {
    takeStdin(promptInput);
    return promptPin(source);
  }
  takeStdin(what);
  return firstLine(await readStdin(option), source);
}

/** The secret of a terminal, from the file that `terminal enrol` wrote: 64 hex digits. Throws usage. */
export function readTerminalSecret(file: string, screen: Screen): Uint8Array {
  const bytes = readSecretFile(file, '--secret-file', screen);
  const text = bytes.toString('latin1').trim();
  bytes.fill(0);
  const secret = Buffer.from(text, 'hex');
  if (secret.length !== secretBytes || secret.toString('hex') !== text)
    throw usage('the secret file does not hold 64 hex digits', {
      field: '--secret-file',
      action: 'Name the file that terminal enrol wrote.',
    });
  return secret;
}

async function promptPin(source: PinSource): Promise<Buffer> {
  const { what, option, twice } = source;
  const first = checkPin(await readHidden(process.stdin, `${what}: `), source);
  if (twice !== true) return first;
  const second = await readHidden(process.stdin, `${what} again: `);
  const same = first.equals(second);
  second.fill(0);
  if (same) return first;
  first.fill(0);
  throw usage(`the two ${what}s are not the same`, { field: option, action: 'Repeat the command.' });
}

/** One line typed without echo. The terminal is given back as it was, also on Ctrl-C, which ends the process as it always does. */
function readHidden(input: ReadStream, question: string): Promise<Buffer> {
  const typed = Buffer.alloc(secretMaxBytes);
  let length = 0;
  // Raw before the question: nothing typed after it was seen is ever echoed.
  input.setRawMode(true);
  process.stderr.write(question);
  return new Promise((resolve, reject) => {
    const leave = (): void => {
      input.off('data', onData);
      input.setRawMode(false);
      input.pause();
      process.stderr.write('\n');
    };
    const onData = (chunk: Buffer): void => {
      for (const byte of chunk) {
        if (byte === 0x0d || byte === 0x0a) {
          leave();
          resolve(typed.subarray(0, length));
          return;
        }
        if (byte === 0x03 || (byte === 0x04 && length === 0)) {
          typed.fill(0);
          leave();
          if (byte === 0x03) process.kill(process.pid, 'SIGINT');
          reject(usage('nothing was typed'));
          return;
        }
        if (byte === 0x7f || byte === 0x08) length = dropCharacter(typed, length);
        else if (byte === 0x15) length = 0;
        else if (length < secretMaxBytes) typed[length++] = byte;
      }
      chunk.fill(0);
    };
    input.on('data', onData);
    input.resume();
  });
}

/** Length without the last UTF-8 character. */
function dropCharacter(typed: Buffer, length: number): number {
  let left = length;
  while (left > 0 && ((typed[left - 1] ?? 0) & 0xc0) === 0x80) left--;
  return Math.max(0, left - 1);
}

function readSecretFile(file: string, option: string, screen: Screen): Buffer {
  const bytes = Buffer.alloc(secretMaxBytes + 1);
  try {
    const fd = openSync(file, 'r');
    try {
      const stats = fstatSync(fd);
      if (process.platform !== 'win32' && stats.isFile() && (stats.mode & othersMayRead) !== 0)
        screen.note(`note: ${file} can be read by others; chmod 600 it`);
      return bytes.subarray(0, readSync(fd, bytes));
    } finally {
      closeSync(fd);
    }
  } catch (cause) {
    throw usage(`${file} cannot be read: ${(cause as NodeJS.ErrnoException).code ?? 'unknown reason'}`, {
      field: option,
      cause,
      action: 'Name a readable file.',
    });
  }
}

async function readStdin(option: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of process.stdin) {
    const bytes = chunk as Buffer;
    chunks.push(bytes);
    length += bytes.length;
    // The rest may be what a following command reads; a line is enough.
    if (bytes.includes(0x0a)) break;
    if (length > secretMaxBytes) throw usage('stdin holds no PIN', { field: option });
  }
  const all = Buffer.concat(chunks);
  for (const chunk of chunks) chunk.fill(0);
  return all;
}

function firstLine(bytes: Buffer, source: PinSource): Buffer {
  const end = bytes.indexOf(0x0a);
  const line = end < 0 ? bytes : bytes.subarray(0, end);
  return checkPin(line.at(-1) === 0x0d ? line.subarray(0, -1) : line, source);
}

/** Refused here, before any device could count it as a try. */
function checkPin(pin: Buffer, { what, option, twice }: PinSource): Buffer {
  const fault = pinFault(pin) ?? lengthFault(pin, twice === true);
  if (fault === null) return pin;
  pin.fill(0);
  throw usage(`the ${what} ${fault}`, {
    field: option,
    action: `Type it at the prompt, or name a file with ${option}.`,
  });
}

/** Says what is allowed, never what was given. */
function lengthFault(pin: Buffer, isNew: boolean): string | null {
  const chars = pin.toString('utf8').length;
  if (isNew && (chars < newPinMinChars || chars > pinMaxChars)) return `must have ${newPinMinChars} to ${pinMaxChars} characters`;
  return chars > pinMaxChars ? `has more than ${pinMaxChars} characters` : null;
}

function pinFault(pin: Buffer): string | null {
  if (pin.length === 0) return 'is empty';
  if (pin.length > secretMaxBytes) return `has more than ${secretMaxBytes} bytes`;
  if (pin.some((byte) => byte < 0x20 || byte === 0x7f)) return 'holds a control character';
  return isUtf8(pin) ? null : 'is not UTF-8';
}
