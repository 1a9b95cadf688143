import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type ErrorCode, type ErrorRule, errorTable, isErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import { commonErrors, isMethodName, type Method, methods, roles } from '#ipc-schema/methods.ts';
import { openrpcDocument, openrpcText } from '#ipc-schema/openrpc.ts';
import { check } from '#ipc-schema/schema.ts';
import { refusal } from '#test/support/refusal.ts';

const table = Object.entries(methods) as [string, Method][];
const codes = Object.keys(errorTable) as ErrorCode[];

describe('the error table', () => {
  it('holds the codes of the contract and no other', () => {
    const contract = `invalid-request unknown-method unauthenticated forbidden busy too-large invalid-invoice template-unknown template-expired
      key-reused not-found limit-hours limit-count limit-amount limit-single limit-deadline range-exhausted credit-exceeds offline locked
      pin-incorrect pin-last-try pin-locked no-token token-failed store-full clock-untrusted halted unknown-outcome internal`;
    expect(codes).toEqual(contract.split(/\s+/));
  });

  it.each(Object.entries(errorTable) as [ErrorCode, ErrorRule][])(
    'says of %s whose fault it is, whether to repeat and what to do',
    (code, rule) => {
      expect(isErrorCode(code)).toBe(true);
      expect(rule.action).toMatch(/^[A-Z].{10,}[^ ]\.$/);
      expect(['caller', 'operator', 'limit', 'device', 'service']).toContain(rule.fault);
      expect(['never', 'same-key', 'after-ms', 'after-action']).toContain(rule.retry);
      const error = new UkeyError(code, 'what happened');
      expect(error.toData()).toEqual({ code, retry: rule.retry, action: rule.action });
    },
  );

  it('gives each code a number of its own, in the ranges of JSON-RPC 2.0', () => {
    const numbers = codes.map((code) => errorTable[code].rpcCode);
    expect(new Set(numbers).size).toBe(numbers.length);
    for (const number of numbers)
      expect((number <= -32_000 && number >= -32_099) || [-32_601, -32_602, -32_603].includes(number)).toBe(true);
  });

  it('keeps what happened, why, and the field', () => {
    const cause = new Error('below');
    const error = new UkeyError('invalid-invoice', 'x', { field: 'lines[0]', retryAfterMs: 5, action: 'Do.', cause });
    expect(error.toData()).toEqual({ code: 'invalid-invoice', field: 'lines[0]', retry: 'never', retryAfterMs: 5, action: 'Do.' });
    expect(error.cause).toBe(cause);
  });

  it('knows no code by accident', () => {
    for (const name of ['toString', '__proto__', 'constructor', '', 5, null, undefined]) expect(isErrorCode(name)).toBe(false);
  });
});

describe('the method table', () => {
  it('has methods', () => {
    expect(table.length).toBeGreaterThan(10);
    for (const name of [
      'hello',
      'authenticate',
      'invoice.issue',
      'invoice.preview',
      'invoice.get',
      'invoice.last',
      'session.login',
      'session.logout',
      'session.changePin',
      'session.unblock',
      'backlog.status',
      'service.status',
      'events.subscribe',
    ])
      expect(isMethodName(name), name).toBe(true);
    for (const name of ['toString', '__proto__', '']) expect(isMethodName(name)).toBe(false);
  });

  it.each(table)('%s names roles, errors of the table, each once, and a summary', (_, method) => {
    expect(method.summary).toMatch(/^[A-Z].*\.$/);
    expect(method.roles.length).toBeGreaterThan(0);
    for (const role of method.roles) expect(roles).toContain(role);
    const errors = [...commonErrors, ...method.errors];
    expect(new Set(errors).size).toBe(errors.length);
    for (const code of errors) expect(isErrorCode(code), code).toBe(true);
  });

  it('uses every code of the error table somewhere', () => {
    const used = new Set<string>([...commonErrors, ...table.flatMap(([, method]) => method.errors)]);
    expect(codes.filter((code) => !used.has(code))).toEqual([]);
  });

  it.each(table)('%s refuses an unknown field by its name, and what is no object', (_, method) => {
    refusal(() => check(method.params, null));
    refusal(() => check(method.params, []));
    refusal(() => check(method.params, 'x'));
    const alone = refusal(() => check(method.params, { unheardOf: 1 }));
    expect(alone.field).toBeDefined();
  });

  it.each([
    ['hello', { version: 1, client: 'acme-pos/4.2' }],
    ['authenticate', { terminal: 'till-1', nonce: 'ab'.repeat(32), mac: 'cd'.repeat(32) }],
    ['invoice.get', { key: 'sale-1' }],
    ['invoice.get', { number: 'A000001' }],
    ['invoice.get', { sequence: 5 }],
    ['invoice.last', {}],
    ['session.login', { pin: '1234' }],
    ['session.login', { pin: '1234', useLastTry: true }],
    ['backlog.status', {}],
    ['events.subscribe', {}],
    ['events.subscribe', { events: ['link'] }],
    ['terminal.enrol', { terminal: 'till-1', role: 'till' }],
  ] as const)('%s takes %j, and not with one field more', (name, params) => {
    const method: Method = methods[name];
    expect(check(method.params, params)).toEqual(params);
    expect(refusal(() => check(method.params, { ...params, unheardOf: 1 })).field).toBe('unheardOf');
  });

  it.each([
    ['hello', { version: 2, client: 'x' }, 'version'],
    ['hello', { version: 1, client: 'a\u0007' }, 'client'],
    ['authenticate', { terminal: 'till-1', nonce: 'AB'.repeat(32), mac: 'cd'.repeat(32) }, 'nonce'],
    ['authenticate', { terminal: 'till-1', nonce: `${'ab'.repeat(31)}a\n`, mac: 'cd'.repeat(32) }, 'nonce'],
    ['authenticate', { terminal: 'till 1', nonce: 'ab'.repeat(32), mac: 'cd'.repeat(32) }, 'terminal'],
    ['invoice.get', { sequence: 0 }, 'sequence'],
    ['invoice.get', { sequence: '5' }, 'sequence'],
    ['invoice.get', { key: 'a', sequence: 5 }, undefined],
    ['invoice.get', {}, undefined],
    ['invoice.get', { number: 'A1', key: 'a', sequence: 5 }, undefined],
    ['invoice.get', { number: 'A1', colour: 'red' }, 'colour'],
    ['events.subscribe', { events: ['all'] }, 'events[0]'],
    ['session.login', { pin: 1234 }, 'pin'],
    ['terminal.enrol', { terminal: 'till-1', role: 'admin' }, 'role'],
  ] as const)('%s refuses %j by the field %s', (name, params, field) => {
    const method: Method = methods[name];
    expect(refusal(() => check(method.params, params)).field).toBe(field);
  });

  it('never shows a PIN in a refusal', () => {
    const method: Method = methods['session.login'];
    const error = refusal(() => check(method.params, { pin: '98765'.repeat(20), useLastTry: '98765' }));
    expect(JSON.stringify(error.toData()) + error.message + String(error.stack)).not.toContain('98765');
  });
});

describe('openrpc.json', () => {
  const document = openrpcDocument() as {
    openrpc: string;
    methods: { name: string; params: { name: string; required: boolean }[]; errors: { $ref: string }[]; 'x-roles': string[] }[];
    components: { errors: Record<string, { code: number; data: { code: string } }>; schemas: Record<string, unknown> };
  };

  it('is fresh', () => {
    const file = readFileSync(new URL('../../ipc-schema/openrpc.json', import.meta.url), 'utf8');
    expect(file === openrpcText(), 'openrpc.json is stale: run node installers/openrpc.ts').toBe(true);
  });

  it('tells every method with its roles, and every error once', () => {
    expect(document.methods.map((method) => method.name)).toEqual(table.map(([name]) => name));
    for (const { name, 'x-roles': allowed } of document.methods) expect(allowed).toEqual(isMethodName(name) ? methods[name].roles : []);
    expect(Object.keys(document.components.errors)).toEqual(codes);
    for (const [code, error] of Object.entries(document.components.errors)) expect(error).toMatchObject({ data: { code } });
  });

  it('has no reference that leads nowhere', () => {
    const references = [...JSON.stringify(document).matchAll(/"\$ref":"([^"]+)"/g)].map(([, target]) => target ?? '');
    expect(references.length).toBeGreaterThan(20);
    for (const target of references) {
      const [root, ...parts] = target.split('/');
      expect(root).toBe('#');
      const found = parts.reduce<unknown>((at, part) => (at as Record<string, unknown> | undefined)?.[part], document);
      expect(found, target).toBeDefined();
    }
  });

  it('lists parameters by name, required where they are', () => {
    const find = (name: string) => document.methods.find((method) => method.name === name)?.params.map((one) => [one.name, one.required]);
    expect(find('hello')).toEqual([
      ['version', true],
      ['client', true],
    ]);
    expect(find('invoice.get')).toEqual([
      ['key', false],
      ['token', false],
      ['issuer', false],
      ['number', false],
      ['sequence', false],
    ]);
    expect(find('terminal.list')).toEqual([]);
    expect(
      find('invoice.issue')
        ?.filter(([, required]) => required)
        .map(([name]) => name),
    ).toEqual(['key', 'template', 'lines']);
  });
});
