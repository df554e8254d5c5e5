/** How much of an image is held in memory: a layer of a few KiB can stand for more than there is. */
import { hash } from 'node:crypto';
import { BangerError } from '../errors.ts';
import { formatSize, MIB } from '../units.ts';
import { shownPath } from './tar-header.ts';
import type { TarEntry } from './tar-reader.ts';

/** Of all layers together; what an upper one takes away counts. */
export interface TreeLimits {
  /** entries, and directories that are there only because a path leads through them */
  entries: number;
  /** `bytes` of names, targets of links, and extended attributes, of which equal ones are kept once */
  textBytes: number;
  /** parts of files with holes */
  pieces: number;
}

/** A tree at these, and what it takes to write it, needs 2 GiB of the heap; others need some of it too. */
const MOST: TreeLimits = { entries: 2_000_000, textBytes: 256 * MIB, pieces: 1_000_000 };
const HEAP_BYTES = 3072 * MIB;

/** @param heapBytes what the heap may grow to; where that is little, images must be smaller too */
export function treeLimits(heapBytes: number): TreeLimits {
  const share = Math.min(1, heapBytes / HEAP_BYTES);
  const { entries, textBytes, pieces } = MOST;
  return {
    entries: Math.floor(entries * share),
    textBytes: Math.floor(textBytes * share),
    pieces: Math.floor(pieces * share),
  };
}

const WORDS: Readonly<Record<keyof TreeLimits, (limit: number) => string>> = {
  entries: (limit) => `more than ${limit} entries, with the directories that only paths name`,
  textBytes: (limit) => `more than ${formatSize(limit)} of names, targets of links and extended attributes`,
  pieces: (limit) => `files with holes in more than ${limit} parts`,
};

/** What an attribute takes beside its name and value, in `bytes`. */
const ATTRIBUTE_BYTES = 256;

/** What is left of the limits. */
export class TreeAllowance {
  readonly #limits: TreeLimits;
  readonly #left: TreeLimits;

  constructor(limits: TreeLimits) {
    this.#limits = limits;
    this.#left = { ...limits };
  }

  /**
   * @param entry the one that needs it
   * @throws BangerError `corrupt` when it is too much
   */
  take(what: keyof TreeLimits, amount: number, { path }: Pick<TarEntry, 'path'>): void {
    this.#left[what] -= amount;
    if (this.#left[what] >= 0) return;
    const many = WORDS[what](this.#limits[what]);
    throw new BangerError('corrupt', `The image has ${many}: the entry ${shownPath(path)} is one too many.`, {
      hint: 'Make an image with less in it. For an image that has to be so large, import a file system: mke2fs -t ext4 -d DIRECTORY rootfs.ext4 20G',
    });
  }
}

/** Sets of extended attributes, each kept once: files that have any mostly have the same as others. */
export class KeptAttributes {
  readonly #allowance: TreeAllowance;
  readonly #kept = new Map<string, Map<string, Buffer>>();
  /** the one that was asked for last: entries that have theirs from a header for all of them follow each other */
  #last: { given: Map<string, Buffer>; kept: Map<string, Buffer> } | undefined;

  constructor(allowance: TreeAllowance) {
    this.#allowance = allowance;
  }

  /** @throws BangerError as `TreeAllowance.take` */
  keep(given: Map<string, Buffer>, entry: Pick<TarEntry, 'path'>): Map<string, Buffer> {
    if (this.#last?.given === given) return this.#last.kept;
    const bytes = Buffer.concat([...given].flatMap(([name, value]) => framed(name, value)));
    const key = hash('sha256', bytes, 'base64');
    let kept = this.#kept.get(key);
    if (kept === undefined) {
      this.#allowance.take('textBytes', bytes.length + given.size * ATTRIBUTE_BYTES, entry);
      kept = apart(given);
      this.#kept.set(key, kept);
    }
    this.#last = { given, kept };
    return kept;
  }
}

/** So that no two sets are the same bytes. */
function framed(name: string, value: Buffer): Buffer[] {
  const lengths = Buffer.alloc(8);
  lengths.writeUInt32LE(name.length, 0);
  lengths.writeUInt32LE(value.length, 4);
  return [lengths, Buffer.from(name, 'latin1'), value];
}

/** The same in memory of its own: small buffers share theirs with others, all of which would be kept with them. */
function apart(given: ReadonlyMap<string, Buffer>): Map<string, Buffer> {
  const own = Buffer.allocUnsafeSlow([...given.values()].reduce((sum, { length }) => sum + length, 0));
  const kept = new Map<string, Buffer>();
  let at = 0;
  for (const [name, value] of given) {
    value.copy(own, at);
    kept.set(name, own.subarray(at, at + value.length));
    at += value.length;
  }
  return kept;
}
