/** Layers of an OCI image become a root file system, and the list of its packages beside it. */
import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type FileNode, piecesOf } from '../../core/file-tree.ts';
import { formatPackageList, type InstalledPackage, parseApkInstalled, parseDpkgStatus } from '../../core/packages.ts';
import { BangerError } from '../../errors.ts';
import { copyData, type FlattenOptions, mergeLayers } from '../../oci/flatten.ts';
import type { LayerBlob } from '../../oci/layer-stream.ts';
import { lookUp } from '../../oci/merge.ts';
import { checkExt4 } from '../../storage/ext4.ts';
import { Ext4Writer, mke2fsOptions, sizeOfTree } from '../../storage/ext4-writer.ts';
import { formatSize, MIB } from '../../units.ts';
import { countBytes } from '../bundles/support.ts';
import { diskRunner } from '../handover.ts';
import type { Progress } from '../operations.ts';
import { PACKAGES_MEMBER } from './archive.ts';
import type { ImportHost } from './sources.ts';

interface FlattenWork {
  host: ImportHost;
  progress: Progress;
  signal: AbortSignal;
}

interface FlattenRequest {
  /** bytes that may be written, which all layers together must not exceed without their compression */
  limitBytes: number;
  /** size of the file system in `bytes`; what fits without */
  diskBytes?: number;
}

/** Entries of all layers; the tree of as many is in memory at once. */
const MAX_ENTRIES = 2_000_000;
const MKE2FS_TIMEOUT_MS = 120_000;
/** Of a package manager's database. */
const MAX_DATABASE_BYTES = 64 * MIB;

/**
 * @returns path of the list of packages; undefined when nothing in the image says which there are
 * @throws BangerError `corrupt` for layers that are damaged or hold what can have no place, `host_unprepared` when there is no room
 */
export async function flattenInto(
  work: FlattenWork,
  layers: readonly LayerBlob[],
  rootfs: string,
  request: FlattenRequest,
): Promise<string | undefined> {
  const { host, progress, signal } = work;
  const total = layers.reduce((bytes, { size }) => bytes + size, 0);
  const options = (label: string): FlattenOptions => ({
    signal,
    onBytes: countBytes(progress, label, total),
    limits: { entries: MAX_ENTRIES, bytes: request.limitBytes },
  });
  progress.step('verify', 'reading the layers');
  const root = await mergeLayers(layers, options('reading the layers'));
  const { bytes, inodes } = sizeOfTree(root);
  const sizeBytes = Math.max(bytes, request.diskBytes ?? 0);
  if (request.diskBytes !== undefined && request.diskBytes < bytes) {
    throw new BangerError('invalid_input', `A disk of ${formatSize(request.diskBytes)} is too small for the image.`, {
      hint: `It takes at least --disk ${Math.ceil(bytes / MIB)}M`,
    });
  }
  progress.step('write', 'writing the root file system');
  await using file = await open(rootfs, 'wx', 0o600);
  await file.truncate(sizeBytes);
  const runner = diskRunner(host);
  const { programs } = host.config;
  await runner.run([programs.mke2fs, ...mke2fsOptions(inodes, rootfs)], { timeoutMs: MKE2FS_TIMEOUT_MS, signal });
  const databases = packageDatabases(root);
  {
    await using writer = await Ext4Writer.open(rootfs, root);
    const sink = (node: FileNode, offset: number, chunk: Buffer) => {
      databases.get(node)?.push(Buffer.from(chunk));
      return writer.write(node, offset, chunk);
    };
    await copyData(layers, root, sink, options('writing the root file system'));
    await writer.finish();
  }
  progress.step('check', 'checking the file system');
  await checkExt4(runner, programs, rootfs, signal);
  return await writePackages(work, rootfs, root, databases);
}

/** Files by which package managers know what is installed, as far as they are small enough; with room for what is in them. */
function packageDatabases(root: FileNode): Map<FileNode, Buffer[]> {
  const nodes = [
    ...['/var/lib/dpkg/status', '/lib/apk/db/installed', '/usr/lib/apk/db/installed'].map((path) => lookUp(root, path)),
    // images without dpkg itself have a file for each package
    ...(lookUp(root, '/var/lib/dpkg/status.d')?.children?.values() ?? []),
  ];
  const found = new Map<FileNode, Buffer[]>();
  for (const node of nodes) if (node?.kind === 'file' && node.size <= MAX_DATABASE_BYTES) found.set(node, []);
  return found;
}

async function writePackages(
  { progress }: FlattenWork,
  rootfs: string,
  root: FileNode,
  databases: ReadonlyMap<FileNode, readonly Buffer[]>,
): Promise<string | undefined> {
  const apk = ['/lib/apk/db/installed', '/usr/lib/apk/db/installed'].map((path) => lookUp(root, path));
  const packages = new Map<string, InstalledPackage>();
  for (const [node, chunks] of databases) {
    if (piecesOf(node).length > 1) continue;
    const text = Buffer.concat(chunks).toString('utf8');
    const found = apk.includes(node) ? parseApkInstalled(text) : parseDpkgStatus(text, { all: !isStatus(root, node) });
    for (const one of found) packages.set(`${one.name} ${one.arch} ${one.version}`, one);
  }
  if (packages.size === 0) {
    progress.warn('There is no list of packages: the image has neither a database of dpkg nor one of apk.');
    return undefined;
  }
  const path = join(rootfs, '..', PACKAGES_MEMBER);
  await writeFile(path, formatPackageList([...packages.values()]), { mode: 0o600 });
  return path;
}

function isStatus(root: FileNode, node: FileNode): boolean {
  return lookUp(root, '/var/lib/dpkg/status') === node;
}
