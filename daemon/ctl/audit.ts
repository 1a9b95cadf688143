// Owns: `ukeyctl audit`: what was done to the service and its token, when and by whom, as the ledger holds it; newest first.
// The service is asked, and believed: `ukeyctl export --kind admin` gives the same entries with what proves them.
import type { Command, Given } from '#ctl/command.ts';
import { type Service, serviceOptions, withService } from '#ctl/connection.ts';
import { usage } from '#ctl/exit-codes.ts';
import { counted, table } from '#ctl/screen.ts';
import { type AdminEvent, decodeAdminEvent } from '#ipc-schema/admin.ts';
import { type AuditRecord, auditPageEntries } from '#ipc-schema/audit.ts';
import type { Result } from '#ipc-schema/methods.ts';

const limitDefault = 50;
const limitMax = 10_000;

type Entry = Result<'audit.list'>['entries'][number];

/** One line: an event of the ledger, or one record of an audit entry. */
interface AuditLine {
  readonly sequence: number;
  /** When it was done; of an event, when its entry was made; null: released from the token. */
  readonly at: string | null;
  readonly who: string;
  readonly what: string;
  readonly outcome: string;
  readonly detail: string;
}

export const audit: Command = {
  kind: 'command',
  name: 'audit',
  summary: 'what was done to the service and its token, when and by whom, newest first',
  options: [
    ...serviceOptions,
    { flags: '--limit <entries>', description: `at most so many entries of the ledger (default: ${limitDefault})` },
  ],
  examples: ['audit', 'audit --limit 500 --json', 'export --kind admin --output audit.jsonl'],
  async run(given, screen) {
    const limit = limitOf(given);
    const { entries, waiting } = await withService(given, screen, (service) => gathered(service, limit));
    const lines = entries.flatMap(linesOf);
    const rows = lines.map((line) => [String(line.sequence), line.at ?? '', line.who, line.what, line.outcome, line.detail]);
    const rest = waiting === 0 ? '' : `${counted(waiting, 'record')} not yet in the ledger\n`;
    screen.answer({ lines, waiting }, table(['ENTRY', 'TIME', 'WHO', 'WHAT', 'OUTCOME', ''], rows, [0]) + rest);
  },
};

function limitOf(given: Given): number {
  const text = given.text('limit');
  if (text === undefined) return limitDefault;
  const limit = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  if (limit < 1 || limit > limitMax) throw usage(`--limit must be a whole number from 1 to ${limitMax}`, { field: '--limit' });
  return limit;
}

async function gathered(service: Service, limit: number): Promise<{ readonly entries: readonly Entry[]; readonly waiting: number }> {
  const entries: Entry[] = [];
  let before: number | null = null;
  let waiting = 0;
  do {
    const page: Result<'audit.list'> = await service.call('audit.list', {
      limit: Math.min(auditPageEntries, limit - entries.length),
      ...(before === null ? {} : { before }),
    });
    entries.push(...page.entries);
    waiting = page.waiting;
    before = page.nextBefore;
  } while (before !== null && entries.length < limit);
  return { entries, waiting };
}

function linesOf({ sequence, issuedAt, body }: Entry): AuditLine[] {
  const line = { sequence, at: issuedAt, who: 'service', outcome: 'done' };
  if (body === null) return [{ ...line, what: 'released', detail: 'the ticket server has it' }];
  const event = decodeAdminEvent(Buffer.from(body, 'utf8'));
  if (event.event !== 'audit') return [{ ...line, what: event.event, detail: eventText(event) }];
  const lines = event.records.map((record) => ({ ...line, ...recordLine(record) })).reverse();
  if (event.omitted === undefined) return lines;
  return [{ ...line, what: 'omitted', detail: `${counted(event.omitted, 'record')} lost for want of room` }, ...lines];
}

function recordLine(record: AuditRecord): Omit<AuditLine, 'sequence'> {
  const { what, at, who, outcome, terminal, digest, fromBatch, times, lastAt, kept } = record;
  const parts = [
    terminal ?? '',
    digest === undefined ? '' : `configuration ${digest.slice(0, 16)}`,
    fromBatch === undefined ? '' : `from batch ${fromBatch}`,
    times === undefined ? '' : `${times} times, until ${lastAt ?? ''}`,
    kept === true ? 'waited outside of the ledger' : '',
  ];
  return { at, who, what, outcome, detail: parts.filter((part) => part !== '').join('; ') };
}

function eventText(event: Exclude<AdminEvent, { event: 'audit' }>): string {
  switch (event.event) {
    case 'rollback-healed':
      return [
        event.healedToBatch > event.foundBatch ? `batches ${event.foundBatch + 1} to ${event.healedToBatch}` : '',
        event.endGivenUp === true ? `what could not be read behind batch ${event.foundBatch} was given up` : '',
      ]
        .filter((part) => part !== '')
        .join('; ');
    case 'continues':
      return `ledger ${event.ledger}, which ended with batch ${event.lastBatch}`;
    case 'succession':
    case 'handover':
    case 'handover-cancelled':
    case 'certificate-renewed':
      return '';
  }
}
