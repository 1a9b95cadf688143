// Owns: decoders with one known fault each. The fuzzing must find every one of them, or what it says about the others is worth nothing.
import { decodeLeaf, encodeLeaf } from '#ipc-schema/entry.ts';
import { exactMeaning } from './exact-json.ts';
import { decoded, type FuzzTarget, json, oneSpelling, utf8 } from './target.ts';
import { vectorsOf } from './vector-files.ts';

const frames = [{ type: 'ukey', data: { id: 1, total: 12, note: 'x' } }].map(json);

/** Never ends for one word. */
function hanging(input: Uint8Array): 'refused' {
  while (Buffer.from(input).includes('null'));
  return 'refused';
}

export const controlTargets: readonly FuzzTarget[] = [
  {
    // As node-ipc's own parser: a member is read of whatever JSON.parse gives.
    name: 'control-fault',
    form: 'text',
    seeds: frames,
    judge: (input) => {
      let value: { data: { id: unknown } };
      try {
        value = JSON.parse(Buffer.from(input).toString('utf8')) as { data: { id: unknown } };
      } catch {
        return 'refused';
      }
      return value.data.id === 1 ? 'decoded' : 'refused';
    },
  },
  {
    // As JSON.parse alone: the last of two members counts, large numbers are rounded.
    name: 'control-json',
    form: 'text',
    seeds: frames,
    judge: (input) => {
      let value: unknown;
      try {
        value = JSON.parse(Buffer.from(input).toString('utf8'));
      } catch {
        return 'refused';
      }
      exactMeaning(Buffer.from(Buffer.from(input).toString('utf8')), value);
      return 'decoded';
    },
  },
  {
    // A reader that does not look behind the end.
    name: 'control-spelling',
    form: 'cbor',
    seeds: vectorsOf('leaf.json').slice(0, 5),
    judge: (input) => {
      const longer = oneSpelling(decodeLeaf, encodeLeaf);
      const cut = input.subarray(0, -1);
      if (decoded(() => decodeLeaf(cut)) === null) return longer(input);
      return oneSpelling((bytes) => decodeLeaf(bytes.subarray(0, -1)), encodeLeaf)(input);
    },
  },
  { name: 'control-hang', form: 'text', seeds: [utf8('[1,true]')], judge: hanging },
];
