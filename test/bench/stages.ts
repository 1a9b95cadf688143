// Owns: from a CPU profile to the stages of an invoice's route, by the file (and function) in which the time was spent.
// Invariants: pure; time in Node itself or in native code counts for whoever called it; nothing is left out: what fits no rule is `other`.

/** As the inspector's Profiler.stop gives it. */
export interface Profile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string };
    readonly children?: readonly number[];
  }[];
  readonly samples?: readonly number[];
  /** Microseconds before each sample. */
  readonly timeDeltas?: readonly number[];
}

/** In the order of the route. */
export const stageNames = [
  'sockets',
  'frame',
  'schema',
  'template',
  'ledger',
  'encode',
  'channel',
  'sign',
  'verify',
  'seal',
  'sync',
  'index',
  'reply',
  'upload',
  'log',
  'garbage',
  'instruments',
  'other',
  'idle',
] as const;
export type Stage = (typeof stageNames)[number];

interface Rule {
  readonly file: RegExp;
  readonly call?: RegExp;
  readonly stage: Stage;
}

/** The first that fits. */
const rules: readonly Rule[] = [
  { file: /test\/bench\//, stage: 'instruments' },
  { file: /ipc-schema\/envelope\.ts$/, call: /^encode/, stage: 'reply' },
  { file: /daemon\/ipc\/|ipc-schema\/(frame-cutter|json|envelope)\.ts$|node_modules\/node-ipc\//, stage: 'frame' },
  { file: /ipc-schema\/schema\.ts$|node_modules\/zod\//, stage: 'schema' },
  {
    file: /daemon\/desk\/(draft|request-digest)\.ts$|ipc-schema\/(totals|money|template)\.ts$|node_modules\/decimal\.js\//,
    stage: 'template',
  },
  { file: /daemon\/desk\/|ipc-schema\/evidence\.ts$/, stage: 'reply' },
  { file: /ledger\/(lookup|ledger-index|catch-up)\.ts$|node_modules\/sqlite3\//, stage: 'index' },
  { file: /daemon\/ledger\//, stage: 'ledger' },
  { file: /daemon\/upload\/|node_modules\/hpke\//, stage: 'upload' },
  { file: /daemon\/ground\/log\.ts$|node_modules\/(winston|logform)/, stage: 'log' },
  { file: /holder\/(parent|link|messages|child-loop|child|lane|turns)\.ts$/, stage: 'channel' },
  { file: /token\/public-key\.ts$/, stage: 'verify' },
  { file: /daemon\/token\/|node_modules\/pkcs11js\//, stage: 'sign' },
  { file: /daemon\/store\/(device|mirror)/, stage: 'sync' },
  { file: /daemon\/(store|holder)\//, stage: 'seal' },
  { file: /ipc-schema\//, stage: 'encode' },
];

function stageOf(url: string, call: string, ofCaller: Stage): Stage {
  if (call === '(idle)') return 'idle';
  if (call === '(garbage collector)') return 'garbage';
  if (call === '(program)') return 'sockets'; // native code outside any call: the loop, and the kernel's part of sockets
  const path = url.replaceAll('\\', '/');
  const rule = rules.find(({ file, call: named }) => file.test(path) && (named === undefined || named.test(call)));
  if (rule !== undefined) return rule.stage;
  return path === '' || path.startsWith('node:') ? ofCaller : 'other';
}

/** Milliseconds by stage. */
export function stagesOf(profile: Profile): Readonly<Record<Stage, number>> {
  const totals = Object.fromEntries(stageNames.map((stage) => [stage, 0])) as Record<Stage, number>;
  const nodes = new Map(profile.nodes.map((node) => [node.id, node]));
  const stages = new Map<number, Stage>();
  const children = new Set(profile.nodes.flatMap((node) => node.children ?? []));
  const open = profile.nodes.filter((node) => !children.has(node.id)).map((node) => ({ node, ofCaller: 'sockets' as Stage }));
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { functionName, url } = next.node.callFrame;
    const stage = stageOf(url, functionName, next.ofCaller);
    stages.set(next.node.id, stage);
    for (const child of next.node.children ?? []) {
      const node = nodes.get(child);
      if (node !== undefined) open.push({ node, ofCaller: stage });
    }
  }
  for (const [at, id] of (profile.samples ?? []).entries())
    totals[stages.get(id) ?? 'other'] += Math.max(0, profile.timeDeltas?.[at] ?? 0) / 1_000;
  return totals;
}
