// Owns: which figures there are, and how they are called: from the service's status and its counts to families of samples.
// Invariants: what is not known has no sample, never a zero; units are seconds and bytes; each figure of a token bears its name. Nothing secret, and no
// buyer, is in a status. Pure.
import { type ServiceStatus, standings, storedPins } from '#ipc-schema/status.ts';
import type { RequestCounts, TokenCounts } from './counts.ts';
import type { Family, Labels, Sample } from './exposition.ts';

export interface UploadFigures {
  readonly probesProven: number;
  readonly probesFailed: number;
  readonly acknowledged: number;
  readonly refused: number;
  readonly failed: number;
  readonly lastContactMs: number | null;
}

/** One token, as it stands now. */
export interface TokenFigures {
  readonly name: string;
  readonly status: ServiceStatus;
  readonly uploads: UploadFigures;
  readonly counts: TokenCounts;
}

export interface ProcessFigures {
  readonly version: string;
  readonly node: string;
  readonly nowMs: number;
  readonly startedMs: number;
  readonly residentBytes: number;
  readonly heapBytes: number;
  readonly cpuSeconds: number;
  /** How late the event loop was since the last look, by quantile. */
  readonly delaySeconds: Readonly<Record<string, number>>;
  readonly connections: number;
  readonly requests: RequestCounts;
}

export function familiesOf(process: ProcessFigures, tokens: readonly TokenFigures[]): readonly Family[] {
  return [...processFamilies(process), ...tokenFamilies(tokens, process.nowMs)];
}

function processFamilies(of: ProcessFigures): Family[] {
  const one = (value: number): Sample[] => [{ labels: {}, value }];
  const delays = Object.entries(of.delaySeconds).map(([quantile, value]) => ({ labels: { quantile }, value }));
  return [
    gauge('ukeyd_build_info', 'Version of the service and of its runtime.', [{ labels: { version: of.version, node: of.node }, value: 1 }]),
    gauge('process_start_time_seconds', 'When the front started, since 1970.', one(of.startedMs / 1_000)),
    gauge('process_resident_memory_bytes', 'Memory of the front.', one(of.residentBytes)),
    gauge('ukeyd_heap_bytes', "What of it the runtime's heap uses.", one(of.heapBytes)),
    counter('process_cpu_seconds_total', 'Processor time of the front.', one(of.cpuSeconds)),
    gauge('ukeyd_event_loop_delay_seconds', 'How late the event loop of the front was since the last look, by quantile.', delays),
    gauge('ukeyd_connections', 'Open connections of both sockets.', one(of.connections)),
    counter('ukeyd_requests_total', 'Requests by method, and by the code of the refusal or "ok".', of.requests.samples()),
    histogram(
      'ukeyd_issue_duration_seconds',
      'Documents that were issued: from the request to the answer.',
      of.requests.issueSeconds.samples({}),
    ),
  ];
}

type Read = (token: TokenFigures) => number | null;

function tokenFamilies(tokens: readonly TokenFigures[], nowMs: number): Family[] {
  const each = (read: Read): Sample[] =>
    tokens.flatMap((token) => {
      const value = read(token);
      return value === null ? [] : [{ labels: { token: token.name }, value }];
    });
  const oneHot = (label: string, values: readonly string[], read: (token: TokenFigures) => string | null): Sample[] =>
    tokens.flatMap((token) => {
      const now = read(token);
      return now === null ? [] : values.map((value) => ({ labels: { token: token.name, [label]: value }, value: now === value ? 1 : 0 }));
    });
  const all = (read: (token: TokenFigures, labels: Labels) => Sample[]): Sample[] =>
    tokens.flatMap((token) => read(token, { token: token.name }));
  return [
    gauge(
      'ukeyd_standing',
      'What the service can do now: 1 at the one that is.',
      oneHot('standing', standings, ({ status }) => status.standing),
    ),
    counter(
      'ukeyd_entries_total',
      'Entries that became durable, by kind: invoices and credit notes are documents, the others are the own ones of the service.',
      all(({ counts }, labels) => counts.samples(labels)),
    ),
    histogram(
      'ukeyd_batch_entries',
      'Entries of one batch.',
      all(({ counts }, labels) => counts.batchEntries.samples(labels)),
    ),
    histogram(
      'ukeyd_commit_duration_seconds',
      'Batches: from the request for a seal until FLASH (and mirror) have it.',
      all(({ counts }, labels) => counts.commitSeconds.samples(labels)),
    ),
    ...backlogFamilies(each, nowMs),
    ...upstreamFamilies(each, all),
    ...keyFamilies(each, oneHot),
    ...storeFamilies(each),
  ];
}

type Each = (read: Read) => Sample[];

function backlogFamilies(each: Each, nowMs: number): Family[] {
  const backlog = (read: (one: NonNullable<ServiceStatus['backlog']>) => number | null): Sample[] =>
    each(({ status }) => (status.backlog === null ? null : read(status.backlog)));
  return [
    gauge(
      'ukeyd_backlog_entries',
      'Documents that wait for their acknowledgement.',
      backlog(({ pending }) => pending),
    ),
    gauge(
      'ukeyd_backlog_amount',
      'Sum of their totals, in the currency of the token.',
      backlog(({ amount }) => Number(amount)),
    ),
    gauge(
      'ukeyd_backlog_oldest_age_seconds',
      'Age of the oldest of them by the wall clock; 0 where none waits.',
      backlog(({ oldest }) => (oldest === null ? 0 : Math.max(0, nowMs - Date.parse(oldest)) / 1_000)),
    ),
    gauge(
      'ukeyd_backlog_parked_entries',
      'Entries that the ticket server has parked, as it told last.',
      backlog(({ parked }) => parked.length),
    ),
    gauge(
      'ukeyd_budget_used_ratio',
      'The offline limit that is used most, of 1.',
      each(({ status: { budget } }) => (budget === null ? null : budget.usedPercent / 100)),
    ),
  ];
}

function upstreamFamilies(each: Each, all: (read: (token: TokenFigures, labels: Labels) => Sample[]) => Sample[]): Family[] {
  return [
    gauge(
      'ukeyd_link_up',
      'Whether the ticket server has proven itself last: 1, or 0; none while that is not known.',
      each(({ status: { backlog } }) => (backlog === null || backlog.link === 'unknown' ? null : Number(backlog.link === 'up'))),
    ),
    counter(
      'ukeyd_uploads_total',
      'Uploads by how they ended; one that was not answered has failed.',
      all(({ uploads }, labels) =>
        (['acknowledged', 'refused', 'failed'] as const).map((outcome) => ({ labels: { ...labels, outcome }, value: uploads[outcome] })),
      ),
    ),
    counter(
      'ukeyd_probes_total',
      'Probes by whether the ticket server has proven itself.',
      all(({ uploads }, labels) => [
        { labels: { ...labels, outcome: 'proven' }, value: uploads.probesProven },
        { labels: { ...labels, outcome: 'failed' }, value: uploads.probesFailed },
      ]),
    ),
    gauge(
      'ukeyd_last_contact_timestamp_seconds',
      'When the ticket server proved itself last, since 1970; none before the first time since the start.',
      each(({ uploads }) => seconds(uploads.lastContactMs)),
    ),
    gauge(
      'ukeyd_clone_alarm',
      'Whether the ticket server tells of a second copy of the token.',
      each(({ status }) => Number(status.alarm !== null)),
    ),
    gauge(
      'ukeyd_clock_trusted',
      'Whether the wall clock may be printed.',
      each(({ status }) => Number(status.clock.trusted)),
    ),
  ];
}

function keyFamilies(
  each: Each,
  oneHot: (label: string, values: readonly string[], read: (token: TokenFigures) => string | null) => Sample[],
): Family[] {
  const key = (read: (one: NonNullable<ServiceStatus['token']>) => number | null): Sample[] =>
    each(({ status }) => (status.token === null ? null : read(status.token)));
  return [
    counter(
      'ukeyd_signatures_total',
      'Signatures since the process of the token started.',
      key(({ signatures }) => signatures),
    ),
    counter(
      'ukeyd_signature_failures_total',
      'Signatures that failed.',
      key(({ signFailures }) => signFailures),
    ),
    gauge(
      'ukeyd_signature_mean_seconds',
      'Mean of the last signatures.',
      key(({ meanSignMs }) => seconds(meanSignMs)),
    ),
    counter(
      'ukeyd_holder_restarts_total',
      'How often the process of the token was replaced because it hung or died.',
      key(({ restarts }) => restarts),
    ),
    gauge(
      'ukeyd_pin_tries_left',
      'Tries left of the user PIN, where the token tells.',
      key(({ triesLeft }) => triesLeft),
    ),
    gauge(
      'ukeyd_stored_pin',
      'What is known of the PIN for logging in unattended: 1 at the one that is.',
      oneHot('state', storedPins, ({ status }) => status.token?.storedPin ?? null),
    ),
    gauge(
      'ukeyd_certificate_expiry_timestamp_seconds',
      'End of the certificate of the KEY, since 1970.',
      key(({ certificateExpires }) => (certificateExpires === null ? null : seconds(Date.parse(certificateExpires)))),
    ),
  ];
}

function storeFamilies(each: Each): Family[] {
  const secondsPerDay = 86_400;
  const store = (read: (one: NonNullable<ServiceStatus['store']>) => number | null): Sample[] =>
    each(({ status }) => (status.store === null ? null : read(status.store)));
  return [
    gauge(
      'ukeyd_store_used_ratio',
      'Of what documents may fill of the FLASH; at 1 it is full.',
      store(({ usedPercent }) => usedPercent / 100),
    ),
    gauge(
      'ukeyd_store_free_bytes',
      'What is left of it.',
      store(({ freeBytes }) => freeBytes),
    ),
    gauge(
      'ukeyd_store_capacity_bytes',
      'What documents may fill altogether.',
      store(({ capacityBytes }) => capacityBytes),
    ),
    counter(
      'ukeyd_store_written_bytes_total',
      'To the FLASH since it was formatted: its wear.',
      store(({ bytesWritten }) => bytesWritten),
    ),
    gauge(
      'ukeyd_store_left_seconds',
      'Until the FLASH is full at the rate of the last days; none where as much is freed as comes, or too little is known.',
      store(({ forecast }) => (forecast.kind === 'fills' ? forecast.daysLeft * secondsPerDay : null)),
    ),
    gauge(
      'ukeyd_mirror_up',
      'Whether the mirror gets what the FLASH gets; none where it is off.',
      store(({ mirrorState }) => (mirrorState === null ? null : Number(mirrorState.failure === null))),
    ),
    gauge(
      'ukeyd_mirror_behind_bytes',
      'What an async mirror does not have yet.',
      store(({ mirrorState }) => mirrorState?.behindBytes ?? null),
    ),
  ];
}

const seconds = (ms: number | null): number | null => (ms === null ? null : ms / 1_000);
const gauge = (name: string, help: string, samples: readonly Sample[]): Family => ({ name, help, kind: 'gauge', samples });
const counter = (name: string, help: string, samples: readonly Sample[]): Family => ({ name, help, kind: 'counter', samples });
const histogram = (name: string, help: string, samples: readonly Sample[]): Family => ({ name, help, kind: 'histogram', samples });
