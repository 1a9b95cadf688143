// Owns: the service's programs in few files. A start of the front loads 420 modules, and finding, reading and keeping each costs more than running it.
// Invariants: a program stands where its own module stood; a module in a bundle still names its own place (`import.meta.url`), so that what is looked
// for beside it is found; equal inputs give equal bytes. Native addons, and what requires by computed names, stay packages.
// Must not: rename or shorten anything: a stack trace of a shop must be readable.
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { type Plugin, rolldown } from 'rolldown';
import { BuildError } from './tool.ts';

/** Front, holder, the front's thread and the probe of a module: each a process or a thread of its own. */
const entries = ['daemon/main', 'daemon/ctl', 'daemon/holder/child', 'daemon/holder/probing-child', 'daemon/upload/packing-thread'];
/** Packages that are loaded as such: the first two are native, the third is thousands of lines for ten lines of log. */
const outside = ['sqlite3', 'pkcs11js', 'systeminformation'];
const laterFolder = 'daemon/later';
const homeMark = '__UKEYD_HOME__';

/** `home`: compiled modules and their packages. Programs are written over their own modules, once all have been read. */
export async function bundlePrograms(home: string): Promise<void> {
  const made = await Promise.all(entries.map((entry) => bundle(home, entry)));
  for (const { fileName, text } of made.flat()) {
    if (text.includes(homeMark)) throw new BuildError(`${fileName} does not know its place`);
    const file = path.join(home, fileName);
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
}

interface Piece {
  /** From the home. */
  readonly fileName: string;
  readonly text: string;
}

/** The program itself, and what it loads only when it is needed. */
async function bundle(home: string, entry: string): Promise<readonly Piece[]> {
  const build = await rolldown({
    cwd: home,
    input: { [entry]: path.join(home, `${entry}.js`) },
    platform: 'node',
    external: outside,
    resolve: { symlinks: false },
    plugins: [ownPlaces(home)],
    onLog: (level, log) => {
      if (level === 'warn') throw new BuildError(`${entry} cannot be bundled: ${log.message}`);
    },
  });
  try {
    const { output } = await build.generate({
      ...{
        format: 'esm',
        comments: { legal: true, annotation: false, jsdoc: false },
        entryFileNames: '[name].js',
        chunkFileNames: `${laterFolder}/[name]-[hash].js`,
      },
    });
    return output.map((file) => ({ fileName: file.fileName, text: file.type === 'chunk' ? file.code : String(file.source) }));
  } finally {
    await build.close();
  }
}

/** `import.meta.url` as the module's own place, seen from wherever its text has come to stand. */
function ownPlaces(home: string): Plugin {
  return {
    name: 'own-places',
    transform: (code, id) => {
      const place = path.relative(home, id).split(path.sep).join('/');
      if (place.startsWith('..') || !code.includes('import.meta.url')) return null;
      return code.replaceAll('import.meta.url', `new URL(${homeMark} + ${JSON.stringify(place)}, import.meta.url).href`);
    },
    renderChunk: (code, { fileName }) => code.replaceAll(homeMark, JSON.stringify('../'.repeat(fileName.split('/').length - 1))),
  };
}
