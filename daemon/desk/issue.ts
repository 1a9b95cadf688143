// Owns: the errands invoice.issue and invoice.preview: request to draft, one `ledger.add`, and the answer.
// Invariants: a key that was used before is answered with its invoice whatever has changed since (template, limits); an answer says what is true:
// durable, acknowledged or not, what is left of the budget.
import type { Clock } from '#ground/clock.ts';
import type { Log } from '#ground/log.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { encodeEvidence, qrText } from '#ipc-schema/evidence.ts';
import type { InvoiceRequest } from '#ipc-schema/invoice.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import type { Budget, Link } from '#ipc-schema/status.ts';
import type { Custody } from '#ledger/custody.ts';
import type { Issued, Ledger } from '#ledger/ledger.ts';
import { keyHashOf } from '#ledger/lookup.ts';
import type { DocumentDraft } from '#ledger/numbering.ts';
import type { Committed } from '#ledger/stored.ts';
import type { Deliveries } from './deliveries.ts';
import { makeDraft } from './draft.ts';
import { requestDigest } from './request-digest.ts';
import { refuseOtherIssuer } from './which-token.ts';

export interface IssueParts {
  readonly custody: Custody;
  readonly clock: Clock;
  readonly deliveries: Deliveries;
  readonly log: Log;
  link(): Link;
}

type IssueRequest = Params<'invoice.issue'>;

export async function issue(parts: IssueParts, terminal: string | null, request: IssueRequest): Promise<Result<'invoice.issue'>> {
  const name = terminalOf(terminal);
  const { ledger, charter, issued, texts } = await issueIn(await parts.custody.use(), parts, name, request);
  // With it a till's request is followed to its batch, and with the upload's line to the server.
  parts.log.debug('document', { sequence: issued.leaf.sequence, batch: issued.batchIndex, repeated: issued.repeated });
  const acknowledged = await waitIfAsked(parts, ledger, charter, issued, request.wait);
  return answer(issued, texts ?? textsOf(issued, charter, request.brief === true), budgetOf(parts.custody), acknowledged);
}

interface IssuedIn {
  readonly ledger: Ledger;
  readonly charter: Charter;
  readonly issued: Issued;
  /** Made ready while it was on its way; null: it was issued before. */
  readonly texts: Texts | null;
}

/** A request is taken along by so many ledgers that are set aside under it; then its caller hears `busy` and comes again. */
const setAsideMax = 3;

/** A ledger that was set aside while the request was on its way to it has refused it (busy): the one that follows takes it. */
async function issueIn(ledger: Ledger, parts: IssueParts, terminal: string, request: IssueRequest, setAside = 0): Promise<IssuedIn> {
  const charter = charterOf(ledger);
  refuseOtherIssuer(request, charter);
  try {
    return { ledger, charter, ...(await issueOnce(parts, ledger, charter, terminal, request)) };
  } catch (error) {
    if (asUkeyError(error).code !== 'busy' || parts.custody.ledger === ledger || setAside >= setAsideMax) throw error;
    const next = await parts.custody.use();
    if (next === ledger) throw error;
    return await issueIn(next, parts, terminal, request, setAside + 1);
  }
}

async function issueOnce(
  parts: IssueParts,
  ledger: Ledger,
  charter: Charter,
  terminal: string,
  request: InvoiceRequest,
): Promise<Pick<IssuedIn, 'issued' | 'texts'>> {
  let texts: Texts | null = null;
  const makeReady = (committed: Committed): void => {
    texts = textsOf(committed, charter, request.brief === true);
  };
  let draft: DocumentDraft;
  try {
    // Who waits for the acknowledgement as well does not hurry, and would only keep them in memory.
    const onSealed = waitsForServer(charter, request.wait) ? undefined : makeReady;
    draft = draftOf(parts, ledger, charter, terminal, request, await originalOf(ledger, request), onSealed);
  } catch (error) {
    const repeated = await ledger.repeat(keyHashOf(terminal, request.key), requestDigest(request));
    if (repeated === null) throw error;
    return { issued: repeated, texts: null };
  }
  const issued = await ledger.add(draft);
  return { issued, texts };
}

function draftOf(
  parts: IssueParts,
  ledger: Ledger,
  charter: Charter,
  terminal: string,
  request: InvoiceRequest,
  corrects: number | null,
  onSealed?: DocumentDraft['onSealed'],
): DocumentDraft {
  const tokenIdHex = Buffer.from(ledger.mount.tokenId).toString('hex');
  const { templates } = ledger;
  return makeDraft(request, { terminal, tokenIdHex, charter, templates, nowMs: parts.clock.wallMs(), corrects, onSealed });
}

/** Sequence of our document that the request takes back; null: it names none of ours. */
function originalOf(ledger: Ledger, { corrects }: InvoiceRequest): Promise<number> | null {
  return corrects !== undefined && 'number' in corrects ? invoiceOf(ledger, corrects.number) : null;
}

async function invoiceOf(ledger: Ledger, number: string): Promise<number> {
  try {
    const original = await ledger.find({ number });
    if (original.leaf.kind === 'invoice') return original.leaf.sequence;
  } catch (error) {
    if (asUkeyError(error).code !== 'not-found') throw error;
  }
  throw new UkeyError('not-found', 'corrects.number: there is no such invoice on this token', { field: 'corrects.number' });
}

/** The same checks and totals as issuing; nothing is committed, so sequence and number stand as zero and empty. */
export async function preview(parts: IssueParts, terminal: string | null, request: IssueRequest): Promise<Result<'invoice.preview'>> {
  const name = terminalOf(terminal);
  const ledger = await parts.custody.use();
  const charter = charterOf(ledger);
  refuseOtherIssuer(request, charter);
  const draft = draftOf(parts, ledger, charter, name, request, await originalOf(ledger, request));
  await ledger.check(draft);
  const document = Buffer.from(draft.body({ sequence: 0, number: '', issuedAtMs: parts.clock.wallMs() })).toString('utf8');
  return { currency: draft.currency, total: draft.total, taxTotal: draft.taxTotal, document, budget: budgetOf(parts.custody) };
}

/** Whether it is acknowledged; a promise only where somebody waits for that. */
function waitIfAsked(
  parts: IssueParts,
  ledger: Ledger,
  charter: Charter,
  issued: Issued,
  wait: InvoiceRequest['wait'],
): boolean | Promise<boolean> {
  if (issued.batchIndex <= ledger.tip.ackedBatch) return true;
  return waitsForServer(charter, wait) && awaitDelivery(parts, ledger, issued, charter.mode === 'online');
}

/** Its caller is answered only once the server has acknowledged it, or after a while without. */
function waitsForServer({ mode }: Charter, wait: InvoiceRequest['wait']): boolean {
  return mode === 'online' || (wait === 'acknowledged' && mode !== 'offline');
}

async function awaitDelivery(parts: IssueParts, ledger: Ledger, issued: Issued, mustWait: boolean): Promise<boolean> {
  // With the line down nobody will acknowledge it: no reason to keep the caller.
  const mayCome = parts.link() !== 'down';
  const acknowledged =
    (mayCome && (await parts.deliveries.wait(ledger.mount.tokenId, issued.batchIndex))) || issued.batchIndex <= ledger.tip.ackedBatch;
  if (mustWait && !acknowledged) {
    throw new UkeyError('unknown-outcome', 'the document is durable, and the ticket server has not acknowledged it yet', {
      action: 'Repeat with the same key until it is acknowledged; do not issue it under another key.',
    });
  }
  return acknowledged;
}

/** What an answer spells out, all of it known once the batch is sealed. */
type Texts = Pick<Result<'invoice.issue'>, 'document' | 'evidence' | 'qr'>;

export function textsOf({ body, evidence }: Committed, { verifyUrl }: Charter, brief: boolean): Texts {
  const evidenceBytes = encodeEvidence(evidence);
  return {
    ...(brief ? {} : { document: textOf(body, 'utf8'), evidence: textOf(evidenceBytes, 'base64') }),
    qr: qrText(evidenceBytes, verifyUrl),
  };
}

export function answer(
  { leaf, repeated }: Committed & { readonly repeated?: boolean },
  texts: Texts,
  budget: Budget,
  acknowledged: boolean,
): Result<'invoice.issue'> {
  return {
    number: leaf.number ?? '',
    sequence: leaf.sequence,
    issuedAt: new Date(leaf.issuedAtMs).toISOString(),
    currency: leaf.currency ?? '',
    total: leaf.total ?? '',
    taxTotal: leaf.taxTotal ?? '',
    ...texts,
    delivery: acknowledged ? 'acknowledged' : 'pending',
    repeated: repeated ?? false,
    budget,
  };
}

/** Without a copy of the bytes. */
function textOf(bytes: Uint8Array, encoding: 'utf8' | 'base64'): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString(encoding);
}

export function charterOf(ledger: Ledger): Charter {
  if (ledger.charter === null)
    throw new UkeyError('halted', 'the ledger has no charter', { action: 'Provision the token again with its enrolment ticket.' });
  return ledger.charter;
}

export function budgetOf(custody: Custody): Budget {
  return custody.budget() ?? { hoursLeft: null, countLeft: null, amountLeft: null, single: null, usedPercent: 0 };
}

function terminalOf(terminal: string | null): string {
  if (terminal === null)
    throw new UkeyError('forbidden', 'documents are issued by enrolled terminals', { action: 'Authenticate as a till or ERP terminal.' });
  return terminal;
}
