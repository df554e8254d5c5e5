/**
 * Lays layers over each other: the tree of files that an image stands for. Paths never leave the tree, whatever they say: they are
 * looked up in it alone. Whiteouts as the image specification of OCI has them (layer.md).
 */
import { type FileNode, newDirectory } from '../core/file-tree.ts';
import { BangerError } from '../errors.ts';
import type { TarEntry } from './tar-reader.ts';

type Directory = FileNode & { children: Map<string, FileNode> };

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';
/** What the layers of aufs kept for themselves. */
const AUFS = '.wh..wh.';
const MAX_LINKS = 40;
const MAX_NAME_BYTES = 255;
/** A file has at most so many names in ext4. */
const MAX_NAMES = 65_000;

export class LayerMerge {
  readonly root: Directory = newDirectory(-1);
  #layer = -1;
  readonly #names = new Map<FileNode, number>();
  /** entries that were left out, each with why */
  readonly leftOut: string[] = [];

  /** What comes next is of the next layer. */
  beginLayer(): void {
    this.#layer += 1;
  }

  /** @throws BangerError `corrupt` for an entry that can have no place in the tree */
  add(entry: TarEntry): void {
    const names = cleanPath(entry.path);
    const name = names.pop();
    if (name === undefined) {
      if (entry.kind === 'directory') this.#setRoot(entry);
      return;
    }
    if (Buffer.byteLength(name, 'latin1') > MAX_NAME_BYTES)
      throw refused(entry, 'a name of it is longer than 255 bytes');
    if (name === OPAQUE) {
      const directory = this.#find(names);
      if (directory) this.#removeLower(directory);
      return;
    }
    if (name.startsWith(AUFS)) return;
    if (name.startsWith(WHITEOUT)) {
      this.#whiteOut(names, name.slice(WHITEOUT.length), entry);
      return;
    }
    const parent = this.#enter(names, entry);
    this.#place(parent, name, entry);
  }

  #setRoot(entry: TarEntry): void {
    Object.assign(this.root, attributesOf(entry), { layer: this.#layer });
    if (entry.xattrs === undefined) delete this.root.xattrs;
  }

  #place(parent: Directory, name: string, entry: TarEntry): void {
    const there = parent.children.get(name);
    if (entry.kind === 'hardlink') {
      const target = this.#targetOf(entry);
      if (target === there) return;
      const count = (this.#names.get(target) ?? 1) + 1;
      if (count > MAX_NAMES) throw refused(entry, `its file has more than ${MAX_NAMES} names`);
      this.#names.set(target, count);
      parent.children.set(name, target);
      return;
    }
    const attributes = { ...attributesOf(entry), layer: this.#layer };
    if (entry.kind === 'directory') {
      if (there?.children) {
        delete there.xattrs;
        Object.assign(there, attributes);
      } else parent.children.set(name, { kind: 'directory', size: 0, children: new Map(), ...attributes });
      return;
    }
    parent.children.set(name, {
      kind: entry.kind,
      ...attributes,
      size: entry.kind === 'file' ? entry.size : 0,
      ...(entry.kind === 'file' && entry.size > 0 ? { source: { layer: this.#layer, entry: entry.index } } : {}),
      ...(entry.pieces === undefined ? {} : { pieces: entry.pieces }),
      ...(entry.kind === 'link' ? { target: linkTarget(entry) } : {}),
      ...(entry.device === undefined ? {} : { device: entry.device }),
    });
  }

  /** A hard link names what earlier entries have put there, in this layer or one below. */
  #targetOf(entry: TarEntry): FileNode {
    const names = cleanPath(entry.target);
    const last = names.pop();
    const target = last === undefined ? undefined : this.#find(names)?.children.get(last);
    if (target === undefined) throw refused(entry, `it is a hard link to ${shown(entry.target)}, which is not there`);
    if (target.kind === 'directory') throw refused(entry, `it is a hard link to the directory ${shown(entry.target)}`);
    return target;
  }

  #whiteOut(names: string[], victim: string, entry: TarEntry): void {
    if (victim === '' || victim === '.' || victim === '..') throw refused(entry, 'it takes away what has no name');
    const directory = this.#find(names);
    const there = directory?.children.get(victim);
    if (!directory || !there) return;
    if (there.children && this.#holdsOfThis(there as Directory)) this.#removeLower(there as Directory);
    else if (there.layer < this.#layer) directory.children.delete(victim);
  }

  /** Takes away what layers below have put there, and keeps what this one has. */
  #removeLower(directory: Directory): void {
    for (const [name, child] of directory.children) {
      if (child.children && this.#holdsOfThis(child as Directory)) this.#removeLower(child as Directory);
      else if (child.layer < this.#layer) directory.children.delete(name);
    }
  }

  #holdsOfThis(directory: Directory): boolean {
    const waiting = [directory];
    for (let next = waiting.pop(); next; next = waiting.pop()) {
      if (next.layer === this.#layer) return true;
      for (const child of next.children.values()) {
        if (child.layer === this.#layer) return true;
        if (child.children) waiting.push(child as Directory);
      }
    }
    return false;
  }

  /** The directory of that name; undefined when there is none. Links on the way are followed inside of the tree. */
  #find(names: readonly string[]): Directory | undefined {
    return this.#walk(names, () => undefined);
  }

  /** The same, made where it is missing; what is no directory makes way for one, as it does when layers are unpacked. */
  #enter(names: readonly string[], entry: TarEntry): Directory {
    const found = this.#walk(names, (parent, name, there) => {
      if (there?.kind === 'link') throw refused(entry, `it goes through the link ${shown(name)}, which leads nowhere`);
      const made = newDirectory(this.#layer);
      parent.children.set(name, made);
      return made;
    });
    if (!found) throw refused(entry, 'it goes through links that lead nowhere');
    return found;
  }

  #walk(
    names: readonly string[],
    otherwise: (parent: Directory, name: string, there: FileNode | undefined) => Directory | undefined,
  ): Directory | undefined {
    const path: Directory[] = [this.root];
    const left = [...names].reverse();
    let links = 0;
    for (let name = left.pop(); name !== undefined; name = left.pop()) {
      const here = path.at(-1) as Directory;
      if (name === '' || name === '.') continue;
      if (name === '..') {
        // above the root is the root
        if (path.length > 1) path.pop();
        continue;
      }
      const there = here.children.get(name);
      if (there?.kind === 'link') {
        links += 1;
        if (links > MAX_LINKS) return otherwise(here, name, there);
        const target = there.target ?? '';
        if (target.startsWith('/')) path.length = 1;
        left.push(...target.split('/').reverse());
        continue;
      }
      const next = there?.children ? (there as Directory) : otherwise(here, name, there);
      if (!next) return undefined;
      path.push(next);
    }
    return path.at(-1);
  }
}

/** What is at a path in a finished tree, links followed; undefined when nothing is. */
export function lookUp(root: FileNode, path: string): FileNode | undefined {
  const stack: FileNode[] = [root];
  const left = path.split('/').reverse();
  let links = 0;
  for (let name = left.pop(); name !== undefined; name = left.pop()) {
    if (name === '' || name === '.') continue;
    if (name === '..') {
      if (stack.length > 1) stack.pop();
      continue;
    }
    const there = stack.at(-1)?.children?.get(name);
    if (there === undefined) return undefined;
    if (there.kind !== 'link') {
      stack.push(there);
      continue;
    }
    links += 1;
    if (links > MAX_LINKS) return undefined;
    const target = there.target ?? '';
    if (target.startsWith('/')) stack.length = 1;
    left.push(...target.split('/').reverse());
  }
  return stack.at(-1);
}

function attributesOf({ mode, uid, gid, mtime, xattrs }: TarEntry): Pick<FileNode, 'mode' | 'uid' | 'gid' | 'mtime'> {
  return { mode, uid, gid, mtime, ...(xattrs === undefined ? {} : { xattrs }) };
}

/** The names a path is made of; `..` takes one back and never out, as if the path began at the root. */
function cleanPath(path: string): string[] {
  const names: string[] = [];
  for (const name of path.split('/')) {
    if (name === '' || name === '.') continue;
    if (name === '..') names.pop();
    else names.push(name);
  }
  return names;
}

function linkTarget(entry: TarEntry): string {
  if (entry.target === '') throw refused(entry, 'it is a link to nothing');
  return entry.target;
}

function refused({ path }: TarEntry, why: string): BangerError {
  return new BangerError('corrupt', `The entry ${shown(path)} cannot be unpacked: ${why}.`);
}

function shown(path: string): string {
  const text = Buffer.from(path, 'latin1').toString('utf8');
  return JSON.stringify(text.length > 120 ? `${text.slice(0, 120)}…` : text);
}
