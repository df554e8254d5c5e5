/**
 * What lets VMs of host tests that are about something else begin in a tenth of the time of a boot: templates of the lean bundle,
 * made once by make-warm-start.ts and copied into the homes of tests. Their guests know the SSH key of the banger that made them,
 * so that key comes along.
 */
import { existsSync, statSync } from 'node:fs';
import { copyFile, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { contentsOf } from '../../src/control/memory/manifest.ts';
import type { TemplateRecord } from '../../src/core/template.ts';
import { openDatabase } from '../../src/state/database.ts';
import { createStores } from '../../src/state/stores.ts';
import { templateFiles } from '../../src/storage/layout.ts';
import { createRunner } from '../../src/system/runner.ts';

const BANGER = join(import.meta.dirname, '../../dist/banger');
const RECORDS = 'records.json';
const STORE = 'state/store';
const TEMPLATES = join(STORE, 'templates');
const KEYS = ['id_ed25519', 'id_ed25519.pub'];
const runner = createRunner(process.env);

/** Where it is kept below `directory`: another one for each lean bundle, and for each build, which has its own agent. */
export function warmStartOf(bundle: string, directory: string): string {
  const { size, mtimeMs } = statSync(BANGER);
  return join(directory, `warm-${basename(bundle)}-${size}-${Math.round(mtimeMs)}`);
}

/** Keeps the templates of a home whose daemon has ended, in the place of earlier ones. */
export async function keepWarmStart(home: string, bundle: string, directory: string): Promise<void> {
  const target = warmStartOf(bundle, directory);
  const part = `${target}.part`;
  for (const name of await readdir(directory)) {
    if (name.startsWith('warm-')) await rm(join(directory, name), { recursive: true });
  }
  const records = withStores(home, ({ templates }) => templates.list());
  await mkdir(part);
  await copyDirectory(join(home, TEMPLATES), join(part, 'templates'));
  for (const key of KEYS) await copyFile(join(home, 'state/ssh', key), join(part, key));
  await writeFile(join(part, RECORDS), JSON.stringify(records));
  await rename(part, target);
}

/** Gives a home that no daemon has used the templates and the key, if they have been made. */
export async function bringWarmStart(home: string, bundle: string, directory: string): Promise<void> {
  const from = warmStartOf(bundle, directory);
  if (!existsSync(from)) return;
  const records = JSON.parse(await readFile(join(from, RECORDS), 'utf8')) as TemplateRecord[];
  for (const dir of [join(home, 'state/ssh'), join(home, STORE)]) await mkdir(dir, { recursive: true, mode: 0o700 });
  for (const key of KEYS) await copyFile(join(from, key), join(home, 'state/ssh', key));
  await copyDirectory(join(from, 'templates'), join(home, TEMPLATES));
  for (const record of records) {
    const { memory, state, rootDisk, workDisk } = templateFiles(join(home, STORE), record.id);
    const files = await contentsOf([memory, state, rootDisk, ...(record.workDiskBytes > 0 ? [workDisk] : [])]);
    withStores(home, ({ templates }) => templates.insert({ ...record, files }));
  }
}

function withStores<T>(home: string, use: (stores: ReturnType<typeof createStores>) => T): T {
  const database = openDatabase(join(home, 'state/banger.db'));
  try {
    return use(createStores(database));
  } finally {
    database.close();
  }
}

async function copyDirectory(from: string, to: string): Promise<void> {
  await runner.run(['cp', '-a', '--reflink=auto', '--sparse=always', '--', from, to]);
}
