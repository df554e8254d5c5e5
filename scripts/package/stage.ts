/** Puts what an installed banger consists of into a directory, and takes it away again. */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { Entry } from './content.ts';

/**
 * Writes every entry below `root`. Each is written beside its place and renamed by being unlinked first, so that a program that
 * runs keeps its file.
 * @param date time of files and directories that are made; without it the present
 */
export function stage(root: string, entries: readonly Entry[], date?: Date): void {
  for (const entry of entries) {
    const path = join(root, entry.path);
    makeDirectory(dirname(path));
    rmSync(path, { force: true });
    switch (entry.kind) {
      case 'file':
        writeFileSync(path, entry.content);
        chmodSync(path, entry.mode);
        break;
      case 'copy':
        copyFileSync(entry.from, path);
        chmodSync(path, entry.mode);
        break;
      case 'hardlink':
        // a link of any kind does where the file system has none of these
        try {
          linkSync(join(root, entry.to), path);
        } catch {
          symlinkSync(entry.to, path);
        }
        break;
      case 'symlink':
        symlinkSync(entry.to, path);
        break;
    }
    if (date && (entry.kind === 'file' || entry.kind === 'copy')) utimesSync(path, date, date);
  }
}

/** Removes every entry, and directories of banger's own that are empty then. */
export function unstage(root: string, entries: readonly Entry[]): void {
  for (const { path } of entries) rmSync(join(root, path), { force: true });
  for (const directory of new Set(entries.map(({ path }) => dirname(path)))) {
    if (!directory.endsWith('/banger')) continue;
    const path = join(root, directory);
    try {
      if (existsSync(path)) rmdirSync(path);
    } catch {
      // somebody keeps something there
    }
  }
}

/** For everybody to read, whatever the umask. */
function makeDirectory(path: string): void {
  if (existsSync(path)) return;
  makeDirectory(dirname(path));
  mkdirSync(path);
  chmodSync(path, 0o755);
}
