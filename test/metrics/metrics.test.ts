// The figures: their text format, what is counted, the loopback door, the file, and that none of it is a till's trouble.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '#ground/clock.ts';
import { parseConfig } from '#ground/config.ts';
import { silentLog } from '#ground/log.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import { standings } from '#ipc-schema/status.ts';
import { Histogram, RequestCounts, TokenCounts } from '#metrics/counts.ts';
import { expositionText } from '#metrics/exposition.ts';
import { familiesOf, type TokenFigures } from '#metrics/figures.ts';
import { Metrics } from '#metrics/metrics.ts';
import { openRig, type Rig, sale } from '#test/support/rig.ts';

interface Point {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** A reader of the format that shares nothing with the writer: each sample stands under its TYPE, each name once. */
function read(text: string): Point[] {
  const seen = new Set<string>();
  let type: { readonly name: string; readonly kind: string } | null = null;
  return text
    .split('\n')
    .slice(0, -1)
    .flatMap((line) => {
      const declared = /^# TYPE ([a-z_][a-z0-9_]*) (counter|gauge|histogram)$/.exec(line);
      if (declared !== null) {
        type = { name: declared[1] ?? '', kind: declared[2] ?? '' };
        expect(seen.has(type.name), line).toBe(false);
        seen.add(type.name);
        return [];
      }
      if (line.startsWith('# HELP ')) return [];
      const [, name = '', inner = '', value = ''] = /^([a-z_][a-z0-9_]*)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
      expect(type, line).not.toBeNull();
      const base = type?.kind === 'histogram' ? name.replace(/_(bucket|sum|count)$/, '') : name;
      expect(base, line).toBe(type?.name);
      const labels = [...inner.matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)].map(([, label = '', told = '']) => [label, told]);
      return [{ name, labels: Object.fromEntries(labels) as Record<string, string>, value: value === '+Inf' ? Infinity : Number(value) }];
    });
}

const sampleOf = (points: readonly Point[], name: string, labels: Readonly<Record<string, string>> = {}): number | undefined =>
  points.find((one) => one.name === name && Object.entries(labels).every(([label, value]) => one.labels[label] === value))?.value;

describe('the text format', () => {
  test('escapes what a label holds, and leaves a family without samples out', () => {
    const family = { name: 'a_b', help: 'two\nlines \\', kind: 'gauge' as const };
    const text = expositionText([
      { ...family, samples: [{ labels: { x: 'a"b\\c\nd' }, value: 1.5 }] },
      { ...family, name: 'empty', samples: [] },
    ]);
    expect(text).toBe('# HELP a_b two\\nlines \\\\\n# TYPE a_b gauge\na_b{x="a\\"b\\\\c\\nd"} 1.5\n');
  });

  test.each([
    ['a name that is none', { name: 'A-b', kind: 'gauge' as const }],
    ['a counter that does not end in _total', { name: 'a', kind: 'counter' as const }],
    ['a gauge that does', { name: 'a_total', kind: 'gauge' as const }],
  ])('refuses %s', (_what, { name, kind }) => {
    const act = (): unknown => expositionText([{ name, kind, help: '', samples: [{ labels: {}, value: 1 }] }]);
    expect(act).toThrow(expect.objectContaining({ code: 'internal' }));
  });
});

test('a histogram counts each value in its bucket and in all above', () => {
  const histogram = new Histogram([1, 2, 4]);
  for (const value of [0, 1, 1.5, 4, 5]) histogram.observe(value);
  const samples = histogram.samples({ token: 'main' });
  expect(samples.map((one) => [one.suffix, one.labels['le'], one.value])).toEqual([
    ['_bucket', '1', 2],
    ['_bucket', '2', 3],
    ['_bucket', '4', 4],
    ['_bucket', '+Inf', 5],
    ['_sum', undefined, 11.5],
    ['_count', undefined, 5],
  ]);
});

describe('of a running service', () => {
  let rig: Rig;
  beforeEach(async () => {
    rig = await openRig({ mirror: true });
  }, 60_000);
  afterEach(() => rig?.close());

  const points = async (): Promise<Point[]> => read(await rig.running.metrics.text());

  test('say what was issued, refused, acknowledged and kept', { timeout: 60_000 }, async () => {
    await rig.stopServer();
    await rig.till.issue(sale('k1'));
    const { number } = await rig.till.issue(sale('k2'));
    await rig.till.issue(sale('k3', { kind: 'credit-note', corrects: { number } }));
    const before = await points();
    expect(sampleOf(before, 'ukeyd_backlog_entries', { token: 'main' })).toBe(3);
    await expect(rig.till.call('invoice.issue', { ...sale('k4'), total: '1.00' })).rejects.toMatchObject({ code: 'invalid-invoice' });
    await rig.startServer();
    await rig.admin.call('backlog.flush', {});
    await expect.poll(async () => sampleOf(await points(), 'ukeyd_backlog_entries')).toBe(0);

    const told = await points();
    expect(sampleOf(told, 'ukeyd_entries_total', { kind: 'invoice' })).toBe(2);
    expect(sampleOf(told, 'ukeyd_entries_total', { kind: 'credit-note' })).toBe(1);
    expect(sampleOf(told, 'ukeyd_requests_total', { method: 'invoice.issue', code: 'ok' })).toBe(3);
    expect(sampleOf(told, 'ukeyd_requests_total', { method: 'invoice.issue', code: 'invalid-invoice' })).toBe(1);
    expect(sampleOf(told, 'ukeyd_issue_duration_seconds_count')).toBe(3);
    const batches = sampleOf(told, 'ukeyd_batch_entries_count') ?? 0;
    expect(batches).toBeGreaterThanOrEqual(4);
    expect(sampleOf(told, 'ukeyd_commit_duration_seconds_count')).toBe(batches);
    expect(sampleOf(told, 'ukeyd_commit_duration_seconds_sum')).toBeGreaterThan(0);
    expect(sampleOf(told, 'ukeyd_uploads_total', { outcome: 'acknowledged' })).toBeGreaterThan(0);
    expect(sampleOf(told, 'ukeyd_uploads_total', { outcome: 'failed' })).toBeGreaterThan(0);
    expect(sampleOf(told, 'ukeyd_probes_total', { outcome: 'proven' })).toBeGreaterThan(0);
    expect(sampleOf(told, 'ukeyd_last_contact_timestamp_seconds')).toBeGreaterThan(Date.now() / 1_000 - 60);
    expect(sampleOf(told, 'ukeyd_link_up')).toBe(1);
    expect(sampleOf(told, 'ukeyd_mirror_up')).toBe(1);
    expect(sampleOf(told, 'ukeyd_clock_trusted')).toBe(1);
    expect(sampleOf(told, 'ukeyd_signatures_total')).toBeGreaterThanOrEqual(batches);
    expect(sampleOf(told, 'ukeyd_signature_failures_total')).toBe(0);
    expect(sampleOf(told, 'ukeyd_certificate_expiry_timestamp_seconds')).toBeGreaterThan(Date.now() / 1_000);
    expect(sampleOf(told, 'ukeyd_store_used_ratio')).toBeLessThan(1);
    expect(sampleOf(told, 'ukeyd_connections')).toBe(2);
    expect(told.filter((one) => one.name === 'ukeyd_standing' && one.value === 1).map((one) => one.labels['standing'])).toEqual([
      'issuing-online',
    ]);
    expect(told.filter((one) => one.name === 'ukeyd_standing').length).toBe(standings.length);
    expect(told.find((one) => one.name === 'ukeyd_build_info')?.labels['node']).toBe(process.version);
  });

  test('are told through the door that a reload opens, with health and readiness', { timeout: 60_000 }, async () => {
    rig.running.reload({ ...rig.config, metrics: { ...rig.config.metrics, listen: '127.0.0.1:0' } });
    await expect.poll(() => rig.running.metrics.port).not.toBeNull();
    const { port } = rig.running.metrics;
    const get = (url: string, headers: Record<string, string> = {}, method = 'GET') => ask(port ?? 0, url, headers, method);

    const metrics = await get('/metrics');
    await expect
      .poll(async () => sampleOf(read((await get('/metrics')).body), 'ukeyd_event_loop_delay_seconds', { quantile: '0.99' }))
      .toBeLessThan(10);
    expect(metrics).toMatchObject({ status: 200, type: 'text/plain; version=0.0.4; charset=utf-8' });
    expect(await get('/healthz')).toMatchObject({ status: 200 });
    expect(await get('/readyz')).toMatchObject({ status: 200 });
    await rig.admin.call('session.logout', {});
    const locked = await get('/readyz');
    expect(locked.status).toBe(503);
    expect(locked.body).toContain('main: locked');
    expect(await get('/healthz')).toMatchObject({ status: 200 });
    const whileLocked = read((await get('/metrics')).body);
    expect(sampleOf(whileLocked, 'ukeyd_standing', { standing: 'locked' })).toBe(1);
    expect(sampleOf(whileLocked, 'ukeyd_backlog_entries')).toBeUndefined();

    expect(await get('/')).toMatchObject({ status: 404 });
    expect(await get('/metrics', {}, 'POST')).toMatchObject({ status: 405 });
    expect(await get('/metrics', {}, 'HEAD')).toMatchObject({ status: 200, body: '' });
    expect(await get('/metrics', { host: 'shop.example' })).toMatchObject({ status: 403 });

    rig.running.reload(rig.config);
    await expect.poll(() => rig.running.metrics.port).toBeNull();
    await expect(get('/healthz')).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  test('that cannot be told where they shall be are no trouble of a till', { timeout: 60_000 }, async () => {
    const taken = http.createServer();
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
    const { port } = taken.address() as { port: number };
    const textfile = path.join(rig.directory, 'pin', 'ukeyd.prom'); // below a file
    rig.running.reload({ ...rig.config, metrics: { listen: `127.0.0.1:${port}`, textfile, textfile_seconds: 5 } });
    expect((await rig.till.issue(sale('k1'))).repeated).toBe(false);
    await rig.running.metrics.follow(rig.config.metrics);
    expect(rig.running.metrics.port).toBeNull();
    await new Promise((resolve) => taken.close(resolve));
  });
});

describe('in a file', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-metrics-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  test('they stand whole, and nothing else beside them', async () => {
    const textfile = path.join(folder, 'deep', 'ukeyd.prom');
    const readiness = { ready: true, text: '' };
    const parts = { clock: systemClock, log: silentLog, version: '1', readiness: () => readiness, connections: () => 7 };
    const metrics = new Metrics({ ...parts, tokens: async () => [] });
    await metrics.follow({ textfile, textfile_seconds: 5 });
    await expect.poll(() => existsSync(textfile)).toBe(true);
    expect(sampleOf(read(readFileSync(textfile, 'utf8')), 'ukeyd_connections')).toBe(7);
    await metrics.close();
    expect(existsSync(`${textfile}.new`)).toBe(false);
  });

  test('the name must be one that node_exporter reads', () => {
    mkdirSync(path.join(folder, 'x'));
    const text = '[token]\nflash = "f"\nsoft_token = "k"\n[metrics]\ntextfile = "x/ukeyd.txt"\n';
    expect(() => parseConfig(text, folder)).toThrow(expect.objectContaining({ field: 'metrics.textfile' }));
  });
});

test.each(['0.0.0.0:9464', '192.168.1.1:9464', 'localhost:9464', '127.0.0.1', '127.0.0.1:70000', '[::]:9464', '127.0.0.999:1'])(
  'nobody listens on %s',
  (listen) => {
    const text = `[token]\nflash = "f"\nsoft_token = "k"\n[metrics]\nlisten = "${listen}"\n`;
    expect(() => parseConfig(text, '/')).toThrow(expect.objectContaining({ code: 'invalid-request', field: 'metrics.listen' }));
  },
);

test('counting costs nothing that a till could notice', () => {
  const requests = new RequestCounts();
  const token = new TokenCounts();
  const rounds = 200_000;
  const kinds = ['invoice'];
  const count = (): void => {
    requests.answered('invoice.issue', null, 1.5);
    token.committed(kinds, 1.2);
  };
  for (let at = 0; at < rounds; at += 1) count();
  const sinceMs = performance.now();
  for (let at = 0; at < rounds; at += 1) count();
  const meanUs = ((performance.now() - sinceMs) * 1_000) / rounds;
  console.log(`counting_us=${meanUs.toFixed(3)} per request and batch of one`);
  expect(requests.samples()).toEqual([{ labels: { method: 'invoice.issue', code: 'ok' }, value: 2 * rounds }]);
  expect(meanUs).toBeLessThan(20); // an invoice takes hundreds; the printed figure is the measure
});

const root = path.resolve(import.meta.dirname, '../..');
test('docs/monitoring.md names every figure', () => {
  const source = readFileSync(path.join(root, 'daemon/metrics/figures.ts'), 'utf8');
  const names = [...source.matchAll(/'((?:ukeyd|process)_[a-z_]+)'/g)].map(([, name = '']) => name);
  expect(names.length).toBeGreaterThan(30);
  const text = readFileSync(path.join(root, 'docs/monitoring.md'), 'utf8');
  expect(names.filter((name) => !text.includes(`\`${name}`))).toEqual([]);
});

test('every figure of a token bears its name, and what is not known has no sample', async () => {
  const status = {
    ...{ standing: 'no-token', reason: '', action: '', token: null, store: null, templates: [], issuer: null, mode: null, budget: null },
    ...{ backlog: null, alarm: null, clock: { now: '', trusted: true, floor: null }, version: '1', usb: null },
  } as const satisfies TokenFigures['status'];
  const uploads = { probesProven: 0, probesFailed: 0, acknowledged: 0, refused: 0, failed: 0, lastContactMs: null };
  const process = {
    ...{
      version: '1',
      node: 'v24',
      nowMs: 0,
      startedMs: 0,
      residentBytes: 1,
      heapBytes: 1,
      cpuSeconds: 1,
      delaySeconds: {},
      connections: 0,
    },
    requests: new RequestCounts(),
  };
  const tokens = ['one', 'two'].map((name) => ({ name, status, uploads, counts: new TokenCounts() }));
  const told = read(expositionText(familiesOf(process, tokens)));
  expect(told.filter((one) => one.name === 'ukeyd_clock_trusted').map((one) => one.labels['token'])).toEqual(['one', 'two']);
  for (const name of [
    'ukeyd_backlog_entries',
    'ukeyd_store_used_ratio',
    'ukeyd_pin_tries_left',
    'ukeyd_link_up',
    'ukeyd_budget_used_ratio',
  ])
    expect(sampleOf(told, name), name).toBeUndefined();
});

interface Told {
  readonly status: number;
  readonly type: string;
  readonly body: string;
}

function ask(port: number, url: string, headers: Record<string, string>, method: string): Promise<Told> {
  return new Promise((resolve, reject) => {
    const request = http.request({ host: '127.0.0.1', port, path: url, method, headers, agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (part: string) => (body += part));
      response.once('end', () => resolve({ status: response.statusCode ?? 0, type: response.headers['content-type'] ?? '', body }));
    });
    request.once('error', (error) => reject(asUkeyError(error).cause ?? error));
    request.end();
  });
}
