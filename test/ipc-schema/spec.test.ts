import { createHash, createHmac, createPublicKey, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type ErrorCode, errorTable, UkeyError } from '#ipc-schema/errors.ts';
import { judgeIssueError } from '#ipc-schema/issue-again.ts';
import { errorRows, methodRows, specExamples } from './spec-facts.ts';

const text = readFileSync(new URL('../../ipc-schema/SPEC.md', import.meta.url), 'utf8');
const blocks = new Map(
  [...text.matchAll(/^```(?:hex|json|text) ([\w.]+)\n(.*?)\n```$/gms)].map(([, name = '', content = '']) => [
    name,
    content.replaceAll('\n', ''),
  ]),
);
const sha256 = (...parts: readonly Uint8Array[]): string => createHash('sha256').update(Buffer.concat(parts)).digest('hex');
const bytes = (name: string): Buffer => Buffer.from(blocks.get(name) ?? '', 'hex');

describe('SPEC.md', () => {
  it('shows the examples as the vectors have them', () => {
    expect(Object.fromEntries(blocks)).toEqual(specExamples());
    for (const [name, content] of blocks) expect(content.length, name).toBeGreaterThan(20);
  });

  it('has the error table and the method table of the code, row by row', () => {
    for (const row of [...errorRows(), ...methodRows()]) expect(text.includes(`${row}\n`), `missing: ${row}`).toBe(true);
    const rows = text.split('\n').filter((line) => /^\| `[a-z-]+` \| -\d+ \|/.test(line));
    expect(rows).toHaveLength(errorRows().length - 2);
  });

  it('says of each error what is known of the invoice, as the client judges it', () => {
    const section = /^## Exactly once\n(.*?)^## /ms.exec(text)?.[1] ?? '';
    const rows = [...section.matchAll(/^\| (.*`.*) \| ([a-z ]+).* \| ([a-z ]+).* \|$/gm)];
    const words = { definite: 'not issued', repeat: 'repeat', end: 'not known' };
    const said = rows.flatMap(([, codes = '', first = '', doubted = '']) =>
      [...codes.matchAll(/`([a-z-]+)`/g)].map(([, code]) => [code, first.trim(), doubted.trim()]),
    );
    const judged = (Object.keys(errorTable) as ErrorCode[]).map((code) => {
      const error = new UkeyError(code, 'x');
      return [code, words[judgeIssueError(error, false)], words[judgeIssueError(error, true)]];
    });
    expect(said.sort()).toEqual(judged.sort());
  });

  it('has an example that works out with nothing but hashes and one signature', () => {
    const leafHash = sha256(Uint8Array.of(0), bytes('leaf'));
    expect(leafHash).toBe(blocks.get('leafHash'));
    const node = sha256(Uint8Array.of(1), bytes('leafHash'), bytes('path.0'));
    expect(sha256(Uint8Array.of(1), Buffer.from(node, 'hex'), bytes('path.1'))).toBe(blocks.get('root'));
    expect(blocks.get('path.0')).toBe(blocks.get('leafHash.1'));
    expect(blocks.get('path.1')).toBe(blocks.get('leafHash.2'));
    expect(bytes('leaf').subarray(-32).toString('hex')).toBe(sha256(Buffer.from(blocks.get('document') ?? '', 'utf8')));
    expect(blocks.get('seal.payload')).toContain(blocks.get('root') ?? '?');
    const key = createPublicKey({ key: bytes('tokenKey'), format: 'der', type: 'spki' });
    expect(verify('sha256', bytes('seal.toBeSigned'), { key, dsaEncoding: 'ieee-p1363' }, bytes('seal.signature'))).toBe(true);
    expect(blocks.get('seal.protected')).toBe(`a201260450${sha256(bytes('tokenKey')).slice(0, 32)}`);
    for (const part of ['leaf', 'path.0', 'path.1', 'seal']) expect(blocks.get('evidence'), part).toContain(blocks.get(part) ?? '?');
    const mac = (side: string): string =>
      createHmac('sha256', bytes('handshake.secret'))
        .update(`ukeyd/1 ${side}\n${blocks.get('handshake.challenge')}\n${blocks.get('handshake.nonce')}\ntill-1`)
        .digest('hex');
    expect([mac('client'), mac('server')]).toEqual([blocks.get('handshake.client'), blocks.get('handshake.server')]);
  });

  it('names only members of its contents, each with a heading', () => {
    const links = [...text.matchAll(/\]\(#([a-z-]+)\)/g)].map(([, anchor]) => anchor);
    const headings = [...text.matchAll(/^## (.+)$/gm)].map(([, title = '']) => title.toLowerCase().replaceAll(' ', '-'));
    expect(links.length).toBeGreaterThan(15);
    for (const anchor of links) expect(headings).toContain(anchor);
  });
});
