// The five laws of the house, kept by reading every source file (ARCHITECTURE.md, "The house").
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';

const root = path.resolve(import.meta.dirname, '..');
const programs = ['daemon', 'ipc-schema', 'server'] as const;

interface Source {
  /** From the root, as `daemon/ipc/serve.ts`. */
  readonly file: string;
  readonly text: string;
  readonly imports: readonly string[];
}

const importPattern =
  /(?:^|\n)\s*(?:import|export)\s[^'"]*?from\s+['"]([^'"]+)['"]|(?:^|\n)\s*import\s+['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]\s*\)/g;

const sources: readonly Source[] = programs.flatMap((folder) =>
  readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts'))
    .map((name) => {
      const file = path.posix.join(folder, name.split(path.sep).join('/'));
      const text = readFileSync(path.join(root, file), 'utf8');
      const imports = [...text.matchAll(importPattern)].map((match) => match[1] ?? match[2] ?? match[3] ?? '');
      return { file, text, imports };
    }),
);

const packageFile = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
  readonly imports: Readonly<Record<string, string>>;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly devDependencies: Readonly<Record<string, string>>;
};

/** `#room/x.ts` and `./x.ts` as a path from the root; null for packages and Node's own modules. */
function targetOf(source: Source, specifier: string): string | null {
  if (specifier.startsWith('.')) return path.posix.join(path.posix.dirname(source.file), specifier);
  if (!specifier.startsWith('#')) return null;
  const [alias, ...rest] = specifier.split('/');
  const target = packageFile.imports[`${alias}/*`];
  if (target === undefined) throw new Error(`${source.file} imports ${specifier}, which package.json does not know`);
  return path.posix.join(target.replace('/*', ''), rest.join('/'));
}

/** `daemon/ledger`, `ipc-schema`, `server`, or `daemon` for the files directly in it. */
function roomOf(file: string): string {
  const [program = '', room = ''] = file.split('/');
  return program === 'daemon' && !room.endsWith('.ts') ? `daemon/${room}` : program;
}

function packageOf(specifier: string): string {
  return specifier.startsWith('@') ? specifier.split('/').slice(0, 2).join('/') : (specifier.split('/')[0] ?? '');
}

test('the house was really read', () => {
  expect(sources.length).toBeGreaterThan(100);
  for (const room of [
    'daemon/token',
    'daemon/store',
    'daemon/holder',
    'daemon/ledger',
    'daemon/upload',
    'daemon/ipc',
    'daemon/desk',
    'daemon/metrics',
    'daemon/ctl',
    'ipc-schema',
    'server',
  ]) {
    expect(sources.filter((source) => roomOf(source.file) === room).length, room).toBeGreaterThan(2);
  }
  expect(sources.flatMap((source) => source.imports).length).toBeGreaterThan(500);
});

describe('law 1: the contract is pure', () => {
  const contract = sources.filter((source) => source.file.startsWith('ipc-schema/'));
  const doers = [
    'node:fs',
    'node:fs/promises',
    'node:net',
    'node:http',
    'node:https',
    'node:tls',
    'node:dgram',
    'node:child_process',
    'node:worker_threads',
    'node:timers/promises',
  ];

  test('it imports nobody in the house', () => {
    const strangers = contract.flatMap((source) =>
      source.imports
        .map((specifier) => targetOf(source, specifier))
        .filter((target) => target !== null && !target.startsWith('ipc-schema/')),
    );
    expect(strangers).toEqual([]);
  });

  test('only client.ts opens a socket, and nothing else does I/O', () => {
    const doing = contract.flatMap((source) =>
      source.imports.filter((specifier) => doers.includes(specifier)).map((specifier) => `${source.file} ${specifier}`),
    );
    expect(doing).toEqual(['ipc-schema/client.ts node:net']);
  });

  test('it reads no clock', () => {
    const clocks = contract.filter(
      (source) => source.file !== 'ipc-schema/client.ts' && /\bDate\.now\(|\bnew Date\(\)|\bperformance\.now\(/.test(source.text),
    );
    expect(clocks.map((source) => source.file)).toEqual([]);
  });
});

describe('law 2: one package, one door', () => {
  test('each package is imported in one file per program', () => {
    const doors = new Map<string, Set<string>>();
    for (const source of sources) {
      for (const specifier of source.imports) {
        if (specifier.startsWith('.') || specifier.startsWith('#') || specifier.startsWith('node:')) continue;
        const key = `${source.file.split('/')[0]} ${packageOf(specifier)}`;
        doors.set(key, (doors.get(key) ?? new Set()).add(source.file));
      }
    }
    const crowded = [...doors].filter(([, files]) => files.size > 1).map(([key, files]) => `${key}: ${[...files].join(', ')}`);
    expect(crowded).toEqual([]);
  });

  test("the owner's packages stand at their doors", () => {
    const doorOf = (name: string): string[] =>
      sources.filter((source) => source.imports.some((specifier) => packageOf(specifier) === name)).map((source) => source.file);
    expect(doorOf('node-ipc')).toEqual(['daemon/ipc/listen.ts']);
    expect(doorOf('pkcs11js')).toEqual(['daemon/token/pkcs11.ts']);
    expect(doorOf('sqlite3')).toEqual(['daemon/ledger/lookup.ts']);
    expect(doorOf('node-cron')).toEqual(['daemon/upload/timetable.ts']);
    expect(doorOf('systeminformation')).toEqual(['daemon/ground/machine.ts']);
    expect(doorOf('winston')).toEqual(['daemon/ground/log.ts']);
    expect(doorOf('pg')).toEqual(['server/database-postgres.ts']);
    expect(sources.filter((source) => source.imports.includes('node:sqlite')).map((source) => source.file)).toEqual([
      'server/database-sqlite.ts',
      'server/sqlite-locks.ts',
    ]);
  });

  test('what Node brings is imported, where the other laws see it, but for one that costs too much so', () => {
    expect(sources.filter((source) => source.text.includes('getBuiltinModule')).map((source) => source.file)).toEqual([
      'daemon/metrics/door.ts',
    ]);
  });

  test('every dependency is pinned and used, and node-ipc is the one that is safe', () => {
    for (const [name, version] of Object.entries({ ...packageFile.dependencies, ...packageFile.devDependencies })) {
      expect(version, name).toMatch(/^\d+\.\d+\.\d+$/);
    }
    expect(packageFile.dependencies['node-ipc']).toBe('14.0.0');
    const used = new Set(sources.flatMap((source) => source.imports.map(packageOf)));
    expect(Object.keys(packageFile.dependencies).filter((name) => name !== 'node' && !used.has(name))).toEqual([]);
  });
});

describe('law 3: rooms know downwards only', () => {
  const mayKnow: Readonly<Record<string, readonly string[]>> = {
    'ipc-schema': [],
    'daemon/ground': ['ipc-schema'],
    'daemon/token': ['daemon/ground', 'ipc-schema'],
    'daemon/store': ['daemon/ground', 'ipc-schema'],
    'daemon/ipc': ['daemon/ground', 'ipc-schema'],
    'daemon/holder': ['daemon/token', 'daemon/store', 'daemon/ground', 'ipc-schema'],
    'daemon/ledger': ['daemon/holder', 'daemon/ground', 'ipc-schema'],
    'daemon/upload': ['daemon/ledger', 'daemon/holder', 'daemon/ground', 'ipc-schema'],
    'daemon/desk': ['daemon/upload', 'daemon/ledger', 'daemon/holder', 'daemon/ground', 'ipc-schema'],
    'daemon/metrics': ['daemon/ground', 'ipc-schema'],
    'daemon/ctl': ['daemon/ground', 'ipc-schema'],
    server: ['ipc-schema'],
  };
  /** What one file alone may know besides (ARCHITECTURE.md says why). */
  const exceptions: Readonly<Record<string, readonly string[]>> = {
    'daemon/ctl/token-probe.ts': ['daemon/holder'],
    'daemon/ctl/verify-store.ts': ['daemon/holder'],
    'daemon/ctl/store-info.ts': ['daemon/store'],
    'daemon/ctl/world/verify-world.ts': ['daemon/holder'],
    'daemon/ctl.ts': ['daemon/ctl', 'daemon/ground', 'ipc-schema'],
    'daemon/main.ts': ['daemon', 'daemon/ground', 'ipc-schema'],
    'daemon/watchdog.ts': ['daemon/ground', 'ipc-schema'],
  };

  test('no file imports upwards or sideways', () => {
    const breaches = sources.flatMap((source) => {
      if (['daemon/compose.ts', 'daemon/place.ts', 'daemon/errands.ts'].includes(source.file)) return [];
      const room = roomOf(source.file);
      const known = new Set([room, ...(mayKnow[room] ?? []), ...(exceptions[source.file] ?? [])]);
      const targets = source.imports.map((specifier) => targetOf(source, specifier)).filter((target) => target !== null);
      return targets.filter((target) => !known.has(roomOf(target))).map((target) => `${source.file} -> ${target}`);
    });
    expect(breaches).toEqual([]);
  });

  test('what stands above the holder knows only its interface', () => {
    const above = sources.filter((source) => ['daemon/ledger', 'daemon/upload', 'daemon/desk'].includes(roomOf(source.file)));
    const deeper = above.flatMap((source) =>
      source.imports
        .map((specifier) => targetOf(source, specifier))
        .filter((target) => target?.startsWith('daemon/holder/') && target !== 'daemon/holder/holder.ts'),
    );
    expect(deeper).toEqual([]);
  });

  test('no default exports, no event buses', () => {
    const bad = sources.filter((source) => /\bexport default\b|\bEventEmitter\b|from 'node:events'/.test(source.text));
    expect(bad.map((source) => source.file)).toEqual([]);
  });
});

describe('law 4: one place commits', () => {
  test('only the ledger calls holder.commit', () => {
    const callers = sources.filter((source) => /\bholder\??\.commit\b/.test(source.text) && !source.file.startsWith('daemon/holder/'));
    expect(callers.map((source) => source.file)).toEqual(['daemon/ledger/sequencer.ts']);
  });

  test('nobody else takes hold of it under another name', () => {
    const named = /\{[^{}=]*\bcommit\b[^{}=]*\}\s*=|(?<![#\w])(?<!this\.)\.commit\b|\['commit'\]/;
    const others = sources.filter((source) => !/^daemon\/(holder|ledger)\//.test(source.file) && named.test(source.text));
    expect(others.map((source) => source.file)).toEqual([]);
  });
});

describe('law 5: deciders are pure', () => {
  /** Whoever says in the head of a file that it is pure is taken at their word; these must be, whatever their heads say. */
  const mustBe = [
    'daemon/token/login.ts',
    'daemon/token/ckr.ts',
    'daemon/store/recover.ts',
    'daemon/store/format.ts',
    'daemon/ledger/tip.ts',
    'daemon/ledger/certificate-term.ts',
    'daemon/ledger/keeping.ts',
    'daemon/ledger/limits.ts',
    'daemon/ledger/standing.ts',
    'daemon/ledger/numbering.ts',
    'daemon/upload/probe.ts',
    'daemon/desk/draft.ts',
    'daemon/metrics/exposition.ts',
    'daemon/metrics/figures.ts',
  ];
  const sayThatTheyAre = sources.filter(({ text }) => /\b[Pp]ure\b/.test(headOf(text))).map(({ file }) => file);

  test.each([...new Set([...mustBe, ...sayThatTheyAre])])('%s reads no clock, draws no chance, does no I/O and never waits', (file) => {
    const source = sources.find((each) => each.file === file);
    expect(source, `${file} is gone: name its successor here`).toBeDefined();
    expect(source?.text).not.toMatch(
      /\bDate\.now\(|\bnew Date\(\)|\bperformance\.now\(|\bMath\.random\(|\brandomBytes\b|\bawait\b|\bsetTimeout\b/,
    );
    expect(source?.imports.filter((specifier) => /^node:(fs|net|https?|tls|child_process|worker_threads)/.test(specifier))).toEqual([]);
  });
});

/** The comment that a file begins with. */
function headOf(text: string): string {
  return /^(?:#![^\n]*\n)?((?:\/\/[^\n]*\n)*)/.exec(text)?.[1] ?? '';
}

describe('style', () => {
  test('every file says first what it owns', () => {
    const silent = sources.filter((source) => !/^(#![^\n]*\n)?\/\/ \S/.test(source.text));
    expect(silent.map((source) => source.file)).toEqual([]);
  });

  test('file names are nouns in kebab-case, and none of the empty ones', () => {
    const bad = sources.filter(
      (source) =>
        !/^[a-z0-9]+(-[a-z0-9]+)*\.ts$/.test(path.posix.basename(source.file)) ||
        /(^|\/|-)(utils?|helpers?|manager|service|common|misc)\.ts$/.test(source.file),
    );
    expect(bad.map((source) => source.file)).toEqual([]);
  });

  test('what is imported can be read off the file', () => {
    const hidden = sources.filter((source) => /\bcreateRequire\b|\bimport\(\s*(?!['"])/.test(source.text));
    expect(hidden.map((source) => source.file)).toEqual([]);
  });

  test('a docstring stands before what it describes, on a line of its own or at the beginning of one', () => {
    const behind = sources.filter((source) => /^.*\S.*\/\*\*.*\*\/;/m.test(source.text));
    expect(behind.map((source) => source.file)).toEqual([]);
  });

  test('no file grows past 400 lines', () => {
    const long = sources.filter((source) => source.text.split('\n').length > 401);
    expect(long.map((source) => `${source.file}: ${source.text.split('\n').length}`)).toEqual([]);
  });
});
