/** Layers of an OCI image become a root file system, and the list of its packages beside it. */
import { open } from 'node:fs/promises';
import { getHeapStatistics } from 'node:v8';
import { type FileNode, piecesOf } from '../../core/file-tree.ts';
import { BangerError } from '../../errors.ts';
import { DATABASE_PLACES } from '../../image/package-databases.ts';
import { copyData, type FlattenOptions, mergeLayers } from '../../oci/flatten.ts';
import type { LayerBlob } from '../../oci/layer-stream.ts';
import { lookUp } from '../../oci/merge.ts';
import { treeLimits } from '../../oci/tree-limits.ts';
import { checkExt4 } from '../../storage/ext4.ts';
import { Ext4Writer, mke2fsOptions, sizeOfTree } from '../../storage/ext4-writer.ts';
import { formatSize, MIB } from '../../units.ts';
import { countBytes } from '../bundles/support.ts';
import { diskRunner } from '../handover.ts';
import type { Progress } from '../operations.ts';
import { writePackageList } from './package-list.ts';
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

const MKE2FS_TIMEOUT_MS = 120_000;
/** Of one package manager's database, and of all that are held at once. */
const MAX_DATABASE_BYTES = 64 * MIB;
const MAX_DATABASES_BYTES = 128 * MIB;

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
    limits: { ...treeLimits(getHeapStatistics().heap_size_limit), bytes: request.limitBytes },
  });
  progress.step('verify', 'reading the layers');
  const root = await mergeLayers(layers, options('reading the layers'));
  const { bytes, inodes } = await sizeOfTree(root);
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
  const databases = packageDatabases(root, progress);
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
function packageDatabases(root: FileNode, progress: Progress): Map<FileNode, Buffer[]> {
  const { files, directories, directoriesOfDescriptions } = DATABASE_PLACES;
  const below = (path: string) => [...(lookUp(root, path)?.children?.values() ?? [])];
  const nodes = [
    ...files.map((path) => lookUp(root, path)),
    ...directories.flatMap(below),
    ...directoriesOfDescriptions.flatMap((path) => below(path).map((each) => each.children?.get('desc'))),
  ];
  const found = new Map<FileNode, Buffer[]>();
  let bytes = 0;
  for (const node of nodes) {
    if (node?.kind !== 'file' || node.size > MAX_DATABASE_BYTES || found.has(node)) continue;
    bytes += node.size;
    if (bytes > MAX_DATABASES_BYTES) {
      const limit = formatSize(MAX_DATABASES_BYTES);
      progress.warn(`The list of packages is incomplete: the databases of the image have more than ${limit} together.`);
      break;
    }
    found.set(node, []);
  }
  return found;
}

async function writePackages(
  { progress }: FlattenWork,
  rootfs: string,
  root: FileNode,
  databases: ReadonlyMap<FileNode, readonly Buffer[]>,
): Promise<string | undefined> {
  const read = async (path: string) => {
    const node = lookUp(root, path);
    const chunks = node && databases.get(node);
    return chunks && piecesOf(node).length <= 1 ? Buffer.concat(chunks) : undefined;
  };
  const list = async (path: string) => [...(lookUp(root, path)?.children?.keys() ?? [])];
  return await writePackageList(progress, rootfs, { read, list });
}
