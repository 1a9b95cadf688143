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

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  return Object.entries(value)
    .map(([name, member]) => [name, sorted(member)])
    .sort(([a], [b]) => (String(a) < String(b) ? -1 : 1));
}
