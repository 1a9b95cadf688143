// Owns: one frame of the local API: UTF-8 JSON `{"type":"ukey","data":<message>}`, then one form feed (0x0C), where
// <message> is JSON-RPC 2.0 (SPEC.md, Frames). Both sides and any language speak exactly this.
// Invariants: decoding never throws and never guesses: a frame is a message or it is `malformed`, and then it names the
// request it belongs to where that is beyond doubt, so that its sender gets an answer and not silence. No raw 0x0C can be
// inside a frame, because JSON.stringify writes control characters as escapes and JSON.parse refuses them.
// Must not: know methods, roles or sockets.
import { asUkeyError, type ErrorData, errorTable, isErrorCode, UkeyError } from './errors.ts';
import { decodeUtf8, flawError, type JsonLimits, jsonLimits, parseWithFlaw } from './json.ts';

/** The form feed that ends a frame. */
export const frameEnd = 0x0c;
export const frameType = 'ukey';

export const maxMethodChars = 64;
export const maxRequestIdChars = 64;

/** Chosen by the client, given back with the answer: a safe integer or at most 64 characters. */
export type RequestId = string | number;

export interface Request {
  readonly kind: 'request';
  readonly id: RequestId;
  readonly method: string;
  /** `{}` when the request has none. */
  readonly params: Readonly<Record<string, unknown>>;
}

export interface Answer {
  readonly kind: 'answer';
  readonly id: RequestId;
  readonly result: unknown;
}

/** `id` null: the frame could not be attributed to a request; the service closes the connection after it. */
export interface Refusal {
  readonly kind: 'refusal';
  readonly id: RequestId | null;
  readonly error: UkeyError;
}

/** What a subscriber is told. `at` is an RFC 3339 instant; further members depend on the event. */
export interface EventNotice {
  readonly event: string;
  readonly at: string;
  readonly [member: string]: unknown;
}

export interface Notification {
  readonly kind: 'event';
  readonly notice: EventNotice;
}

export interface Malformed {
  readonly kind: 'malformed';
  readonly id: RequestId | null;
  readonly error: UkeyError;
}

export type Message = Request | Answer | Refusal | Notification | Malformed;

// --- writing ---

/** One frame around a message that JSON.stringify can write. Throws internal when it cannot. */
export function encodeFrame(message: unknown): string {
  try {
    return `{"type":"${frameType}","data":${JSON.stringify(message)}}\f`;
  } catch (thrown) {
    throw new UkeyError('internal', 'a message that cannot be written as JSON', { cause: thrown });
  }
}

export function encodeRequest(id: RequestId, method: string, params: object): string {
  return encodeFrame({ jsonrpc: '2.0', id, method, params });
}

/** `undefined` is written as null: an answer always has a result. */
export function encodeAnswer(id: RequestId, result: unknown): string {
  return encodeFrame({ jsonrpc: '2.0', id, result: result ?? null });
}

export function encodeRefusal(id: RequestId | null, error: UkeyError): string {
  return encodeFrame({ jsonrpc: '2.0', id, error: { code: errorTable[error.code].rpcCode, message: error.message, data: error.toData() } });
}

export function encodeEvent(notice: EventNotice): string {
  return encodeFrame({ jsonrpc: '2.0', method: 'event', params: notice });
}

// --- reading ---

type Fields = Record<string, unknown>;

/** Reads one frame, given without its form feed. Never throws. */
export function decodeFrame(frame: Uint8Array, limits: JsonLimits = jsonLimits): Message {
  let id: RequestId | null = null;
  try {
    if (frame.length > limits.maxBytes) throw new UkeyError('too-large', `the frame has more than ${limits.maxBytes} bytes`);
    const { value, flaw } = parseWithFlaw(decodeUtf8(frame), limits.maxDepth);
    if (flaw !== null) {
      // A flaw inside params leaves the id beyond doubt; one outside may be in the id itself.
      const inParams = flaw.path[0] === 'data' && flaw.path[1] === 'params' && flaw.path.length > 2;
      if (inParams) id = attributableId(value);
      throw flawError(flaw, inParams ? 2 : 0);
    }
    const data = unwrap(value);
    id = idOf(data['id']);
    return toMessage(data, id);
  } catch (thrown) {
    return { kind: 'malformed', id, error: asUkeyError(thrown) };
  }
}

function unwrap(value: unknown): Fields {
  const envelope = fieldsOf(value, '');
  if (envelope['type'] !== frameType) throw bad('type', `must be "${frameType}"`);
  onlyKeys(envelope, '', 'type', 'data');
  return fieldsOf(envelope['data'], 'data');
}

function toMessage(data: Fields, id: RequestId | null): Message {
  if (data['jsonrpc'] !== '2.0') throw bad('data.jsonrpc', 'must be "2.0"');
  if (data['method'] !== undefined) return data['id'] === undefined ? toNotification(data) : toRequest(data, id);
  if (data['error'] !== undefined) return toRefusal(data, id);
  if (!Object.hasOwn(data, 'result')) throw bad('data.method', 'is missing');
  onlyKeys(data, 'data', 'jsonrpc', 'id', 'result');
  return { kind: 'answer', id: needId(id), result: data['result'] };
}

function toRequest(data: Fields, id: RequestId | null): Request {
  const known = needId(id);
  onlyKeys(data, 'data', 'jsonrpc', 'id', 'method', 'params');
  const method = data['method'];
  if (typeof method !== 'string' || method === '' || method.length > maxMethodChars)
    throw bad('data.method', `must be 1 to ${maxMethodChars} characters`);
  return { kind: 'request', id: known, method, params: data['params'] === undefined ? {} : fieldsOf(data['params'], 'data.params') };
}

function toNotification(data: Fields): Notification {
  // Without an id no one could be told the outcome: the only message without one is the service's event.
  if (data['method'] !== 'event') throw bad('data.id', 'is missing');
  onlyKeys(data, 'data', 'jsonrpc', 'method', 'params');
  const params = fieldsOf(data['params'], 'data.params');
  if (typeof params['event'] !== 'string') throw bad('data.params.event', 'must be text');
  if (typeof params['at'] !== 'string') throw bad('data.params.at', 'must be an RFC 3339 instant');
  return { kind: 'event', notice: params as EventNotice };
}

function toRefusal(data: Fields, id: RequestId | null): Refusal {
  onlyKeys(data, 'data', 'jsonrpc', 'id', 'error');
  if (id === null && data['id'] !== null) throw bad('data.id', 'must be text, a whole number or null');
  const error = fieldsOf(data['error'], 'data.error');
  const detail = error['data'] === undefined ? {} : fieldsOf(error['data'], 'data.error.data');
  return { kind: 'refusal', id, error: errorOf(error, detail as Partial<Record<keyof ErrorData, unknown>>) };
}

/** A code that this table does not know yet comes from a newer service: `internal`, with its name in the text. */
function errorOf(error: Fields, detail: Partial<Record<keyof ErrorData, unknown>>): UkeyError {
  const text = typeof error['message'] === 'string' ? error['message'] : 'no message';
  const { code, field, retryAfterMs, action } = detail;
  const known = isErrorCode(code);
  return new UkeyError(known ? code : 'internal', known ? text : `${typeof code === 'string' ? code : 'no code'}: ${text}`, {
    ...(typeof field === 'string' ? { field } : {}),
    ...(typeof retryAfterMs === 'number' && retryAfterMs >= 0 ? { retryAfterMs } : {}),
    ...(typeof action === 'string' ? { action } : {}),
  });
}

/** The id of a request whose params are flawed; null where anything else about the frame is wrong as well. */
function attributableId(value: unknown): RequestId | null {
  try {
    const data = unwrap(value);
    const id = idOf(data['id']);
    return id !== null && typeof data['method'] === 'string' ? id : null;
  } catch {
    // The frame is being refused already, and for a reason of its own.
    return null;
  }
}

function idOf(id: unknown): RequestId | null {
  if (typeof id === 'string') return id.length <= maxRequestIdChars ? id : null;
  return Number.isSafeInteger(id) ? (id as number) : null;
}

function needId(id: RequestId | null): RequestId {
  if (id === null) throw bad('data.id', `must be a whole number or at most ${maxRequestIdChars} characters`);
  return id;
}

function fieldsOf(value: unknown, field: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad(field, 'must be an object');
  return value as Fields;
}

function onlyKeys(fields: Fields, prefix: string, ...allowed: readonly string[]): void {
  for (const key of Object.keys(fields)) {
    if (!allowed.includes(key))
      throw bad(`${prefix === '' ? '' : `${prefix}.`}${key.slice(0, maxMethodChars).toWellFormed()}`, 'is not known');
  }
}

function bad(field: string, what: string): UkeyError {
  return new UkeyError('invalid-request', `${field === '' ? 'the frame' : field} ${what}`, field === '' ? {} : { field });
}
