// Owns: `ukeyctl issue` and `get`: one document goes in, or comes out, with its evidence.
// Invariants: a request without a key is refused unless --new-key makes one, which is then shown before anything is sent, so that a
// lost answer can be asked for again with it. Once it is issued no failure looks as if it were not: the number is told before anything else is tried.
import { randomUUID } from 'node:crypto';
import type { Command, Given } from '#ctl/command.ts';
import { type Service, serviceOptions, withService } from '#ctl/connection.ts';
import { endAs, endingAs, usage } from '#ctl/exit-codes.ts';
import { readJson } from '#ctl/input.ts';
import { incomplete, openOutputFile } from '#ctl/output-file.ts';
import { receiptText } from '#ctl/receipt.ts';
import { facts, outputTaken, type Screen } from '#ctl/screen.ts';
import { budgetText } from '#ctl/status.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { decodeEvidence } from '#ipc-schema/evidence.ts';
import { encodeEvidenceFile } from '#ipc-schema/evidence-file.ts';
import type { Issued } from '#ipc-schema/issued.ts';
import { methods, type Params } from '#ipc-schema/methods.ts';
import { check } from '#ipc-schema/schema.ts';
import { certificateFor } from '#ipc-schema/signers.ts';

type InvoiceRequest = Params<'invoice.issue'>;

const printOption = { flags: '--print', description: 'print it as a receipt with its QR code' };
const evidenceOption = { flags: '--evidence <file>', description: 'write document, evidence and certificates to this file (see verify)' };

export const issue: Command = {
  kind: 'command',
  name: 'issue',
  summary: 'issue an invoice or credit note, as a till',
  arguments: [{ name: '<file>', description: 'JSON of the parameters of invoice.issue; - is stdin' }],
  options: [
    ...serviceOptions,
    { flags: '--new-key', description: 'make a key where the file has none' },
    { flags: '--preview', description: 'the same checks and totals; nothing is issued' },
    printOption,
    evidenceOption,
  ],
  examples: [
    'issue sale.json --terminal till-1 --secret-file till-1.secret',
    'issue - --new-key --print --terminal till-1 --secret-file till-1.secret < sale.json',
    'issue sale.json --preview --json --terminal till-1 --secret-file till-1.secret',
  ],
  async run(given, screen) {
    if (given.text('terminal') === undefined) {
      throw usage('only a terminal may issue: --terminal and --secret-file are needed', {
        field: '--terminal',
        action: 'Enrol one with: ukeyctl terminal enrol till-1 --role till --secret-file till-1.secret',
      });
    }
    const request = await readRequest(given);
    if (given.flag('preview')) return preview(given, screen, request);
    if (request.brief === true && (given.flag('print') || given.text('evidence') !== undefined))
      throw usage('a brief answer has nothing for --print or --evidence', {
        field: 'brief',
        action: 'Leave brief out of the file, or get document and evidence afterwards with ukeyctl get.',
      });
    if (given.flag('newKey')) screen.note(`key: ${request.key}`);
    await withService(given, screen, async (service) => {
      // What may fail besides the issuing fails before it.
      const file = await openEvidence(given, service, choiceIn(request));
      try {
        const issued = { ...(await service.issue(request)), key: request.key };
        await giveOut({ given, screen, issued, file, token: given.text('token') ?? request.token });
      } catch (thrown) {
        throw endAs('internal', thrown, { key: request.key });
      }
    });
  },
};

export const get: Command = {
  kind: 'command',
  name: 'get',
  summary: 'one issued document with its evidence',
  options: [
    ...serviceOptions,
    { flags: '--number <number>', description: "the document's own number" },
    { flags: '--sequence <sequence>', description: 'its place in the ledger' },
    { flags: '--key <key>', description: 'the key it was asked for with (of the asking terminal)' },
    { flags: '--document', description: 'print the document as it is' },
    printOption,
    evidenceOption,
  ],
  examples: [
    'get --number A000123',
    'get --sequence 17 --evidence a.json',
    'get --number A000123 --print',
    'get --number A000123 --document',
  ],
  async run(given, screen) {
    const which = readWhich(given);
    await withService(given, screen, async (service) => {
      const issued = await service.call('invoice.get', which);
      (await openEvidence(given, service, {}))?.write(issued);
      show(given, screen, issued);
    });
  },
};

async function readRequest(given: Given): Promise<InvoiceRequest> {
  const value = await readJson(given.needArgument(0), '<file>');
  const keyed =
    given.flag('newKey') && typeof value === 'object' && value !== null && !Array.isArray(value) && !Object.hasOwn(value, 'key')
      ? { key: randomUUID(), ...value }
      : value;
  if (typeof keyed === 'object' && keyed !== null && !Object.hasOwn(keyed, 'key')) {
    throw usage('the file has no key', {
      field: 'key',
      action: 'Give each invoice its own key in the file, or have one made with --new-key.',
    });
  }
  const request = await endingAs('usage', () => check(methods['invoice.issue'].params, keyed, 'invalid-invoice'));
  const named = given.text('token');
  if (named !== undefined && request.token !== undefined && named !== request.token)
    throw usage('the file and --token name two tokens', { field: 'token', action: 'Name the token in one place.' });
  return request;
}

/** What of a request says which token is meant. */
function choiceIn({ token, issuer }: InvoiceRequest): Params<'service.identity'> {
  return { ...(token === undefined ? {} : { token }), ...(issuer === undefined ? {} : { issuer }) };
}

interface IssuedNow {
  readonly given: Given;
  readonly screen: Screen;
  readonly issued: Issued & { readonly key: string };
  readonly file: EvidenceFile | null;
  /** The one that was named. */
  readonly token: string | undefined;
}

/** It is issued. Throws `unfinished` when anything of it could not be given out, after trying the rest. */
async function giveOut({ given, screen, issued, file, token }: IssuedNow): Promise<void> {
  const faults: UkeyError[] = [];
  const attempt = async (step: () => void | Promise<void>): Promise<boolean> => {
    try {
      await step();
      return true;
    } catch (thrown) {
      faults.push(asUkeyError(thrown));
      return false;
    }
  };
  if (!(await attempt(() => show(given, screen, issued)))) screen.answer(issued, issuedFacts(issued));
  await attempt(() => file?.write(issued));
  await attempt(outputTaken);
  const [first] = faults;
  if (first === undefined) return;
  const words = [
    `ukeyctl get --sequence ${issued.sequence}`,
    ...(token === undefined ? [] : [`--token ${token}`]),
    ...(given.flag('print') ? ['--print'] : []),
    ...(given.text('evidence') === undefined ? [] : ['--evidence FILE']),
  ].join(' ');
  throw endAs(
    'unfinished',
    new UkeyError('internal', `issued as ${issued.number}, but ${faults.map(({ message }) => message).join('; ')}`, {
      action: `Do not issue it again. As the same terminal: ${words}`,
      cause: first,
    }),
  );
}

async function preview(given: Given, screen: Screen, request: InvoiceRequest): Promise<void> {
  const result = await withService(given, screen, (service) => service.call('invoice.preview', request));
  const text = facts([
    ['Total', `${result.total} ${result.currency}`],
    ['Tax', `${result.taxTotal} ${result.currency}`],
    ['Budget', budgetText(result.budget)],
    ['Issued', 'nothing: this is a preview'],
  ]);
  screen.answer(result, given.flag('print') ? receiptText(result.document) : text);
}

function readWhich(given: Given): Params<'invoice.get'> {
  const named = (['number', 'sequence', 'key'] as const).flatMap((name) => {
    const value = given.text(name);
    return value === undefined ? [] : [{ name, value }];
  });
  const [which, ...others] = named;
  if (which === undefined || others.length > 0) throw usage('exactly one of --number, --sequence and --key is needed');
  switch (which.name) {
    case 'number':
      return { number: which.value };
    case 'key':
      return { key: which.value };
    case 'sequence':
      if (!/^[1-9]\d{0,14}$/.test(which.value)) throw usage('--sequence is not a whole number from 1', { field: '--sequence' });
      return { sequence: Number(which.value) };
  }
}

function show(given: Given, screen: Screen, issued: Issued & { key?: string }): void {
  if (given.flag('document') && !screen.json) screen.exact(needPart(issued.document, 'the document'));
  else screen.answer(issued, screen.json ? '' : issuedText(given, screen, issued));
}

function issuedText(given: Given, screen: Screen, issued: Issued & { key?: string }): string {
  if (given.flag('print')) {
    const { colours, widthColumns } = screen;
    return receiptText(needPart(issued.document, 'the document'), { qr: issued.qr, colours, widthColumns });
  }
  // Of what was issued just now the evidence is written behind the answer.
  return issuedFacts(issued, issued.key === undefined ? (given.text('evidence') ?? null) : null);
}

/** `key`: of the request that issued it just now, or before. `evidence`: the file that it was written to. */
function issuedFacts(issued: Issued & { key?: string }, evidence: string | null = null): string {
  return facts([
    ['Number', issued.number],
    ['Sequence', String(issued.sequence)],
    ['Issued', `${issued.issuedAt}${issued.key !== undefined && issued.repeated ? ' (by an earlier request with this key)' : ''}`],
    ['Total', `${issued.total} ${issued.currency}`],
    ['Tax', `${issued.taxTotal} ${issued.currency}`],
    ['Delivery', issued.delivery === 'acknowledged' ? 'acknowledged by the ticket server' : 'pending: waits for the ticket server'],
    ['Budget', budgetText(issued.budget)],
    ['Evidence', evidence],
  ]);
}

interface EvidenceFile {
  write(issued: Issued): void;
}

/** null where no evidence file is asked for. */
async function openEvidence(given: Given, service: Service, choice: Params<'service.identity'>): Promise<EvidenceFile | null> {
  const path = given.text('evidence');
  if (path === undefined) return null;
  const file = openOutputFile(path, '--evidence');
  const { certificate: own, authorityCertificate, predecessors } = await service.call('service.identity', choice);
  return {
    write: (issued) => {
      const document = needPart(issued.document, 'the document');
      const evidence = needPart(issued.evidence, 'the evidence');
      const certificate = predecessors.length === 0 ? own : certificateOf(evidence, [own, ...predecessors.map((one) => one.certificate)]);
      file.write(encodeEvidenceFile({ document, evidence, certificate, authorityCertificate }));
    },
  };
}

/** A document that was sealed before another KEY went on is proven with the certificate of its time. */
function certificateOf(evidence: string, certificates: readonly string[]): string {
  const { sealBytes } = decodeEvidence(Buffer.from(evidence, 'base64'));
  const ders = certificates.map((text) => Buffer.from(text, 'base64'));
  const found = certificateFor(sealBytes, ders);
  if (found === null) throw incomplete('the certificate of the key that sealed it');
  return Buffer.from(found).toString('base64');
}

function needPart(part: string | undefined, what: string): string {
  if (part === undefined) throw incomplete(what);
  return part;
}
