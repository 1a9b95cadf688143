// Owns: talking HTTPS to the ticket server: probe, upload, enrolment, recovery, renewal. The only place that opens a network connection.
// Invariants: every call has one deadline over all of it (Node has none of its own); answers are bounded; redirects are never followed; nothing is
// believed for coming over TLS alone: probe answers and acknowledgements carry the server's signature.
// Errors: whatever keeps an answer from coming is UkeyError `offline`; refusals of the server come back as values.
import https from 'node:https';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import {
  type RecoveredKey,
  recoveredKeySchema,
  recoveryPaths,
  type SuccessionAnswer,
  successionAnswerSchema,
} from '#ipc-schema/recovery.ts';
import { renewalPath } from '#ipc-schema/renewal.ts';
import { check } from '#ipc-schema/schema.ts';
import {
  decodeUpload,
  type Enrolment,
  enrolmentSchema,
  mediaTypes,
  paths,
  type Refusal,
  refusalSchema,
  requestHeader,
  uploadMaxBytes,
} from '#ipc-schema/upstream.ts';

export const probeTimeoutMs = 3_000;
/** A slow line needs its time for an upload; one on which nothing moves (idleTimeoutMs) does not get it. */
export const uploadTimeoutMs = 120_000;
export const idleTimeoutMs = 20_000;
const answerMaxBytes = 256 * 1024;

export interface ServerAddress {
  readonly url: string;
  /** DER, base64; null: the system's roots. */
  readonly tlsCertificate: string | null;
}

export type UploadAnswer =
  | { readonly kind: 'acknowledged'; readonly signed: Uint8Array }
  | { readonly kind: 'refused'; readonly status: number; readonly refusal: Refusal | null; readonly retryAfterMs: number | null };

interface HttpAnswer {
  readonly status: number;
  readonly body: Uint8Array;
  readonly retryAfterMs: number | null;
}

export class Upstream {
  readonly #base: URL;
  readonly #agent: https.Agent;

  constructor(address: ServerAddress) {
    this.#base = new URL(address.url);
    const ca = address.tlsCertificate === null ? {} : { ca: pemOf(address.tlsCertificate) };
    this.#agent = new https.Agent({ keepAlive: true, maxSockets: 4, minVersion: 'TLSv1.2', ...ca });
  }

  /** The signed answer's bytes. Throws offline. */
  async probe(nonce: Uint8Array): Promise<Uint8Array> {
    const answer = await this.#call('GET', `${paths.probe}?nonce=${hex(nonce)}`, null, probeTimeoutMs);
    if (answer.status !== 200) throw new UkeyError('offline', `the probe was answered with status ${answer.status}`);
    return answer.body;
  }

  /** The signed answer's bytes; null: a server that knows nothing of alarms, or of this token. Throws offline. */
  async alarm(tokenId: Uint8Array, nonce: Uint8Array): Promise<Uint8Array | null> {
    const path = `${paths.tokens}/${hex(tokenId)}/alarm?nonce=${hex(nonce)}`;
    const answer = await this.#call('GET', path, null, probeTimeoutMs);
    if (answer.status === 200) return answer.body;
    if (answer.status === 404) return null;
    throw new UkeyError('offline', `the question for alarms was answered with status ${answer.status}`);
  }

  /** Stored batches of a token from `fromBatch` on, consecutive; empty past the last. Nothing in them is verified. Throws offline. */
  async batches(tokenId: Uint8Array, fromBatch: number, limit: number): Promise<readonly Uint8Array[]> {
    const path = `${paths.tokens}/${hex(tokenId)}/batches?from=${fromBatch}&limit=${limit}`;
    const answer = await this.#call('GET', path, null, uploadTimeoutMs, uploadMaxBytes);
    if (answer.status === 404) return [];
    if (answer.status !== 200) throw new UkeyError('offline', `the question for batches was answered with status ${answer.status}`);
    return decodeUpload(answer.body).batches;
  }

  /** `name`: by which the request is found in the server's log. Throws offline when no answer came. */
  async upload(sealed: Uint8Array, name?: string): Promise<UploadAnswer> {
    const answer = await this.#call(
      'POST',
      paths.batches,
      { type: mediaTypes.upload, bytes: sealed, ...(name === undefined ? {} : { name }) },
      uploadTimeoutMs,
    );
    if (answer.status === 200) return { kind: 'acknowledged', signed: answer.body };
    return { kind: 'refused', status: answer.status, refusal: refusalOf(answer.body), retryAfterMs: answer.retryAfterMs };
  }

  /** Throws offline when no answer came, forbidden when the server refuses the code or the request. */
  async enrol(request: Uint8Array): Promise<Enrolment> {
    const answer = await this.#call('POST', paths.enrol, { type: mediaTypes.cose, bytes: request }, uploadTimeoutMs);
    if (answer.status !== 200) {
      const refusal = refusalOf(answer.body);
      throw new UkeyError('forbidden', `the ticket server refuses the enrolment: ${refusal?.message ?? `status ${answer.status}`}`, {
        action: 'Ask headquarters for a new enrolment ticket.',
      });
    }
    return check(enrolmentSchema, decodeJson(answer.body));
  }

  /** Step 1 of a recovery (recovery.ts). Throws offline when no answer came, forbidden when the server refuses. */
  async recoverKey(request: Uint8Array): Promise<RecoveredKey> {
    return check(recoveredKeySchema, await this.#recover(recoveryPaths.key, request));
  }

  /** Step 2: the succession. Throws as step 1. */
  async succeed(request: Uint8Array): Promise<SuccessionAnswer> {
    return check(successionAnswerSchema, await this.#recover(recoveryPaths.succession, request));
  }

  async #recover(path: string, request: Uint8Array): Promise<unknown> {
    const answer = await this.#call('POST', path, { type: mediaTypes.cose, bytes: request }, uploadTimeoutMs);
    if (answer.status === 200) return decodeJson(answer.body);
    const refusal = refusalOf(answer.body);
    const why = refusal?.message ?? `status ${answer.status}`;
    if (answer.status >= 500) throw new UkeyError('offline', `the ticket server cannot answer: ${why}`);
    throw new UkeyError('forbidden', `the ticket server refuses the recovery: ${why}`, { action: recoveryAction(refusal?.code) });
  }

  /** The certificate (DER) that takes the place of the one that the request names; nothing in it is verified. Throws offline, forbidden. */
  async renew(request: Uint8Array): Promise<Uint8Array> {
    const answer = await this.#call('POST', renewalPath, { type: mediaTypes.cose, bytes: request }, uploadTimeoutMs);
    if (answer.status === 200) return answer.body;
    const refusal = refusalOf(answer.body);
    const why = refusal?.message ?? `status ${answer.status}`;
    if (answer.status >= 500 || answer.status === 429) throw new UkeyError('offline', `the ticket server cannot answer: ${why}`);
    throw new UkeyError('forbidden', `the ticket server does not renew the certificate: ${why}`, { action: renewalAction });
  }

  close(): void {
    this.#agent.destroy();
  }

  #call(
    method: 'GET' | 'POST',
    path: string,
    body: { readonly type: string; readonly bytes: Uint8Array; readonly name?: string } | null,
    timeoutMs: number,
    maxBytes = answerMaxBytes,
  ): Promise<HttpAnswer> {
    const named = body?.name === undefined ? {} : { [requestHeader]: body.name };
    const headers = body === null ? {} : { 'content-type': body.type, 'content-length': String(body.bytes.length), ...named };
    return new Promise((resolve, reject) => {
      const fail = (cause: unknown): void => {
        reject(unreachableBecause(cause));
      };
      const options = { agent: this.#agent, method, headers, signal: AbortSignal.timeout(timeoutMs) };
      const request = https.request(new URL(path, this.#base), options, (response) => {
        const parts: Buffer[] = [];
        let length = 0;
        response.on('data', (part: Buffer) => {
          length += part.length;
          if (length > maxBytes) request.destroy(new Error('the answer is too long'));
          else parts.push(part);
        });
        response.on('error', fail);
        response.on('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            body: Buffer.concat(parts),
            retryAfterMs: retryAfterOf(response.headers['retry-after']),
          }),
        );
      });
      request.on('error', fail);
      request.setTimeout(idleTimeoutMs, () => request.destroy(new Error('nothing moves on the line')));
      request.end(body?.bytes);
    });
  }
}

const renewalAction =
  'Tell headquarters. Invoices are issued as before; where the end is near, replace the token by another one (ukeyctl token replace).';

function recoveryAction(code: Refusal['code'] | undefined): string {
  switch (code) {
    case 'no-recovery-key':
      return 'Have `ticket-server recover --dir DIR --token ID --recovery-key FILE` run at the ticket server; then repeat this, and do not restart the service in between.';
    case 'code-unknown':
      return 'Ask headquarters for a new recovery ticket.';
    case 'fork':
      return 'Look for a newer copy; where there is none, tell headquarters.';
    default:
      return 'Tell headquarters.';
  }
}

/** OpenSSL's and Node's codes for a certificate that is not our server's, or for something that does not speak TLS at all. */
const strangerCode =
  /^(?:DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_|CERT_SIGNATURE_FAILURE|CERT_UNTRUSTED|CERT_REJECTED|INVALID_CA|HOSTNAME_MISMATCH|ERR_TLS_CERT_ALTNAME_INVALID|EPROTO|ERR_SSL_)/;

/** Node's own sentence for these is advice about its options, which helps nobody here: its code stands for it. */
export function unreachableBecause(thrown: unknown): UkeyError {
  const code = thrown instanceof Error && 'code' in thrown ? String(thrown.code) : '';
  const isStranger = strangerCode.test(code);
  const why = isStranger ? `another server answers there (${code})` : thrown instanceof Error ? thrown.message : String(thrown);
  return new UkeyError('offline', `the ticket server cannot be reached: ${why}`, { cause: isStranger ? undefined : thrown });
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

function pemOf(derBase64: string): string {
  return `-----BEGIN CERTIFICATE-----\n${derBase64.replace(/(.{64})(?=.)/g, '$1\n')}\n-----END CERTIFICATE-----\n`;
}

/** Seconds form only (RFC 9110 §10.2.3); a date is left out: back-off is monotonic. */
function retryAfterOf(header: string | undefined): number | null {
  return header !== undefined && /^\d{1,6}$/.test(header) ? Number(header) * 1000 : null;
}

function refusalOf(body: Uint8Array): Refusal | null {
  try {
    return check(refusalSchema, decodeJson(body));
  } catch {
    return null; // whoever answered, it was not our server: the status alone counts
  }
}
