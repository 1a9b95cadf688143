import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { requestDigest } from '#desk/request-digest.ts';
import { sale } from '#test/support/rig.ts';

test('neither the order of members nor how to be answered changes it', () => {
  const { key, template, lines } = sale('k');
  const digest = requestDigest({ key, template, lines });
  expect(requestDigest({ lines, template, key })).toBe(digest);
  expect(requestDigest({ key, template, lines, wait: 'acknowledged', brief: true })).toBe(digest);
  expect(requestDigest({ key, template, lines, buyer: undefined })).toBe(digest);
});

test('every content changes it', () => {
  const base = sale('k');
  const others = [
    sale('k2'),
    sale('k', { template: 'other' }),
    sale('k', { total: '35.64' }),
    sale('k', { kind: 'invoice' }),
    sale('k', { lines: [...base.lines].reverse() }),
    sale('k', { ext: { wait: 'durable' } }),
    sale('k', { ext: { a: ['1', '2'] } }),
    sale('k', { ext: { a: ['1,2'] } }),
    sale('k', { ext: { a: null } }),
    sale('k', { ext: { a: {} } }),
    sale('k', { ext: { a: [] } }),
  ];
  expect(new Set([base, ...others].map(requestDigest)).size).toBe(others.length + 1);
});

test('two JSON values have one digest exactly when they are the same value', () => {
  const property = fc.property(fc.jsonValue(), fc.jsonValue(), (a, b) => {
    expect(requestDigest({ a }) === requestDigest({ a: b })).toBe(JSON.stringify(sorted(a)) === JSON.stringify(sorted(b)));
  });
  fc.assert(property, { seed: 99, numRuns: 500 });
});

test('the members of a line stand in order, whichever it has', () => {
  const digest = (lines: unknown): string => requestDigest({ lines });
  const of = (text: string): string => createHash('sha256').update(`{"lines":${text}}`).digest('base64url');
  const line = { unitPrice: '1', taxCode: 't', sku: 's', quantity: '2', discount: '3', description: 'd' };
  expect(digest([line])).toBe(of('[{"description":"d","discount":"3","quantity":"2","sku":"s","taxCode":"t","unitPrice":"1"}]'));
  expect(digest([{ quantity: '2', discount: undefined, description: 'd' }, {}])).toBe(of('[{"description":"d","quantity":"2"},{}]'));
  expect(digest([{ sku: null, description: 'd' }])).toBe(of('[{"description":"d","sku":null}]'));
  expect(digest([{ sku: { b: '1', a: '2' }, more: 'm', description: 'd' }])).toBe(
    of('[{"description":"d","more":"m","sku":{"a":"2","b":"1"}}]'),
  );
});

test('names that an object keeps in an order of its own stand in code-unit order all the same', () => {
  const digest = (ext: unknown): string => requestDigest({ ext });
  const of = (text: string): string => createHash('sha256').update(`{"ext":${text}}`).digest('base64url');
  expect(digest({ b: '1', '10': '2', '9': '3', A: '4' })).toBe(of('{"10":"2","9":"3","A":"4","b":"1"}'));
  expect(digest(JSON.parse('{"__proto__":{"x":"1"},"a":"2"}'))).toBe(of('{"__proto__":{"x":"1"},"a":"2"}'));
  expect(digest([{ _: '1', Z: '2', é: '3', z: ['4', null, true] }])).toBe(of('[{"Z":"2","_":"1","z":["4",null,true],"é":"3"}]'));
});

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  return Object.entries(value)
    .map(([name, member]) => [name, sorted(member)])
    .sort(([a], [b]) => (String(a) < String(b) ? -1 : 1));
}
