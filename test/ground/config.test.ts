// The configuration: its layers, their order, what is refused and how it is told, what a reload takes up.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { readCommandLine } from '#ground/command-line.ts';
import { changesBetween, type Given, inForce, loadConfig, parseConfig, settings } from '#ground/config.ts';
import { exampleText } from '#ground/config-example.ts';
import { joined, plainOf, textLayer } from '#ground/config-layers.ts';
import { settingsOf, tell } from '#ground/settings.ts';
import { asUkeyError, type UkeyError } from '#ipc-schema/errors.ts';
import { z } from '#ipc-schema/schema.ts';

const token = '[token]\nflash = "flash.img"\nsoft_token = "key.json"\n';
let folder: string;
let file: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-config-'));
  file = path.join(folder, 'ukeyd.toml');
  mkdirSync(path.join(folder, 'conf.d'));
  writeFileSync(file, token);
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const beside = (name: string, text: string): void => writeFileSync(path.join(folder, 'conf.d', name), text);

function load(environment: NodeJS.ProcessEnv = {}, args: readonly string[] = []): Given {
  const { config, flags } = readCommandLine(settings, ['--config', file, ...args]);
  return loadConfig({ file: config, environment, flags });
}

function refusal(act: () => unknown): UkeyError {
  try {
    act();
  } catch (thrown) {
    return asUkeyError(thrown);
  }
  throw new Error('nothing was refused');
}

const fromOf = (given: Given, key: string): string | undefined => inForce(given).find((one) => one.key === key)?.origin?.text;

describe('layers', () => {
  test('a later one goes before: default < file < conf.d in order < environment < flag', () => {
    const mode = (...given: Parameters<typeof load>): string => load(...given).config.tokens[0].mirror.mode;
    expect(mode()).toBe('sync');
    writeFileSync(file, `${token}[mirror]\nmode = "off"\n`);
    expect(mode()).toBe('off');
    beside('20.toml', 'mirror.mode = "async"\n');
    beside('10.toml', 'mirror.mode = "sync"\n');
    expect(mode()).toBe('async');
    expect(mode({ UKEYD_MIRROR_MODE: 'sync' })).toBe('sync');
    expect(mode({ UKEYD_MIRROR_MODE: 'sync' }, ['--mirror-mode', 'off'])).toBe('off');
  });

  test('where each value was given is told', () => {
    beside('10.toml', '# a shop\n\n[upload]\nprobe = "0 * * * *"\n');
    beside('ignored.txt', 'neither = "TOML nor read"');
    const given = load({ UKEYD_LOG_LEVEL: 'debug' }, ['--log-format=text']);
    expect(fromOf(given, 'token.flash')).toBe(`${file}:2`);
    expect(fromOf(given, 'upload.probe')).toBe(`${path.join(folder, 'conf.d/10.toml')}:4`);
    expect(fromOf(given, 'log.level')).toBe('$UKEYD_LOG_LEVEL');
    expect(fromOf(given, 'log.format')).toBe('--log-format');
    expect(fromOf(given, 'mirror.mode')).toBeUndefined();
    expect(inForce(given).map((one) => one.key)).toEqual(settings.map((one) => one.key));
  });

  test('of several tokens each value has its own line, and conf.d adds one', () => {
    writeFileSync(file, '[[token]]\nname = "one"\nissuer = "1"\nflash = "1.img"\nsoft_token = "1.json"\n[token.mirror]\nmode = "off"\n');
    beside('two.toml', '[[token]]\nname = "two"\nissuer = "2"\nflash = "2.img"\nsoft_token = "2.json"\n');
    beside('zz.toml', '[[token]]\nname = "one"\nflash = "other.img"\n[[token]]\nname = "two"\nflash_mib = 64\n');
    const given = load();
    expect(given.config.tokens.map(({ name, flash, flash_mib, mirror }) => [name, path.basename(flash), flash_mib, mirror.mode])).toEqual([
      ['one', 'other.img', 256, 'off'],
      ['two', '2.img', 64, 'sync'],
    ]);
    expect(fromOf(given, 'token[0].mirror.mode')).toBe(`${file}:7`);
    expect(fromOf(given, 'token[0].flash')).toBe(`${path.join(folder, 'conf.d/zz.toml')}:3`);
    expect(fromOf(given, 'token[1].flash_mib')).toBe(`${path.join(folder, 'conf.d/zz.toml')}:6`);
    expect(refusal(() => load({ UKEYD_TOKEN_FLASH: 'x' }))).toMatchObject({ code: 'invalid-request', field: 'token' });
    beside('zz.toml', '[[token]]\nname = "one"\n[[token]]\nname = "two"\nflsh = "x"\n');
    const unknown = refusal(load);
    expect(unknown).toMatchObject({ code: 'invalid-request', field: 'token[1].flsh' });
    expect(unknown.message).toContain('zz.toml:5');
  });

  test('every key has one name in each layer', () => {
    for (const names of [settings.map((one) => one.key), settings.map((one) => one.environment), settings.map((one) => one.flag)])
      expect(new Set(names).size).toBe(settings.length);
    expect(settings.find((one) => one.key === 'token.flash_mib')).toMatchObject({
      environment: 'UKEYD_TOKEN_FLASH_MIB',
      flag: 'token-flash-mib',
    });
  });

  test('a relative path is taken from where it was given', () => {
    const { config } = load({ UKEYD_STATE: 'here', UKEYD_TOKEN_PRESENCE: 'one,two' });
    expect(config.tokens[0].flash).toBe(path.join(folder, 'flash.img'));
    expect(config.state).toBe(path.resolve('here'));
    expect(config.tokens[0].presence).toEqual([path.resolve('one'), path.resolve('two')]);
  });

  test('the environment may name the file, and say everything', () => {
    expect(loadConfig({ environment: { UKEYD_CONFIG: file }, flags: {} }).config.tokens[0].flash).toBe(path.join(folder, 'flash.img'));
    const { config } = loadConfig({ environment: { UKEYD_TOKEN_FLASH: '/f', UKEYD_TOKEN_MODULE: '/m' }, flags: {} });
    expect(config.tokens[0]).toMatchObject({ flash: '/f', module: '/m' });
  });
});

describe('what is refused', () => {
  test.each([
    ['a misspelt key', '[mirror]\nmod = "off"\n', 'mirror.mod', ['mirror.mode', ':5']],
    ['a misspelt table', '[miror]\nmode = "off"\n', 'miror', ['mirror', ':4']],
    ['a word that is not allowed', '[mirror]\nmode = "of"\n', 'mirror.mode', ['sync, async, off', ':5']],
    ['a number out of its bounds', 'flash_mib = 3\n', 'token.flash_mib', ['from 16 to 1048576', ':4']],
    ['a list with something else in it', 'presence = ["a", 3]\n', 'token.presence[1]', ['8 paths', ':4']],
    ['no cron expression', '[upload]\nprobe = "60 * * * *"\n', 'upload.probe', ['cron', ':5']],
    ['two kinds of token', 'module = "m.so"\n', 'token.soft_token', ['module']],
    ['two places of the PIN', 'pin_file = "p"\npin_credential = "p"\n', 'token.pin_credential', [':5']],
  ])('%s, with the key, where it stands and what may stand there', (_what, text, field, told) => {
    writeFileSync(file, token + text);
    const error = refusal(load);
    expect(error).toMatchObject({ code: 'invalid-request', field });
    for (const part of told) expect(error.message).toContain(part);
    expect(error.message).toContain(file);
  });

  test('what is missing, by name', () => {
    writeFileSync(file, '[token]\nmodule = "m"\n');
    expect(refusal(load)).toMatchObject({ code: 'invalid-request', field: 'token.flash' });
    writeFileSync(file, '');
    expect(refusal(load)).toMatchObject({ code: 'invalid-request', field: 'token' });
  });

  test('what is no TOML, with its line', () => {
    beside('broken.toml', 'state = "s"\n= =\n');
    expect(refusal(load).message).toContain('broken.toml:2');
  });

  test('a file that was named and is not there', () => {
    rmSync(file);
    expect(refusal(load)).toMatchObject({ code: 'invalid-request' });
  });

  test('an unknown name of the environment, also one that would be a secret, whose value is not repeated', () => {
    expect(refusal(() => load({ UKEYD_MIROR_MODE: 'off' })).message).toContain('UKEYD_MIRROR_MODE');
    const error = refusal(() => load({ UKEYD_TOKEN_PIN: '4711471' }));
    expect(error).toMatchObject({ code: 'invalid-request', field: '$UKEYD_TOKEN_PIN' });
    expect(error.message).not.toContain('4711471');
  });

  test('an unknown flag, one without a value, and a stray word, which is not repeated', () => {
    expect(refusal(() => load({}, ['--miror-mode', 'off']))).toMatchObject({ code: 'invalid-request', field: '--miror-mode' });
    expect(refusal(() => load({}, ['--miror-mode', 'off'])).message).toContain('--mirror-mode');
    expect(refusal(() => load({}, ['--mirror-mode']))).toMatchObject({ field: '--mirror-mode' });
    expect(refusal(() => load({}, ['4711471'])).message).not.toContain('4711471');
  });

  test.each(['-p4711471', '-4711471', '--pin:4711471', '--pin-4711471', '--4711471', '--pin\n4711471', '--Pin4711471'])(
    'an unknown flag, of which no more than its letters is repeated: %j',
    (typed) => {
      const { code, message, field } = refusal(() => load({}, [typed]));
      expect(code).toBe('invalid-request');
      expect(`${message} ${field}`).not.toMatch(/\d/);
    },
  );

  test('a bad value of the environment or of a flag, by that name and without the value', () => {
    for (const error of [refusal(() => load({ UKEYD_LOG_LEVEL: 'loud' })), refusal(() => load({}, ['--log-level', 'loud']))]) {
      expect(error).toMatchObject({ code: 'invalid-request', field: 'log.level' });
      expect(error.message).not.toContain('loud');
    }
  });

  test('no key holds a secret itself', () => {
    expect(settings.filter(({ key }) => /pin|secret|password/i.test(key)).map(({ key }) => key)).toEqual([
      'token.pin_file',
      'token.pin_credential',
    ]);
  });
});

test.each(['*/15 * * * * *', '0 0 1 1 *', '5,35 8-18/2 * * MON-FRI', '0 0 3 * * 7'])('the cron expression %s is taken', (probe) => {
  expect(parseConfig(`${token}[upload]\nprobe = "${probe}"\n`, '/').upload.probe).toBe(probe);
});

test.each(['', '* * * *', '* * 24 * * *', '*/0 * * * *', '5-1 * * * *', '; * * * *'])('the cron expression "%s" is refused', (probe) => {
  expect(refusal(() => parseConfig(`${token}[upload]\nprobe = "${probe}"\n`, '/'))).toMatchObject({ field: 'upload.probe' });
});

test('a change is told by what takes it up', () => {
  const before = load();
  writeFileSync(file, `state = "s"\n${token}flash_mib = 64\n[upload]\nprobe = "0 * * * *"\n[log]\nlevel = "debug"\n`);
  const after = load();
  expect(changesBetween(before, after)).toEqual({ live: ['upload.probe', 'log.level'], later: ['state', 'token.flash_mib'] });
  expect(changesBetween(before, before)).toEqual({ live: [], later: [] });
});

describe('the example file', () => {
  const text = readFileSync(path.resolve(import.meta.dirname, '../../service-files/ukeyd.toml'), 'utf8');

  test('is fresh', () => {
    expect(text === exampleText(settings), 'service-files/ukeyd.toml is stale: run node installers/configuration.ts').toBe(true);
  });

  test('names no token as it stands, and is refused; with one it changes no default', () => {
    expect(() => parseConfig(text, '/')).toThrow(expect.objectContaining({ code: 'invalid-request', field: 'token.flash' }));
    const named = text.replace(/^#(module|flash) = .*$/gm, '$1 = "/x"');
    expect(parseConfig(named, '/')).toEqual(parseConfig('[token]\nflash = "/x"\nmodule = "/x"\n', '/'));
  });

  test('has every key, with its default, and each line of it is right', () => {
    const whole = text.replace(/^#(?=[a-z0-9_.]+ = )/gm, '');
    const lines = whole.split('\n');
    expect(lines.filter((line) => /^[a-z0-9_.]+ = /.test(line)).length).toBe(settings.length);
    writeFileSync(file, whole.replace(/^(?:pin_credential|soft_token) .*$/gm, ''));
    const given = loadConfig({ file, environment: {}, flags: {} });
    const rows = inForce(given).filter(({ key }) => key !== 'token.pin_credential' && key !== 'token.soft_token');
    for (const { key, value, origin } of rows) {
      expect(origin, key).not.toBeNull();
      const fallback = settings.find((one) => one.key === key)?.fallback;
      if (fallback !== undefined) expect(value, key).toEqual(fallback);
    }
  });
});

const listed = settingsOf(
  z.strictObject({
    token: z.strictObject({ name: tell(z.string(), { says: 'name' }), flash: tell(z.string().optional(), { says: 'flash', path: true }) }),
  }),
);

test('lists of tables are joined by name, and one table beside a list is refused', () => {
  const of = (text: string) => textLayer(listed, text, 'a.toml', '/');
  const under = of('[[token]]\nname = "one"\nflash = "/1"\n[[token]]\nname = "two"\nflash = "/2"\n');
  const both = joined(under, of('[[token]]\nname = "two"\nflash = "/3"\n[[token]]\nname = "three"\n'));
  expect(plainOf(both)).toEqual({ token: [{ name: 'one', flash: '/1' }, { name: 'two', flash: '/3' }, { name: 'three' }] });
  expect(refusal(() => joined(under, of('[token]\nflash = "/4"\n')))).toMatchObject({ code: 'invalid-request', field: 'token' });
});
