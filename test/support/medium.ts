/**
 * What of the files below a directory a power cut would take. Told by inode, so that a file may be renamed: bytes are safe when the
 * file was synced after they were written, a name when the file or its directory was synced after it was given. Syncing anything makes
 * the directories safe that lead to it, as in a file system with a journal. What guests write is for them to sync.
 */
import { fstatSync, readlinkSync, statSync } from 'node:fs';
import { dirname, relative } from 'node:path';

export interface Medium {
  /** A file was written, and made if it was not there. */
  wrote(path: string, by?: 'host' | 'guest'): void;
  /** Something got this name. */
  named(path: string): void;
  /** What is open was synced. */
  synced(fd: number): void;
  /** What a power cut would take of the bytes of a file, in words; undefined when nothing. @param ofGuests whether what guests wrote counts */
  losesBytes(path: string, ofGuests: boolean): string | undefined;
  /** The same of its name. */
  losesName(path: string): string | undefined;
}

export function createMedium(top: string): Medium {
  /** files that were written since they were synced, and who has */
  const contents = new Map<number, 'host' | 'guest'>();
  /** inodes that were seen before */
  const known = new Set<number>();
  /** names that are not safe, by directory */
  const names = new Map<number, Set<string>>();

  const inodeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.ino;
  /** it and the directories that lead to it */
  function* lineage(path: string) {
    for (let at = path; at.startsWith(`${top}/`); at = dirname(at)) yield at;
  }
  const isUnsafe = (path: string) =>
    names.get(inodeOf(dirname(path)) ?? 0)?.has(relative(dirname(path), path)) === true;

  const medium: Medium = {
    wrote(path, by = 'host') {
      const inode = inodeOf(path);
      if (inode === undefined || !path.startsWith(`${top}/`)) return;
      if (!known.has(inode)) medium.named(path);
      if (by === 'host' || !contents.has(inode)) contents.set(inode, by);
    },
    named(path) {
      const [inode, directory] = [inodeOf(path), inodeOf(dirname(path))];
      if (inode === undefined || directory === undefined || !path.startsWith(`${top}/`)) return;
      known.add(inode);
      const unsafe = names.get(directory) ?? new Set();
      names.set(directory, unsafe.add(relative(dirname(path), path)));
    },
    synced(fd) {
      const path = readlinkSync(`/proc/self/fd/${fd}`);
      const { ino } = fstatSync(fd);
      contents.delete(ino);
      names.delete(ino);
      for (const at of lineage(path)) names.get(inodeOf(dirname(at)) ?? 0)?.delete(relative(dirname(at), at));
    },
    losesBytes(path, ofGuests) {
      const inode = inodeOf(path);
      if (inode === undefined) return 'it is not there';
      const by = contents.get(inode);
      return by === 'host' || (by === 'guest' && ofGuests) ? `what its ${by} wrote was not synced` : undefined;
    },
    losesName(path) {
      const unsafe = [...lineage(path)].find(isUnsafe);
      return unsafe && `the name ${relative(top, unsafe)} was not synced`;
    },
  };
  return medium;
}
