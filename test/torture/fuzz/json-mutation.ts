// Owns: mutations of JSON, TOML and CSV by their words: one more, one less, elsewhere, another, or spelled otherwise. What comes out is often JSON
// again, with other members, other types, or the same meaning in another spelling.
// Must not: parse: a reader would repair what is wanted here.
import type { Chance } from './chance.ts';

/** A string, a number, a word, one mark, or a run of blanks. */
const words = /"(?:\\.|[^"\\])*"|-?\d[\d.eE+-]*|[A-Za-z_][\w.-]*|\s+|[\s\S]/gu;

const numbers = [
  '0',
  '-0',
  '1',
  '-1',
  '1e0',
  '1.0',
  '01',
  '0.1',
  '9007199254740991',
  '9007199254740992',
  '9007199254740993',
  '1e400',
  '1e-400',
  '1e21',
  '0.30000000000000004',
].concat(['0.1000000000000000055', '5e-324', 'NaN', '-', '100000000000000000000']);
const texts = [
  '""',
  '"__proto__"',
  '"constructor"',
  '"\\ud800"',
  '"\\udc00\\ud800"',
  '"\\u0000"',
  '"\\u202e"',
  '"\u2028"',
  '"\\u0061"',
  '"é"',
  '"e\u0301"',
  '"\u{1f600}"',
].concat([
  '"-0"',
  '"0"',
  '"1e3"',
  '"00"',
  '"9999-12-31T23:59:59.999Z"',
  '"2026-02-30T00:00:00Z"',
  '"AA=="',
  '"AB=="',
  `"${'x'.repeat(300)}"`,
  '" "',
  '"\ufeff"',
  '"\\t"',
]);
const others = [
  'null',
  'true',
  'false',
  '{}',
  '[]',
  '[[[[[[[[[[',
  '{"a":1}',
  ',',
  ':',
  '{',
  '}',
  '[',
  ']',
  ' ',
  '\t',
  '\u00a0',
  '\ufeff',
  '"',
  "'",
  '\\',
  '/**/',
  '\f',
  '\r\n',
  '=',
  '#',
];

const escaped = (text: string, at: number): string =>
  `${text.slice(0, at)}\\u${text.charCodeAt(at).toString(16).padStart(4, '0')}${text.slice(at + 1)}`;

/** The same text or another one, in another spelling. */
function respelled(word: string, chance: Chance): string {
  if (word.startsWith('"') && word.length > 2) {
    const at = 1 + chance.upTo(word.length - 2);
    if (chance.happens(0.4)) return word.slice(1, -1).includes('\\') ? chance.one(texts) : escaped(word, at);
    if (chance.happens(0.5)) return `${word.slice(0, at)}${word.slice(at + 1)}`;
    return chance.one(texts);
  }
  if (/^-?\d/.test(word))
    return chance.happens(0.5) ? chance.one(numbers) : chance.one([`${word}.0`, `${word}e0`, `0${word}`, `-${word}`, `${word}0`]);
  return chance.one(others);
}

/** A member, with its comma: from one mark to the next at about the same place. */
function member(list: readonly string[], from: number): string[] {
  let to = from;
  while (to < list.length && list[to] !== ',' && list[to] !== '}' && list[to] !== ']' && to - from < 40) to += 1;
  return list.slice(from, to);
}

export function mutateText(input: Uint8Array, chance: Chance): Buffer {
  const list = Buffer.from(input).toString('utf8').match(words) ?? [''];
  const at = chance.upTo(list.length);
  const word = list[at] ?? '';
  const drawn = (): string => chance.one(chance.one([numbers, texts, others]));
  switch (chance.upTo(8)) {
    case 0:
      list.splice(at, 1);
      break;
    case 1:
      list.splice(at, 0, drawn());
      break;
    case 2:
      list[at] = drawn();
      break;
    case 3: {
      const whole = member(list, at);
      list.splice(at, 0, ...whole, ',');
      break;
    }
    case 4: {
      const other = chance.upTo(list.length);
      list[at] = list[other] ?? '';
      list[other] = word;
      break;
    }
    case 5:
      list.splice(at, member(list, at).length);
      break;
    default:
      list[at] = respelled(word, chance);
  }
  return Buffer.from(list.join(''), 'utf8');
}

/** Any value in a text: what stands behind a colon, a comma or a bracket and is no key. */
const values = /"(?:\\.|[^"\\])*"(?!\s*:)|-?\d[\d.eE+-]*|true|false|null/gu;
const wholeValues = ['null', 'true', '{}', '[]', '[[1]]', '{"a":1}'];

/** Another value in the place of one, or the same in another spelling: what was JSON is JSON still. */
export function mutateValue(input: Uint8Array, chance: Chance): Buffer {
  const text = Buffer.from(input).toString('utf8');
  const found = [...text.matchAll(values)];
  if (found.length === 0) return Buffer.from(input);
  const { 0: word, index } = chance.one(found);
  const isText = word.startsWith('"') && word.length > 2 && !word.includes('\\');
  const next =
    isText && chance.happens(0.4)
      ? escaped(word, 1 + chance.upTo(word.length - 2))
      : chance.one(chance.one([texts, texts, numbers, wholeValues]));
  return Buffer.from(text.slice(0, index) + next + text.slice(index + word.length), 'utf8');
}
