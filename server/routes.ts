// Owns: what the server answers under which path: method, path and query in, a finished answer out. Knows nothing of sockets.
// Paths: those of upstream.ts, and GET / (a page for a person).
// Reads are open to whoever reaches the server, which listens on loopback unless told otherwise: there is no account in this version.
// Invariants: unknown paths, parameters and methods are refused by name; a refusal is refusalSchema JSON.
import { UkeyError } from '#ipc-schema/errors.ts';
import { recoveryPaths } from '#ipc-schema/recovery.ts';
import { renewalPath } from '#ipc-schema/renewal.ts';
import { text } from '#ipc-schema/schema.ts';
import { signerAt } from '#ipc-schema/signers.ts';
import { alarmPayload, mediaTypes, nonceBytes, paths, probePayload, type Refusal, uploadMaxBatches } from '#ipc-schema/upstream.ts';
import type { Accept } from './accept.ts';
import type { TokenState } from './database.ts';
import { tokensPage } from './page.ts';
import { type RecoveryAnswer, recoverKey, succeed } from './recovery.ts';
import { refusalStatus, refuse, retryAfterSeconds } from './refusal.ts';
import { certificateInForce, renew } from './renewal.ts';
import { signersFor } from './signing.ts';
import { redeem, type TicketParts } from './ticket.ts';
import { batchRun, entriesMaxCount, entryViews, tokensMaxCount, tokenView } from './view.ts';

export interface Question {
  readonly method: string;
  /** Path and query as they stood in the request line. */
  readonly target: string;
  readonly mediaType: string;
  readonly body: Uint8Array;
}

export interface Answer {
  readonly status: number;
  readonly mediaType: string;
  readonly body: Uint8Array | string;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface RouteParts extends TicketParts {
  readonly accept: Accept;
}

const tokenPath = /^\/v1\/tokens\/([0-9a-f]{32})(\/certificate|\/entries|\/batches|\/alarm)?$/;
const numberText = text(1, 64);

export function refusalAnswer(refusal: Refusal, headers: Readonly<Record<string, string>> = {}): Answer {
  const retry = refusal.code === 'busy' ? { 'retry-after': String(retryAfterSeconds) } : {};
  return { ...jsonAnswer(refusal, refusalStatus[refusal.code]), headers: { ...retry, ...headers } };
}

export async function answerTo(parts: RouteParts, question: Question): Promise<Answer> {
  const [path = '', queryText = ''] = splitTarget(question.target);
  switch (question.method) {
    case 'GET':
      return await answerRead(parts, path, new Query(queryText));
    case 'POST':
      return await answerWrite(parts, path, question);
    default:
      return { ...refusalAnswer(refuse('bad-request', 'only GET and POST are known'), { allow: 'GET, POST' }), status: 405 };
  }
}

function splitTarget(target: string): [string, string] {
  const at = target.indexOf('?');
  return at < 0 ? [target, ''] : [target.slice(0, at), target.slice(at + 1)];
}

async function answerWrite(parts: RouteParts, path: string, question: Question): Promise<Answer> {
  if (path === paths.batches) {
    if (question.mediaType !== mediaTypes.upload)
      return refusalAnswer(refuse('bad-request', `the content type must be ${mediaTypes.upload}`));
    const answer = await parts.accept(question.body);
    return answer.kind === 'refused' ? refusalAnswer(answer.refusal) : { status: 200, mediaType: mediaTypes.cose, body: answer.signed };
  }
  if (path === paths.enrol) {
    if (question.mediaType !== mediaTypes.cose) return refusalAnswer(refuse('bad-request', `the content type must be ${mediaTypes.cose}`));
    const answer = await redeem(parts, question.body);
    return answer.kind === 'refused' ? refusalAnswer(answer.refusal) : { status: 200, mediaType: mediaTypes.json, body: answer.json };
  }
  if (path === renewalPath) {
    if (question.mediaType !== mediaTypes.cose) return refusalAnswer(refuse('bad-request', `the content type must be ${mediaTypes.cose}`));
    const answer = await renew(parts, question.body);
    return answer.kind === 'refused' ? refusalAnswer(answer.refusal) : certificateAnswer(answer.certificate);
  }
  if (path === recoveryPaths.key) return await answerRecovery(question, (body) => recoverKey(parts, body));
  if (path === recoveryPaths.succession) return await answerRecovery(question, (body) => succeed(parts, body));
  return nothingHere;
}

async function answerRecovery(question: Question, act: (body: Uint8Array) => Promise<RecoveryAnswer<object>>): Promise<Answer> {
  if (question.mediaType !== mediaTypes.cose) return refusalAnswer(refuse('bad-request', `the content type must be ${mediaTypes.cose}`));
  const answer = await act(question.body);
  return answer.kind === 'refused' ? refusalAnswer(answer.refusal) : jsonAnswer(answer.value);
}

async function answerRead(parts: RouteParts, path: string, query: Query): Promise<Answer> {
  switch (path) {
    case paths.probe:
      return signedAnswer(parts, query, (nonce) => probePayload({ nonce, serverTimeMs: parts.wallMs() }));
    case paths.tokens:
      return await answerTokens(parts, query);
    case paths.authority:
      query.end();
      return certificateAnswer(parts.authority.certificate);
    case '/': {
      query.end();
      const tokens = await parts.database.listTokens('', tokensMaxCount + 1);
      const isWhole = tokens.length <= tokensMaxCount;
      return {
        status: 200,
        mediaType: 'text/html; charset=utf-8',
        body: tokensPage(tokens.slice(0, tokensMaxCount).map(tokenView), isWhole),
      };
    }
  }
  const [, tokenId, part] = tokenPath.exec(path) ?? [];
  if (tokenId === undefined) return nothingHere;
  const token = await parts.database.findToken(tokenId);
  if (token === null) return refusalAnswer(refuse('unknown-token', 'the token is not enrolled here'));
  return await answerToken(parts, token, part, query);
}

async function answerToken(parts: RouteParts, token: TokenState, part: string | undefined, query: Query): Promise<Answer> {
  switch (part) {
    case '/certificate': {
      const batch = query.count('batch');
      query.end();
      if (batch === null) return certificateAnswer(token.certificate);
      const { signers } = await signersFor(parts, token);
      return certificateAnswer(certificateInForce(signerAt(signers, batch), await parts.database.renewals(token.tokenId)));
    }
    case '/entries':
      return await answerEntries(parts, token, query);
    case '/batches': {
      const from = query.count('from') ?? 1;
      const limit = query.count('limit', uploadMaxBatches) ?? uploadMaxBatches;
      query.end();
      const run = await batchRun(parts.database, token.tokenId, from, limit);
      const want = token.head.batchIndex + 1;
      if (run === null) return { ...refusalAnswer(refuse('gap', `batch ${from} is not stored here`, want)), status: 404 };
      return { status: 200, mediaType: mediaTypes.cbor, body: run };
    }
    case '/alarm':
      return signedAnswer(parts, query, (nonce) => {
        const { alarm } = token;
        const raised = alarm === null ? null : { sealBytes: alarm.proof, raisedAtMs: alarm.raisedAtMs };
        return alarmPayload({ nonce, tokenId: Buffer.from(token.tokenId, 'hex'), serverTimeMs: parts.wallMs(), alarm: raised });
      });
    default:
      query.end();
      return jsonAnswer(tokenView(token));
  }
}

/** Over a nonce of the asker's: an answer to somebody else, or of another time, is of no use. */
function signedAnswer(parts: RouteParts, query: Query, payload: (nonce: Uint8Array) => Uint8Array): Answer {
  const nonce = query.text('nonce') ?? '';
  query.end();
  if (!new RegExp(`^[0-9a-f]{${2 * nonceBytes}}$`).test(nonce))
    return refusalAnswer(refuse('bad-request', `nonce: must be ${nonceBytes} bytes in lower-case hex`));
  return { status: 200, mediaType: mediaTypes.cose, body: parts.authority.signAnswer(payload(Buffer.from(nonce, 'hex'))) };
}

async function answerTokens(parts: RouteParts, query: Query): Promise<Answer> {
  const after = query.text('after') ?? '';
  const limit = query.count('limit', tokensMaxCount) ?? tokensMaxCount;
  query.end();
  const tokens = await parts.database.listTokens(after, limit);
  return jsonAnswer({ tokens: tokens.map(tokenView) });
}

/** By number, by one sequence, or a run from a sequence on; no match is an empty list. */
async function answerEntries(parts: RouteParts, token: TokenState, query: Query): Promise<Answer> {
  const number = query.text('number');
  const sequence = query.count('sequence');
  const from = query.count('from');
  const limit = query.count('limit', entriesMaxCount) ?? entriesMaxCount;
  query.end();
  if ([number, sequence, from].filter((given) => given !== null).length > 1)
    return refusalAnswer(refuse('bad-request', 'give one of number, sequence and from'));
  if (number !== null && !numberText.safeParse(number).success)
    return refusalAnswer(refuse('bad-request', 'number: must be 1 to 64 characters'));
  const { database } = parts;
  if (number !== null) return jsonAnswer({ entries: await entryViews(database, token.tokenId, { kind: 'number', number }, limit) });
  const fromSequence = sequence ?? from ?? 1;
  const views = await entryViews(database, token.tokenId, { kind: 'range', fromSequence }, sequence === null ? limit : 1);
  return jsonAnswer({ entries: views.filter((view) => sequence === null || view.sequence === sequence) });
}

function certificateAnswer(body: Uint8Array): Answer {
  return { status: 200, mediaType: mediaTypes.certificate, body };
}

function jsonAnswer(value: unknown, status = 200): Answer {
  return { status, mediaType: mediaTypes.json, body: JSON.stringify(value) };
}

const nothingHere: Answer = { ...refusalAnswer(refuse('bad-request', 'nothing answers under this path')), status: 404 };

/** The parameters of a query, each read once; `end` refuses what nobody asked for. Throws invalid-request naming the parameter. */
class Query {
  readonly #values = new Map<string, string>();

  constructor(queryText: string) {
    for (const [name, value] of new URLSearchParams(queryText)) {
      if (this.#values.has(name)) throw badParameter(name, 'stands there twice');
      this.#values.set(name, value);
    }
  }

  text(name: string): string | null {
    const value = this.#values.get(name) ?? null;
    this.#values.delete(name);
    return value;
  }

  /** A whole number from 1 to `max`. */
  count(name: string, max = Number.MAX_SAFE_INTEGER): number | null {
    const value = this.text(name);
    if (value === null) return null;
    if (!/^[1-9]\d{0,15}$/.test(value) || Number(value) > max) throw badParameter(name, `must be a whole number from 1 to ${max}`);
    return Number(value);
  }

  end(): void {
    const [unknown] = this.#values.keys();
    if (unknown !== undefined) throw badParameter(unknown, 'is not known here');
  }
}

function badParameter(name: string, why: string): UkeyError {
  return new UkeyError('invalid-request', `${name.slice(0, 64)}: ${why}`, { field: name });
}
