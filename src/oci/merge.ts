/**
 * Lays layers over each other: the tree of files that an image stands for. Paths never leave the tree, whatever they say: they are
 * looked up in it alone. Whiteouts as the image specification of OCI has them (layer.md).
 */
import { type FileNode, newDirectory } from '../core/file-tree.ts';
import { BangerError } from '../errors.ts';
import { shownPath } from './tar-header.ts';
import type { TarEntry } from './tar-reader.ts';
import { KeptAttributes, TreeAllowance, type TreeLimits } from './tree-limits.ts';

type Directory = FileNode & {
  children: Map<string, FileNode>;
  /** the layer that took away all that others below had put there */
  clearedBy?: number;
};

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';
/** What the layers of aufs kept for themselves. */
const AUFS = '.wh..wh.';
const MAX_LINKS = 40;
/** Names on the way to a place, those of the links on it included; a path has no more than 2,048. */
const MAX_STEPS = 4096;
/** Directories in each other; Linux takes no path that leads deeper. */
const MAX_DEPTH = 2048;
const MAX_NAME_BYTES = 255;
/** A file has at most so many names in ext4. */
const MAX_NAMES = 65_000;

export class LayerMerge {
  readonly root: Directory = newDirectory(-1);
  #layer = -1;
  readonly #names = new Map<FileNode, number>();
  readonly #allowance: TreeAllowance;
  readonly #attributes: KeptAttributes;

  constructor(limits: TreeLimits) {
    this.#allowance = new TreeAllowance(limits);
    this.#attributes = new KeptAttributes(this.#allowance);
  }

  /** What comes next is of the next layer. */
  beginLayer(): void {
    this.#layer += 1;
  }

  /** @throws BangerError `corrupt` for an entry that can have no place in the tree, or one too many */
  add(entry: TarEntry): void {
    this.#allowance.take('entries', 1, entry);
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
      if (directory) this.#clear(directory);
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
    delete this.root.xattrs;
    Object.assign(this.root, this.#attributesOf(entry), { layer: this.#layer });
  }

  #place(parent: Directory, name: string, entry: TarEntry): void {
    const there = parent.children.get(name);
    this.#allowance.take('textBytes', name.length, entry);
    if (entry.kind === 'hardlink') {
      const target = this.#targetOf(entry);
      if (target === there) return;
      const count = (this.#names.get(target) ?? 1) + 1;
      if (count > MAX_NAMES) throw refused(entry, `its file has more than ${MAX_NAMES} names`);
      this.#names.set(target, count);
      parent.children.set(name, target);
      return;
    }
    const attributes = { ...this.#attributesOf(entry), layer: this.#layer };
    if (entry.kind === 'directory') {
      if (there?.children) {
        delete there.xattrs;
        Object.assign(there, attributes);
      } else parent.children.set(name, { kind: 'directory', size: 0, children: new Map(), ...attributes });
      return;
    }
    if (entry.pieces) this.#allowance.take('pieces', entry.pieces.length, entry);
    if (entry.kind === 'link') this.#allowance.take('textBytes', entry.target.length, entry);
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
    if (target === undefined)
      throw refused(entry, `it is a hard link to ${shownPath(entry.target)}, which is not there`);
    if (target.kind === 'directory')
      throw refused(entry, `it is a hard link to the directory ${shownPath(entry.target)}`);
    return target;
  }

  #whiteOut(names: string[], victim: string, entry: TarEntry): void {
    if (victim === '' || victim === '.' || victim === '..') throw refused(entry, 'it takes away what has no name');
    const directory = this.#find(names);
    const there = directory?.children.get(victim);
    if (!directory || !there) return;
    if (!this.#isOfThis(there)) directory.children.delete(victim);
  }

  /**
   * Takes away what layers below have put there, and keeps what this one has. Each directory is gone through once in a layer: a
   * layer may say it of all of them, and of each as often as it likes.
   */
  #clear(directory: Directory): void {
    if (directory.clearedBy === this.#layer) return;
    directory.clearedBy = this.#layer;
    for (const [name, child] of directory.children) if (!this.#isOfThis(child)) directory.children.delete(name);
  }

  /** Whether this layer has put it there, or something into it, which is all that is in it then. */
  #isOfThis(node: FileNode): boolean {
    // no deeper than MAX_DEPTH
    if (node.children) this.#clear(node as Directory);
    return node.layer === this.#layer || (node.children?.size ?? 0) > 0;
  }

  /** The directory of that name; undefined when there is none. Links on the way are followed inside of the tree. */
  #find(names: readonly string[]): Directory | undefined {
    return this.#walk(names, () => undefined)?.at(-1);
  }

  /** The same, made where it is missing; what is no directory makes way for one, as it does when layers are unpacked. */
  #enter(names: readonly string[], entry: TarEntry): Directory {
    const way = this.#walk(names, (parent, name, there) => {
      if (there?.kind === 'link')
        throw refused(entry, `it goes through the link ${shownPath(name)}, which leads nowhere`);
      if (name.length > MAX_NAME_BYTES) throw refused(entry, 'a name of it is longer than 255 bytes');
      this.#allowance.take('entries', 1, entry);
      this.#allowance.take('textBytes', name.length, entry);
      const made = newDirectory(this.#layer);
      parent.children.set(name, made);
      return made;
    });
    const found = way?.at(-1);
    if (!way || !found) throw refused(entry, 'it goes through links that lead nowhere');
    if (way.length > MAX_DEPTH) throw refused(entry, `it lies in more than ${MAX_DEPTH} directories`);
    return found;
  }

  /** The directories on the way to a place, from the root on, and last the place itself. */
  #walk(
    names: readonly string[],
    otherwise: (parent: Directory, name: string, there: FileNode | undefined) => Directory | undefined,
  ): Directory[] | undefined {
    const path: Directory[] = [this.root];
    const left = [...names].reverse();
    let links = 0;
    let steps = left.length;
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
        const target = there.target ?? '';
        const further = target.split('/').reverse();
        links += 1;
        steps += further.length;
        if (links > MAX_LINKS || steps > MAX_STEPS) {
          otherwise(here, name, there);
          return undefined;
        }
        if (target.startsWith('/')) path.length = 1;
        left.push(...further);
        continue;
      }
      const next = there?.children ? (there as Directory) : otherwise(here, name, there);
      if (!next) return undefined;
      path.push(next);
    }
    return path;
  }

  #attributesOf(entry: TarEntry): Pick<FileNode, 'mode' | 'uid' | 'gid' | 'mtime' | 'xattrs'> {
    const { mode, uid, gid, mtime, xattrs } = entry;
    return { mode, uid, gid, mtime, ...(xattrs === undefined ? {} : { xattrs: this.#attributes.keep(xattrs, entry) }) };
  }
}

/** What is at a path in a finished tree, links followed; undefined when nothing is. */
export function lookUp(root: FileNode, path: string): FileNode | undefined {
  const stack: FileNode[] = [root];
  const left = path.split('/').reverse();
  let links = 0;
  let steps = 0;
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
    const target = there.target ?? '';
    const further = target.split('/').reverse();
    links += 1;
    steps += further.length;
    if (links > MAX_LINKS || steps > MAX_STEPS) return undefined;
    if (target.startsWith('/')) stack.length = 1;
    left.push(...further);
  }
  return stack.at(-1);
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
  return new BangerError('corrupt', `The entry ${shownPath(path)} cannot be unpacked: ${why}.`);
}
