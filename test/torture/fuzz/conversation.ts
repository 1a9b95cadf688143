// Owns: what is said to a till's door while it is fuzzed: frames that a till would send, some of them mutated, over one connection; and whether what
// is answered is what was asked.
// Invariants: one connection's frames come from one draw of the chance given; every answer is compared with a frame that this connection sent.
import { randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { encodeRequest } from '#ipc-schema/envelope.ts';
import { clientMac } from '#ipc-schema/handshake.ts';
import type { Issued } from '#ipc-schema/issued.ts';
import { RawPeer } from '#test/ipc/world.ts';
import { sale } from '#test/support/rig.ts';
import { mutateBytes } from './bytes-mutation.ts';
import type { Chance } from './chance.ts';
import { exactMeaning } from './exact-json.ts';
import { mutateText, mutateValue } from './json-mutation.ts';
import { Changed } from './target.ts';

const framesMax = 24;
const answerWaitMs = 20_000;
const end = Buffer.from('\f');

export interface Said {
  frames: number;
  answers: number;
  refusals: number;
  /** Documents by key, as they were answered. */
  readonly issued: { readonly key: string; readonly answer: Issued }[];
  readonly changed: string[];
}

export interface Door {
  readonly path: string;
  readonly terminal: string;
  readonly secret: Uint8Array;
}

type Request = { readonly id: unknown; readonly method: unknown; readonly params?: Readonly<Record<string, unknown>> };

const requestFrame = (id: number, method: string, params: object): Buffer =>
  Buffer.from(encodeRequest(id, method, params).slice(0, -1), 'utf8');

function plainFrame(id: number, key: string, chance: Chance): Buffer {
  const lines = [{ description: 'Čaj, 紅茶 ☕', quantity: '1.5', unitPrice: '4.25', discount: '0.50', sku: `S${id}` }];
  return chance.one([
    () => requestFrame(id, 'invoice.issue', sale(key)),
    () =>
      requestFrame(
        id,
        'invoice.issue',
        sale(key, { lines, ext: { order: [1, { note: 'é' }] }, payments: [{ method: 'cash', amount: '5.88' }] }),
      ),
    () => requestFrame(id, 'invoice.preview', { ...sale(key), wait: undefined }),
    () => requestFrame(id, 'invoice.get', { key }),
    () => requestFrame(id, 'invoice.last', {}),
    () => requestFrame(id, 'backlog.status', {}),
    () => requestFrame(id, 'service.status', {}),
    () => requestFrame(id, 'events.subscribe', { events: ['standing'] }),
    () => requestFrame(id, 'hello', { version: 1, client: 'fuzz/1' }),
  ])();
}

/** Mostly such that the connection goes on: what is no JSON ends it. */
function mutatedFrame(frame: Buffer, chance: Chance, others: readonly Uint8Array[]): Buffer {
  if (chance.happens(0.95)) return mutateValue(frame, chance);
  return chance.happens(0.6) ? mutateText(frame, chance) : mutateBytes(frame, chance, others);
}

/** What one connection says before it stops: mostly mutated frames, also in the middle of the introduction. */
export async function converse(door: Door, name: string, chance: Chance): Promise<Said> {
  const peer = new RawPeer(door.path);
  const said: Said = { frames: 0, answers: 0, refusals: 0, issued: [], changed: [] };
  const isKnown = chance.happens(0.85);
  if (isKnown) await peer.authenticate(door.terminal, door.secret);
  const sent: Buffer[] = [];
  const count = 1 + chance.upTo(framesMax);
  for (let id = 0; id < count && !peer.closed; id += 1) {
    const plain = isKnown ? plainFrame(id, `${name}-${id}`, chance) : strangersFrame(id, door, chance);
    const frame = chance.happens(0.5) ? mutatedFrame(plain, chance, sent.length > 0 ? sent : [plain]) : plain;
    sent.push(frame);
    said.frames += 1;
    const isEnded = chance.happens(0.98);
    peer.send(isEnded ? Buffer.concat([frame, end]) : frame);
    // A frame that belongs to no request ends the connection, and with it what is on its way: some wait for their answer before they go on.
    const heard = peer.messages.length;
    if (isEnded && chance.happens(0.5)) await peer.until(() => peer.closed || peer.messages.length > heard, answerWaitMs);
  }
  peer.socket.end();
  await peer.until(() => peer.closed, answerWaitMs);
  const asked = sent.flatMap((frame) => frame.toString('latin1').split('\f')).map((frame) => Buffer.from(frame, 'latin1'));
  for (const message of peer.messages) {
    if (message.kind === 'refusal') said.refusals += 1;
    if (message.kind === 'refusal' && message.error.code === 'internal') said.changed.push(`${name}: the service had a fault of its own`);
    if (message.kind !== 'answer') continue;
    said.answers += 1;
    const issued = issuedIn(message.result);
    if (issued === null) continue;
    const { request } = JSON.parse(issued.document) as { request: { key: string } };
    said.issued.push({ key: request.key, answer: issued });
    const why = whyOther(message.id, issued.document, asked);
    if (why !== null) said.changed.push(`${name}: ${why}`);
  }
  return said;
}

function strangersFrame(id: number, { terminal, secret }: Door, chance: Chance): Buffer {
  const nonce = randomBytes(32).toString('hex');
  const mac = clientMac(secret, { challenge: '00'.repeat(32), nonce, terminal });
  return chance.happens(0.5)
    ? requestFrame(id, 'hello', { version: 1, client: 'fuzz/1' })
    : requestFrame(id, 'authenticate', { terminal, nonce, mac });
}

/** Null: the result is no issued document (a preview has none). */
function issuedIn(result: unknown): (Issued & { readonly document: string }) | null {
  const found = result as Partial<Issued> | null;
  return typeof found === 'object' && typeof found?.document === 'string' && typeof found.sequence === 'number'
    ? (found as Issued & { document: string })
    : null;
}

/** Null where some frame with this id says, exactly, what the document says; a document that was asked for by its key must bear that key. */
export function whyOther(id: unknown, documentText: string, asked: readonly Buffer[]): string | null {
  const reasons: string[] = [];
  for (const frame of asked) {
    const request = requestIn(frame);
    if (request === null || request.id !== id) continue;
    const why = request.method === 'invoice.issue' ? differenceOf(frame, request, documentText) : keyDifference(request, documentText);
    if (why === null) return null;
    reasons.push(why);
  }
  return reasons[0] ?? 'an answer to nothing that was asked';
}

function requestIn(frame: Buffer): Request | null {
  try {
    return (JSON.parse(frame.toString('utf8')) as { data?: Request }).data ?? null;
  } catch {
    return null;
  }
}

function keyDifference({ method, params }: Request, documentText: string): string | null {
  if (method === 'invoice.last' || params?.['key'] === undefined) return null;
  const { request } = JSON.parse(documentText) as { request: { key: string } };
  return request.key === params['key'] ? null : 'the document of another key was answered';
}

/** Members that a document takes over as they were said. */
const copied = ['buyer', 'corrects', 'ext', 'payments', 'soldAt'];
const copiedOfLine = ['description', 'quantity', 'unitPrice', 'sku', 'discount'];

function differenceOf(frame: Buffer, { params = {} }: Request, documentText: string): string | null {
  try {
    exactMeaning(frame, JSON.parse(frame.toString('utf8')));
  } catch (thrown) {
    return `a frame was taken that says two things: ${thrown instanceof Changed ? thrown.message : String(thrown)}`;
  }
  const document = JSON.parse(documentText) as Record<string, unknown> & { lines: Record<string, unknown>[]; request: { key: unknown } };
  const lines = params['lines'] as Record<string, unknown>[];
  if (document.request.key !== params['key']) return 'the document bears another key';
  if (lines.length !== document.lines.length) return 'the document has more or fewer lines';
  for (const [at, line] of lines.entries())
    for (const name of copiedOfLine)
      if (!isDeepStrictEqual(line[name], document.lines[at]?.[name])) return `lines[${at}].${name} is another in the document`;
  for (const name of copied) if (!isDeepStrictEqual(params[name], document[name])) return `${name} is another in the document`;
  if (params['total'] !== undefined && Number(params['total']) !== Number(document['total'])) return 'the total is another in the document';
  return null;
}
