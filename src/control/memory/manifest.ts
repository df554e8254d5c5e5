/**
 * What lies beside a guest's memory: what it goes on with, and what its files and disks were at that moment. Whether a
 * disk was written since is told by its inode, size and times: memory that is older than its disk is never used.
 */
import { readFile, stat } from 'node:fs/promises';
import type { Fit } from '../../core/fit.ts';
import { BangerError, systemCode } from '../../errors.ts';
import type { MemoryFiles } from '../../storage/layout.ts';
import { writeFileAtomic } from '../../system/files.ts';

/** A file at one moment: one that was written, replaced or given other rights since is told apart. */
export interface FileIdentity {
  inode: string;
  /** bytes */
  size: string;
  /** nanoseconds since 1970 */
  modified: string;
  /** the same of its last change of any kind, which nobody can set */
  changed: string;
}

/** Whatever it was renamed to, which counts as a change. */
export type FileContent = Omit<FileIdentity, 'changed'>;

/** Files by what people call them, e.g. `root disk`. */
export type Identities = Readonly<Record<string, FileIdentity>>;

/** Who tells a guest that it goes on: its agent, which holds its programs until then, or SSH. */
export type Waker = 'agent' | 'ssh';

export interface Manifest {
  format: 1;
  /** the record of its VM has the same */
  id: string;
  /** ISO 8601, when the guest was held */
  at: string;
  /** address that the guest has */
  address: string;
  fit: Fit;
  waker: Waker;
  /** whether a guest may have gone on from it before */
  again?: true;
  /** what the VMM that wrote the state calls itself; no other version reads it */
  vmmVersion: string;
  disks: Identities;
  memory: FileIdentity;
  state: FileIdentity;
}

/** @throws the system's error when there is none */
export async function identityOf(path: string): Promise<FileIdentity> {
  const { ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
  return { inode: `${ino}`, size: `${size}`, modified: `${mtimeNs}`, changed: `${ctimeNs}` };
}

/** Of files that are moved afterwards. */
export async function contentsOf(paths: readonly string[]): Promise<FileContent[]> {
  return await Promise.all(
    paths.map(async (path) => {
      const { inode, size, modified } = await identityOf(path);
      return { inode, size, modified };
    }),
  );
}

/** @param paths by what people call them */
export async function identitiesOf(paths: Readonly<Record<string, string>>): Promise<Identities> {
  const entries = Object.entries(paths).map(async ([name, path]) => [name, await identityOf(path)] as const);
  return Object.fromEntries(await Promise.all(entries));
}

/**
 * Names of what is no longer as it was; empty when nothing has changed.
 * @param paths by the names that `then` has
 * @throws the system's error when it cannot be told
 */
export async function changedSince(then: Identities, paths: Readonly<Record<string, string>>): Promise<string[]> {
  const names = new Set([...Object.keys(then), ...Object.keys(paths)]);
  const changed = await Promise.all(
    [...names].map(async (name) => {
      const [before, path] = [then[name], paths[name]];
      const now = path === undefined ? undefined : await identityOf(path).catch(isGone);
      return before && now && sameIdentity(before, now) ? [] : [name];
    }),
  );
  return changed.flat();
}

function isGone(error: unknown): undefined {
  if (systemCode(error) !== 'ENOENT') throw error;
}

function sameIdentity(a: FileIdentity, b: FileIdentity): boolean {
  return a.inode === b.inode && a.size === b.size && a.modified === b.modified && a.changed === b.changed;
}

export async function writeManifest({ manifest: path }: MemoryFiles, manifest: Manifest): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(manifest, null, 2)}\n`, 0o600);
}

/**
 * @param id what the VM's record says
 * @throws BangerError `corrupt` when there is none, or that of another memory
 */
export async function readManifest({ manifest: path, directory }: MemoryFiles, id: string): Promise<Manifest> {
  try {
    const manifest = JSON.parse(await readFile(path, 'utf8')) as Partial<Manifest>;
    if (manifest.format === 1 && manifest.id === id) return manifest as Manifest;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') {
      throw new BangerError('corrupt', `The memory in ${directory} is gone, or without its manifest.`, {
        cause: error,
      });
    }
    if (!(error instanceof SyntaxError)) throw error;
  }
  throw new BangerError(
    'corrupt',
    `The memory in ${directory} is not the one that was saved: its manifest is another.`,
  );
}
