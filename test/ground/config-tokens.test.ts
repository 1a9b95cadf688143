// The configuration of one token and of several: what each gets for itself, and what may not be shared.
import { describe, expect, test } from 'vitest';
import { parseConfig } from '#ground/config.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';

const common = ['state = "s"', 'socket = "a"', 'admin_socket = "b"'];
const parse = (...lines: readonly string[]) => parseConfig([...common, ...lines].join('\n'), '/base');
const table = (name: string, ...more: readonly string[]): string[] => [
  ...['[[token]]', `name = "${name}"`, `issuer = "GB-${name}"`, `flash = "${name}.img"`],
  ...(more.some((line) => /^(soft_token|module)/.test(line)) ? [] : [`soft_token = "${name}.json"`]),
  ...more,
];

function fieldOf(...lines: readonly string[]): string {
  try {
    parse(...lines);
    return 'taken';
  } catch (thrown) {
    const { code, field } = asUkeyError(thrown);
    return `${code} ${field}`;
  }
}

describe('one token', () => {
  test('has the state folder to itself, a name, and the mirror of the service', () => {
    const { tokens } = parse('[token]', 'soft_token = "k"', 'flash = "f"', '[mirror]', 'path = "m.img"');
    expect(tokens).toEqual([
      expect.objectContaining({
        name: 'main',
        issuer: null,
        state: '/base/s',
        flash: '/base/f',
        mirror: { mode: 'sync', path: '/base/m.img' },
      }),
    ]);
  });

  test('may be written as the only one of several', () => {
    const [token] = parse('[[token]]', 'soft_token = "k"', 'flash = "f"').tokens;
    expect(token).toMatchObject({ name: 'main', issuer: null, state: '/base/s' });
  });
});

describe('several tokens', () => {
  test('have a folder each, and mirrors of their own', () => {
    const mirrors = ['[token.mirror]', 'mode = "async"', 'path = "m.img"'];
    const { tokens } = parse(...table('one', 'state = "elsewhere"'), ...table('two', ...mirrors), '[mirror]', 'mode = "off"');
    expect(tokens).toEqual([
      expect.objectContaining({ name: 'one', issuer: 'GB-one', state: '/base/elsewhere', mirror: { mode: 'off' } }),
      expect.objectContaining({ name: 'two', issuer: 'GB-two', state: '/base/s/two', mirror: { mode: 'async', path: '/base/m.img' } }),
    ]);
  });

  const shared = (line: string): string[] => [...table('one', line), ...table('two', line)];
  test.each([
    ['a name is missing', [...table('one'), '[[token]]', 'issuer = "x"', 'soft_token = "k"', 'flash = "f"'], 'token[1].name'],
    ['an issuer is missing', [...table('one'), '[[token]]', 'name = "x"', 'soft_token = "k"', 'flash = "f"'], 'token[1].issuer'],
    ['two have one name', [...table('one'), ...table('one', 'state = "x"')], 'token[1].name'],
    ['two have one state folder', shared('state = "x"'), 'token[1].state'],
    ['two have one key file', shared('soft_token = "k"'), 'token[1].soft_token'],
    [
      'two have one mirror',
      [...table('one', '[token.mirror]', 'path = "m"'), ...table('two', '[token.mirror]', 'path = "m"')],
      'token[1].mirror.path',
    ],
    ['a mirror is the FLASH of another', [...table('one'), ...table('two', '[token.mirror]', 'path = "one.img"')], 'token[1].mirror.path'],
    ['two of one module have no label', shared('module = "m.so"'), 'token[0].label'],
    [
      'one of one module has no label',
      [...table('one', 'module = "m.so"', 'label = "L"'), ...table('two', 'module = "m.so"')],
      'token[1].label',
    ],
    [
      'two have one label',
      [...table('one', 'module = "m.so"', 'label = "L"'), ...table('two', 'module = "m.so"', 'label = "L"')],
      'token[1].label',
    ],
    ['one mirror is named for all', [...table('one'), ...table('two'), '[mirror]', 'path = "m"'], 'mirror.path'],
    ['there is none', ['token = []'], 'token'],
    ['a key is unknown', [...table('one'), ...table('two', 'flsh = "x"')], 'token[1]'],
  ])('where %s it is refused', (_, lines, field) => {
    expect(fieldOf(...lines)).toMatch(new RegExp(`^invalid-request ${field.replaceAll(/[[\].]/g, '\\$&')}`));
  });
});
