/** The layers of src/: a new edge is a decision made in this table. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { describe, it } from 'node:test';

const root = resolve(import.meta.dirname, '..');

/** Room → rooms it may import; every room may import `errors`, `units` and `version`. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  core: [],
  api: [],
  system: [],
  config: ['core', 'system'],
  state: ['core', 'api', 'system'],
  firecracker: ['core', 'system'],
  network: ['core', 'system'],
  storage: ['core', 'system'],
  bundle: ['core', 'system'],
  dns: ['core', 'system'],
  guest: ['core', 'system'],
  image: ['core', 'system'],
  oci: ['core', 'system'],
  preflight: ['core', 'system', 'config', 'firecracker', 'network', 'storage', 'bundle', 'dns', 'guest'],
  nethelper: ['core', 'system', 'network'],
  control: [
    'api',
    'core',
    'system',
    'config',
    'state',
    'firecracker',
    'network',
    'storage',
    'bundle',
    'dns',
    'guest',
    'image',
    'oci',
    'preflight',
  ],
  daemon: [
    'api',
    'core',
    'system',
    'config',
    'state',
    'firecracker',
    'network',
    'storage',
    'bundle',
    'dns',
    'guest',
    'image',
    'oci',
    'preflight',
    'control',
  ],
  client: ['api', 'system'],
  cli: ['api', 'client', 'config', 'system'],
};

/** A wing of control/: what the other wings may import of it, and the wings it may import. */
interface Wing {
  doors: readonly string[];
  mayImport: readonly string[];
}

/** From the ground up; the files beside the wings are for all of them and import none. */
const WINGS: Record<string, Wing> = {
  bundles: { doors: ['access', 'boot-files', 'support'], mayImport: [] },
  store: { doors: ['init', 'space'], mayImport: [] },
  network: { doors: ['guest-resolver'], mayImport: [] },
  disks: { doors: ['disk-work', 'keep', 'online-growth'], mayImport: [] },
  memory: { doors: ['checkpoint', 'fit', 'manifest', 'restore', 'share', 'templates'], mayImport: [] },
  images: {
    doors: ['catalogue', 'dpkg-status', 'export', 'guest-files', 'hold', 'import', 'oci-record', 'pull', 'sources'],
    mayImport: ['bundles', 'memory'],
  },
  vm: {
    doors: [
      'awaken',
      'load-template',
      'standby',
      'guest-clock',
      'identity',
      'life',
      'boot',
      'copy-moment',
      'create',
      'discard-memory',
      'pause',
      'free-disks',
      'limits',
      'problem',
      'rebase',
      'release',
      'run-end',
      'start-as-new',
      'suspend',
      'temporary',
      'trash',
      'wake',
    ],
    mayImport: ['bundles', 'store', 'network', 'disks', 'memory', 'images'],
  },
  snapshots: { doors: ['memory', 'restore'], mayImport: ['bundles', 'store', 'disks', 'memory', 'images', 'vm'] },
  stats: { doors: [], mayImport: ['images', 'vm'] },
  builds: { doors: ['build-vm', 'kept-vm'], mayImport: ['bundles', 'store', 'network', 'memory', 'images', 'vm'] },
  warm: { doors: [], mayImport: ['images', 'bundles', 'store', 'disks', 'memory', 'vm', 'builds'] },
  upkeep: { doors: [], mayImport: ['store', 'disks', 'memory', 'images', 'vm', 'snapshots', 'builds'] },
};

const SHARED = new Set(['errors.ts', 'units.ts', 'version.ts']);
const MAY_START_PROCESSES = ['system', 'firecracker', 'cli'];

function sources(directory: string): string[] {
  return readdirSync(join(root, directory), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => join(directory, name));
}

/** Module specifiers of static and dynamic imports. */
function importsOf(file: string): string[] {
  const text = readFileSync(join(root, file), 'utf8');
  return [...text.matchAll(/(?:from|import)\s*\(?\s*['"]([^'"]+)['"]/g)].map((match) => match[1] ?? '');
}

/** Files of ours that a file imports, as paths from the root. */
function filesImportedBy(file: string): string[] {
  const own = importsOf(file).filter((name) => name.startsWith('.'));
  return own.map((name) => relative(root, resolve(dirname(join(root, file)), name)));
}

/** First folder below src/, or the file itself for the shared ones. */
function roomOf(path: string): string {
  return relative(join(root, 'src'), path).split('/')[0] ?? '';
}

describe('layers', () => {
  it('each room imports only what the table allows', () => {
    const wrong: string[] = [];
    for (const file of sources('src')) {
      const room = roomOf(join(root, file));
      if (SHARED.has(room)) continue;
      const allowed = MAY_IMPORT[room];
      assert.ok(allowed, `${file} is in a room that the table does not know`);
      for (const specifier of importsOf(file).filter((name) => name.startsWith('.'))) {
        const target = resolve(dirname(join(root, file)), specifier);
        if (!target.startsWith(join(root, 'src'))) {
          if (!target.endsWith('package.json')) wrong.push(`${file} imports ${specifier}, which is outside of src/`);
          continue;
        }
        const other = roomOf(target);
        if (other !== room && !SHARED.has(other) && !allowed.includes(other))
          wrong.push(`${file} imports ${specifier}`);
      }
    }
    assert.deepEqual(wrong, []);
  });

  it('each wing of control/ imports doors of lower wings, and nothing else of them', () => {
    const wrong: string[] = [];
    const used = new Set<string>();
    const wingOf = (file: string) => /^src\/control\/([^/]+)\//.exec(file)?.[1];
    for (const file of sources('src/control')) {
      const wing = wingOf(file);
      for (const target of filesImportedBy(file)) {
        const other = wingOf(target);
        if (other === undefined || other === wing) continue;
        const door = `${other}/${basename(target, '.ts')}`;
        used.add(door);
        if (wing === undefined || !WINGS[wing]?.mayImport.includes(other)) wrong.push(`${file} imports ${target}`);
        else if (!WINGS[other]?.doors.includes(basename(target, '.ts'))) wrong.push(`${file}: ${target} is no door`);
      }
    }
    assert.deepEqual(wrong, []);
    const doors = Object.entries(WINGS).flatMap(([wing, { doors: names }]) => names.map((name) => `${wing}/${name}`));
    assert.deepEqual([...used].sort(), doors.sort(), 'every door is used');
    const order = Object.keys(WINGS);
    for (const [wing, { mayImport }] of Object.entries(WINGS)) {
      for (const other of mayImport) assert.ok(order.indexOf(other) < order.indexOf(wing), `${wing} is above ${other}`);
    }
  });

  it('no file imports itself through others, not even for a type', () => {
    const graph = new Map([...sources('src'), ...sources('fcqemu')].map((file) => [file, filesImportedBy(file)]));
    const done = new Set<string>();
    const circles: string[] = [];
    const follow = (file: string, path: string[]) => {
      if (path.includes(file)) circles.push([...path.slice(path.indexOf(file)), file].join(' → '));
      if (path.includes(file) || done.has(file)) return;
      for (const other of graph.get(file) ?? []) follow(other, [...path, file]);
      done.add(file);
    };
    for (const file of graph.keys()) follow(file, []);
    assert.deepEqual(circles, []);
  });

  it('core imports no Node module', () => {
    const wrong = sources('src/core').filter((file) => importsOf(file).some((name) => name.startsWith('node:')));
    assert.deepEqual(wrong, []);
  });

  it('child_process is imported in system, firecracker and cli only', () => {
    const wrong = sources('src').filter(
      (file) =>
        importsOf(file).some((name) => /^(node:)?child_process$/.test(name)) &&
        !MAY_START_PROCESSES.includes(roomOf(join(root, file))),
    );
    assert.deepEqual(wrong, []);
  });

  it('the C library has one door', () => {
    const doors = sources('src').filter((file) => importsOf(file).includes('node:ffi'));
    assert.deepEqual(doors, ['src/system/libc.ts']);
  });

  it('no program is started through a shell', () => {
    const shell = /\bshell:\s*(true|['"])|(?<![.\w])exec(Sync)?\(\s*[`'"]|['"](\/bin\/)?(ba)?sh['"]\s*,\s*\[?['"]-c/;
    const wrong = [...sources('src'), ...sources('fcqemu')].filter((file) =>
      shell.test(readFileSync(join(root, file), 'utf8')),
    );
    assert.deepEqual(wrong, []);
  });

  it('fcqemu takes nothing from the control plane but the API types', () => {
    const wrong: string[] = [];
    for (const file of sources('fcqemu')) {
      for (const specifier of importsOf(file).filter((name) => name.startsWith('.'))) {
        const target = relative(root, resolve(dirname(join(root, file)), specifier));
        if (target.startsWith('src/') && target !== 'src/firecracker/api-types.ts')
          wrong.push(`${file} imports ${specifier}`);
      }
    }
    assert.deepEqual(wrong, []);
  });

  it('the control plane takes nothing from fcqemu', () => {
    const wrong = sources('src').filter((file) => importsOf(file).some((name) => name.includes('fcqemu/')));
    assert.deepEqual(wrong, []);
  });
});
