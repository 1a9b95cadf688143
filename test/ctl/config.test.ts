// `ukeyctl config`: what a configuration comes to, without a service.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { settings } from '#ground/config.ts';
import { ctl, errorOf, jsonOf } from '#test/support/ctl.ts';

let directory: string;
let file: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'ukeyctl-config-'));
  file = join(directory, 'ukeyd.toml');
  writeFileSync(file, '[token]\nflash = "flash.img"\nsoft_token = "key.json"\n');
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

interface Row {
  readonly key: string;
  readonly value: unknown;
  readonly from: { readonly kind: string; readonly text?: string };
}

it('tells every key, its value and where it was given', async () => {
  const run = await ctl(['config', 'check', '--json', '--log-level', 'debug'], {
    env: { UKEYD_CONFIG: file, UKEYD_MIRROR_MODE: 'async' },
  });
  expect(run).toMatchObject({ status: 0, stderr: '' });
  const { settings: rows } = jsonOf(run) as unknown as { readonly settings: readonly Row[] };
  expect(rows.map((row) => row.key)).toEqual(settings.map((one) => one.key));
  const of = (key: string): Row | undefined => rows.find((row) => row.key === key);
  expect(of('token.flash')).toEqual({
    key: 'token.flash',
    value: join(directory, 'flash.img'),
    from: { kind: 'file', text: `${file}:2` },
  });
  expect(of('mirror.mode')).toMatchObject({ value: 'async', from: { kind: 'environment' } });
  expect(of('log.level')).toMatchObject({ value: 'debug', from: { kind: 'flag' } });
  expect(of('log.format')).toMatchObject({ from: { kind: 'default' } });
});

it('refuses what the service would refuse, with status 2', async () => {
  const bad = join(directory, 'bad.toml');
  writeFileSync(bad, '[token]\nflash = "flash.img"\nsoft_tokn = "key.json"\n');
  const run = await ctl(['config', 'check', '--config', bad, '--json']);
  expect(run.status).toBe(2);
  expect(errorOf(run)).toMatchObject({ code: 'invalid-request', exit: 'usage', field: 'token.soft_tokn' });
});

it('gives an example that it takes itself, once it names a token', async () => {
  const example = join(directory, 'example.toml');
  const { stdout } = await ctl(['config', 'example']);
  writeFileSync(example, stdout);
  expect(await ctl(['config', 'check', '--config', example])).toMatchObject({ status: 2 });
  writeFileSync(example, stdout.replace(/^#(?=(module|flash) = )/gm, ''));
  expect(await ctl(['config', 'check', '--config', example])).toMatchObject({ status: 0, stderr: '' });
});
