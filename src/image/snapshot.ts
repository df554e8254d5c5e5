/**
 * The files a recipe names, copied and hashed in one reading before the build begins: what is edited meanwhile
 * does not mix into it, and what goes into a layer's key is what goes into the guest.
 */
import { createHash } from 'node:crypto';
import { constants, createWriteStream, type Stats } from 'node:fs';
import { glob, lstat, mkdir, open, readdir, readFile, readlink, stat } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { BangerError, messageOf, systemCode } from '../errors.ts';
import { throwIfCancelled } from '../system/abort.ts';
import type { FileEntry } from './recipe.ts';
import { GLOB, realSource } from './recipe-wall.ts';
import type { ArchiveItem } from './tar-stream.ts';

export interface Snapshot {
  items: ArchiveItem[];
  /** what the items are, without times and places on the host */
  digest: string;
}

export interface SnapshotOptions {
  /** directory that relative sources begin at */
  base: string;
  /** directory for the copies; made when something is copied */
  target: string;
  /** directory that sources must lie in, links followed; undefined for anywhere on the host */
  within?: string | undefined;
  signal?: AbortSignal;
}

/** More than any recipe copies on purpose; a loop of mounts ends here. */
const MAX_ITEMS = 200_000;

/**
 * @throws BangerError `not_found` for a source that is missing or a glob that matches nothing
 * @throws BangerError `invalid_input` for a loop of links, a device, or a target that is no directory for several files
 */
export async function snapshotFiles(entries: readonly FileEntry[], options: SnapshotOptions): Promise<Snapshot> {
  const taker = new Taker(options);
  for (const entry of entries) {
    const sources = await findSources(entry.source, options.base);
    const many = GLOB.test(entry.source) || entry.target.endsWith('/');
    for (const found of sources) {
      const facts = await follow(found, entry.source);
      const source = await realSource(found, entry.source, options.within);
      const target = entry.target.replace(/(?<!\/)\/+$/, '');
      const place =
        many && !(facts.isDirectory() && !GLOB.test(entry.source)) ? `${target}/${basename(found)}` : target;
      await taker.take(source, place, entry, facts, entry.source);
    }
  }
  return taker.snapshot();
}

/** The content of one directory, owned by root, at a place in the guest. */
export async function snapshotTree(directory: string, target: string, options: SnapshotOptions): Promise<Snapshot> {
  const named = resolve(options.base, directory);
  const facts = await follow(named, directory);
  const source = await realSource(named, directory, options.within);
  if (!facts.isDirectory()) {
    throw new BangerError('invalid_input', `work_disk_seed: ${directory} is no directory.`);
  }
  const taker = new Taker(options);
  // the directory itself keeps the owner and mode it has in the guest
  await taker.takeContent(source, target, { owner: 'root:root' }, directory);
  return taker.snapshot();
}

/** A program that is run in the guest, read once: a text as a rule. */
export async function readScript(script: string, base: string, within?: string): Promise<Buffer> {
  const named = resolve(base, script);
  await follow(named, script);
  const path = await realSource(named, script, within);
  const content = await readFile(path).catch((error) => {
    throw unreadable(error, path, script);
  });
  const [, interpreter] = /^#!([^\r\n]*)\r\n/.exec(content.toString('latin1')) ?? [];
  if (interpreter === undefined) return content;
  throw new BangerError(
    'invalid_input',
    `The script ${script} has the line ends of Windows: there is no interpreter "${interpreter}\\r".`,
    { hint: `Convert it: sed -i 's/\\r$//' ${path}` },
  );
}

class Taker {
  readonly #options: SnapshotOptions;
  readonly #items: ArchiveItem[] = [];
  readonly #hash = createHash('sha256');
  #copied = 0;

  constructor(options: SnapshotOptions) {
    this.#options = options;
  }

  snapshot(): Snapshot {
    return { items: this.#items, digest: this.#hash.digest('hex') };
  }

  async take(
    source: string,
    target: string,
    entry: Pick<FileEntry, 'owner' | 'mode'>,
    facts: Stats,
    named: string,
  ): Promise<void> {
    throwIfCancelled(this.#options.signal);
    if (this.#items.length >= MAX_ITEMS) {
      throw new BangerError('invalid_input', `files: ${named} holds more than ${MAX_ITEMS} files.`);
    }
    const [user = 'root', group = user] = entry.owner.split(':');
    const mode = entry.mode === undefined ? facts.mode & 0o7777 : Number.parseInt(entry.mode, 8);
    const common = { path: target.replace(/^\/+/, ''), user, group, mtime: facts.mtime };
    if (facts.isDirectory()) {
      // a directory that can be listed needs its x where a file has r
      const open = entry.mode === undefined ? mode : mode | ((mode & 0o444) >> 2);
      if (common.path !== '') this.#add({ ...common, kind: 'directory', mode: open, size: 0 }, '');
      await this.takeContent(source, target, entry, named);
    } else if (facts.isSymbolicLink()) {
      const linkTarget = await readlink(source);
      this.#add({ ...common, kind: 'link', mode: 0o777, size: 0, linkTarget }, linkTarget);
    } else if (facts.isFile()) {
      const copy = join(this.#options.target, String(this.#copied++));
      const { digest, size } = await copyHashed(source, copy, this.#options).catch((error) => {
        throw unreadable(error, source, named);
      });
      this.#add({ ...common, kind: 'file', mode, size, source: copy }, digest);
    } else {
      throw new BangerError('invalid_input', `files: ${source} is neither a file nor a directory nor a link.`, {
        hint: `See what it is: ls -ld ${source}   and leave it out, e.g. by naming files one by one.`,
      });
    }
  }

  async takeContent(
    directory: string,
    target: string,
    entry: Pick<FileEntry, 'owner' | 'mode'>,
    named: string,
  ): Promise<void> {
    const names = await readdir(directory).catch((error) => {
      throw unreadable(error, directory, named);
    });
    for (const name of names.sort()) {
      const path = join(directory, name);
      await this.take(path, `${target}/${name}`, entry, await this.#look(path, named), named);
    }
  }

  /** Links inside of directories stay links; one that leads round in circles is a mistake nobody wants in an image. */
  async #look(path: string, named: string): Promise<Stats> {
    const facts = await lstat(path).catch((error) => {
      throw unreadable(error, path, named);
    });
    if (facts.isSymbolicLink()) {
      await stat(path).catch((error) => {
        if (systemCode(error) === 'ELOOP') throw loopError(path, named);
      });
    }
    return facts;
  }

  #add(item: ArchiveItem, content: string): void {
    this.#items.push(item);
    const { kind, mode, user, group, path } = item;
    this.#hash.update(`${JSON.stringify([kind, mode, user, group, path, content])}\n`);
  }
}

async function findSources(source: string, base: string): Promise<string[]> {
  if (!GLOB.test(source)) return [resolve(base, source)];
  const found: string[] = [];
  for await (const match of glob(source, { cwd: base })) found.push(isAbsolute(match) ? match : resolve(base, match));
  if (found.length > 0) return found.sort();
  throw new BangerError('not_found', `files: nothing matches ${source} in ${base}.`, {
    hint: 'Relative sources begin where the recipe lies.',
  });
}

async function follow(path: string, named: string): Promise<Stats> {
  try {
    return await stat(path);
  } catch (error) {
    if (systemCode(error) === 'ELOOP') throw loopError(path, named);
    if (systemCode(error) === 'ENOENT') {
      throw new BangerError('not_found', `The recipe names ${named}, and there is no ${path}.`, {
        cause: error,
        hint: 'Relative sources begin where the recipe lies.',
      });
    }
    throw unreadable(error, path, named);
  }
}

/** A file that cannot be read, as a person is told of it; other failures are what they are. */
function unreadable(error: unknown, path: string, named: string): unknown {
  const from = path.endsWith(named) ? '' : ` (from ${named})`;
  const fail = (how: string, hint: string) =>
    new BangerError('invalid_input', `The recipe names ${path}${from}, ${how}.`, { cause: error, hint });
  switch (systemCode(error)) {
    case 'EACCES':
    case 'EPERM':
      return fail('which the daemon may not read', `See who may: ls -ld ${path}`);
    case 'EIO':
      return fail(
        'which cannot be read: its file system reports an error',
        `See what it says: cat ${path} > /dev/null`,
      );
    case 'EISDIR':
      return fail('which is a directory', 'Name a file.');
    case 'ENOTDIR':
    case 'ENAMETOOLONG':
      return fail(`which cannot be read: ${messageOf(error)}`, `See what it is: ls -ld ${path}`);
    case 'ENOENT':
      if (path.includes('\uFFFD'))
        return fail('whose name is no UTF-8', `Give it another name: ls -b ${dirname(path)}`);
      return fail('which disappeared while it was read', 'Build again when nothing changes the files any more.');
    default:
      return error;
  }
}

function loopError(path: string, named: string): BangerError {
  return new BangerError('invalid_input', `files: ${path} is a link that leads round in a circle (from ${named}).`, {
    hint: `See where it leads: readlink ${path}`,
  });
}

async function copyHashed(
  source: string,
  copy: string,
  { target, within, signal }: SnapshotOptions,
): Promise<{ digest: string; size: number }> {
  await mkdir(target, { recursive: true, mode: 0o700 });
  const hash = createHash('sha256');
  let size = 0;
  const tap = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      size += chunk.length;
      done(null, chunk);
    },
  });
  const options = signal ? { signal } : {};
  // it was no link when it was looked at
  const input = await open(
    source,
    within === undefined ? constants.O_RDONLY : constants.O_RDONLY | constants.O_NOFOLLOW,
  );
  await pipeline(input.createReadStream(), tap, createWriteStream(copy, { mode: 0o600 }), options);
  return { digest: hash.digest('hex'), size };
}
